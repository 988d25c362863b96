"""What the figures of a comparison say about the documented fixes, by rule."""

import math
from collections.abc import Mapping

__all__ = ["reading"]

_RATIO = 0.25  # the share the meta losses were promised to stay under
_ZERO = 1e-6  # an equivariance loss below this is rounding
_COLLAPSED = 0.1  # deviation of the clue count [clues]
_TITLES = (
    "non-finite batches",
    "largest logit",
    "meta share, highest",
    "equivariance loss, highest",
    "clue std, last 100",
)


def reading(cells: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Read each arm's figures against what its fixes promise.

    Args:
        cells: Arm name to title of `SUMMARY` to the median, min and max of its cell,
            NaN where there is no figure.

    Returns:
        Sentences with the figures they follow from.
    """
    sentences = []
    for arm, row in cells.items():
        lost, logit, share, equivariance, std = (row[t]["max"] for t in _TITLES)
        if lost > 0:
            told = f" with no logit above {logit:.3g}" if math.isfinite(logit) else ""
            sentences.append(
                f"{arm}: up to {lost:.0f} batches were not finite{told}: the select in "
                "the usual stablemax divides by zero at a logit of exactly one."
            )
        if share > _RATIO * (1.0 + 1e-5):
            sentences.append(
                f"{arm}: the meta losses took up to {share:.0%} of the total; the "
                f"limit was {_RATIO:.0%}."
            )
        if equivariance < _ZERO:
            sentences.append(
                f"{arm}: the equivariance loss is zero (at most {equivariance:.1g}) "
                "for any network: contexts are pooled over places, and turning does "
                "not change a mean."
            )
        if std < _COLLAPSED:
            sentences.append(
                f"{arm}: the number of clues hardly differs between queries "
                f"(deviation {std:.2g})."
            )
    return sentences
