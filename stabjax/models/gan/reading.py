"""What the figures of a comparison say about the game, by rule."""

import math
from collections.abc import Mapping
from typing import Any

from stabjax.models.gan.critic import SENTINEL

__all__ = ["FLOORS", "reading"]

FLOORS = 5.0  # how many times the floor W1 of the particles may be


def reading(cells: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Say of each arm whether its generator was ever told anything, and what came out.

    Args:
        cells: Arm name to title of `SUMMARY` to cell, as in comparison.json.

    Returns:
        Sentences with the figures they follow from.
    """
    sentences = []
    for arm, row in cells.items():
        empty = _number(row["steps with every fake event empty"]["max"])
        dead = _number(row["generator's turns without gradient"]["max"])
        pooled = _number(row["smallest number pooled"]["min"])
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


def _quality(arm: str, row: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Read the generated events against what real ones reach."""
    worst = _number(row["W1 of particles over floor"]["max"])
    if not math.isfinite(worst):
        return [f"{arm}: no particle was generated that could be compared with data."]
    within = "within" if worst <= FLOORS else "beyond"
    return [
        f"{arm}: W1 of the particles is {worst:.3g} times that of real events against "
        f"real ones at worst, {within} {FLOORS:.0f} times."
    ]


def _number(value: Any) -> float:
    """Return a figure of a cell; what is not finite is written as text, or missing."""
    return math.nan if value is None else float(value)
