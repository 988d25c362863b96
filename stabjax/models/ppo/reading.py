"""What the figures of a comparison say about the critic, by rule."""

import math
from collections.abc import Mapping

__all__ = ["reading"]

_EXPLAINS = 0.1  # below this a critic knows next to nothing of its returns
_HEALTHY = 0.5  # the target of the original
_STARVED = 0.99  # share of the values in what the trunk is pulled by
_SAME = 1e-4  # a log ratio that is zero but for rounding

Figures = Mapping[str, Mapping[str, float]]


def reading(cells: Mapping[str, Figures]) -> list[str]:
    """Read each arm's critic, and the reward of all against ``before``.

    Args:
        cells: Arm name to title of `SUMMARY` to the median, min and max of its cell,
            NaN where there is no figure.

    Returns:
        Sentences with the figures they follow from.
    """
    sentences = []
    for arm, row in cells.items():
        sentences += _critic(arm, row) + _faults(arm, row)
    title = "episode reward, last 5"
    base = cells["before"][title]["median"] if "before" in cells else math.nan
    if not base > 0.0:  # or NaN
        return sentences
    for arm, row in cells.items():
        reward = row[title]["median"]
        if arm != "before" and math.isfinite(reward):
            sentences.append(
                f"{arm}: episode reward {reward:.4g}, {reward / base:.2f} times that "
                f"of before ({base:.4g})."
            )
    return sentences


def _critic(arm: str, row: Figures) -> list[str]:
    """Say what the critic explains, of the returns and of its own targets."""
    known = row["explained variance"]["median"]
    own = row["explained variance, own unit"]["median"]
    if math.isnan(known):
        return []
    if known >= _EXPLAINS:
        verdict = "meets" if known >= _HEALTHY else "misses"
        return [
            f"{arm}: the critic explains {known:.2f} of the returns, which {verdict} "
            f"the original's target of {_HEALTHY}."
        ]
    words = f"{arm}: the critic explains {known:.2f} of the returns it judges by"
    if own > known + _EXPLAINS:  # False for NaN
        words += (
            f", but {own:.2f} of its own targets: they are in another unit than "
            f"the rewards, so that a lower loss is cosmetic"
        )
    return [words + "."]


def _faults(arm: str, row: Figures) -> list[str]:
    """Say whether the policy is starved, and whether it is scored as it was drawn."""
    sentences = []
    share = row["share of values in the trunk"]["median"]
    if share > _STARVED:  # False for NaN
        sentences.append(
            f"{arm}: values make {share:.2%} of what the shared trunk is pulled by; "
            f"the policy is left {1.0 - share:.2%}."
        )
    ratio = row["first log ratio, largest"]["max"]
    if ratio > _SAME:
        sentences.append(
            f"{arm}: in the first minibatch, before anything has moved, the log ratio "
            f"was up to {ratio:.2g} instead of 0: actions are scored under another "
            f"density than they were drawn from."
        )
    return sentences
