"""A scalar of the loss by its name."""

import difflib

from stabjax.types import Scalar, StepStats

LOSS = "loss"


def read(function: str, stats: StepStats, metric: str) -> Scalar:
    """Return the loss, a component, or a metric of the step.

    Args:
        function: Name of the guard.
        stats: The scalars of the step.
        metric: ``"loss"``, which is the loss itself, a component such as
            ``"raw/cross_entropy"``, or any other scalar that the loss reports, by its
            name or as ``aux/<name>``. Behind `stabjax.transforms.guard` there is only
            the loss.

    Returns:
        Its value, float32; may be NaN.

    Raises:
        ValueError: If there is none of that name.
    """
    reported = stats.components | stats.metrics
    # A metric of the name of a telemetry column is logged under this one.
    renamed = {f"aux/{name}": value for name, value in stats.metrics.items()}
    if metric in renamed and metric not in reported:
        return renamed[metric]
    known = reported | {LOSS: stats.loss}
    if metric not in known:
        near = difflib.get_close_matches(metric, sorted(known), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join([LOSS, *sorted(set(known) - {LOSS})])
        raise ValueError(
            f"{function}: metric must be one of {names}, got {metric!r}.{hint}"
        )
    return known[metric]
