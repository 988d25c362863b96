"""What the figures of a comparison say about the MCMC loss, by rule."""

import math
from collections.abc import Mapping

from stabjax.models.ctm.fenchel_young import LOWER_BOUND

__all__ = ["reading"]


def reading(cells: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Read each arm's loss against the floor that theory gives it.

    Args:
        cells: Arm name to title of `SUMMARY` to the median, min and max of its cell,
            NaN where there is no figure.

    Returns:
        Sentences with the figures they follow from.
    """
    sentences = []
    for arm, row in cells.items():
        lowest = row["MCMC loss, lowest"]["min"]
        outside = row["target outside hull"]["max"]
        dead = row["steps with a dead MCMC head"]["max"]
        if not math.isfinite(lowest + outside):
            continue
        if outside > 0.0:
            sentences.append(
                f"{arm}: the target lies up to {outside:.2g} outside the hull of what "
                f"the sampler can produce, so the MCMC loss has no floor; it reached "
                f"{lowest:.3g}."
            )
        else:
            kept = "stayed above" if lowest >= LOWER_BOUND else "fell below"
            sentences.append(
                f"{arm}: the MCMC loss {kept} its floor of {LOWER_BOUND:.3f} nats per "
                f"cell; lowest {lowest:.3g}."
            )
        if dead:
            sentences.append(
                f"{arm}: on up to {dead:.0f} steps the gradient in the MCMC head was "
                f"exactly zero: the loss was switched off, not cured."
            )
    return sentences
