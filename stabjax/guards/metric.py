"""A scalar of the loss by its name."""

import difflib

from stabjax.types import Scalar, StepStats

LOSS = "loss"
GRAD_NORM = "grad_norm"


def read(function: str, stats: StepStats, metric: str) -> Scalar:
    """Return the loss, a component, or a metric of the step.

    Args:
        function: Name of the guard.
        stats: The scalars of the step.
        metric: ``"loss"``, which is the loss itself, ``"grad_norm"``, the global norm
            of the gradient before any clipping, a component such as
            ``"raw/cross_entropy"``, or any other scalar that the loss reports, by its
            name or as ``aux/<name>``. Behind `stabjax.transforms.guard` there are only
            the first two.

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
    known = reported | {LOSS: stats.loss, GRAD_NORM: stats.grad_norm}
    if metric not in known:
        near = difflib.get_close_matches(metric, sorted(known), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        ours = [LOSS, GRAD_NORM]
        names = ", ".join([*ours, *sorted(set(known) - set(ours))])
        raise ValueError(
            f"{function}: metric must be one of {names}, got {metric!r}.{hint}"
        )
    return known[metric]
