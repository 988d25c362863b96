"""A scalar of the loss by its name."""

import difflib

from stabjax.types import Scalar, StepStats

LOSS = "loss"


def read(function: str, stats: StepStats, metric: str) -> Scalar:
    """Return the loss, a component, or a metric of the step.

    Args:
        function: Name of the guard.
        stats: The scalars of the step.
        metric: ``"loss"``, a component such as ``"raw/cross_entropy"``, or any
            other scalar that the loss reports. Behind `stabjax.transforms.guard`
            there is only the loss.

    Returns:
        Its value, float32; may be NaN.

    Raises:
        ValueError: If there is none of that name.
    """
    known = {LOSS: stats.loss} | stats.components | stats.metrics
    if metric not in known:
        near = difflib.get_close_matches(metric, sorted(known), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join([LOSS, *sorted(set(known) - {LOSS})])
        raise ValueError(
            f"{function}: metric must be one of {names}, got {metric!r}.{hint}"
        )
    return known[metric]
