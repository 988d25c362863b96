"""What the figures of a comparison say about the game, by rule."""

import math
from collections.abc import Mapping

from stabjax.models.gan.critic import SENTINEL

__all__ = ["FLOORS", "reading"]

FLOORS = 5.0  # how many times the floor W1 of the particles may be


def reading(cells: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Say of each arm whether its generator was ever told anything, and what came out.

    Args:
        cells: Arm name to title of `SUMMARY` to the median, min and max of its cell,
            NaN where there is no figure.

    Returns:
        Sentences with the figures they follow from.
    """
    sentences = []
    for arm, row in cells.items():
        empty = row["steps with every fake event empty"]["max"]
        dead = row["generator's turns without gradient"]["max"]
        pooled = row["smallest number pooled"]["min"]
        if empty > 0:
            sentinel = ""
            if pooled <= SENTINEL:
                sentinel = f", and the sentinel {pooled:.0e} went into its last layers"
            sentences.append(
                f"{arm}: in up to {empty:.0f} steps every fake event was empty, so the "
                f"critic compared data with nothing{sentinel}."
            )
        elif pooled <= SENTINEL:
            sentences.append(
                f"{arm}: some fake events were empty, and the sentinel {pooled:.0e} "
                "went into the critic's last layers for each."
            )
        if dead > 0:
            sentences.append(
                f"{arm}: in up to {dead:.0f} of its turns the generator's gradient was "
                f"exactly zero: it did not train."
            )
        sentences += _quality(arm, row)
    return sentences


def _quality(arm: str, row: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Read the generated events against what real ones reach."""
    worst = row["W1 of particles over floor"]["max"]
    if not math.isfinite(worst):
        return [f"{arm}: no particle was generated that could be compared with data."]
    within = "within" if worst <= FLOORS else "beyond"
    return [
        f"{arm}: W1 of the particles is {worst:.3g} times that of real events against "
        f"real ones at worst, {within} {FLOORS:.0f} times."
    ]
