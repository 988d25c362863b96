"""Refusals of options that no formula survives, raised while building."""

from stabjax.numerics._precision import TINY


def check_range(
    function: str,
    argument: str,
    value: float | int,
    *,
    low: float | int = TINY,
    high: float | int = 1e30,
) -> None:
    """Raise ValueError unless ``low <= value <= high``; NaN is refused.

    The default range keeps both ``value`` and ``1 / value`` normal in float32.
    """
    if not low <= value <= high:
        raise ValueError(
            f"{function}: {argument} must be in [{low:.3g}, {high:.3g}], got {value}."
        )


def check_order(function: str, low: float, high: float) -> None:
    """Raise ValueError unless ``low < high``; NaN is refused."""
    if not low < high:
        raise ValueError(f"{function}: low must be < high, got {low} and {high}.")
