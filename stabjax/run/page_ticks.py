"""Round numbers for an axis, and how they are written."""

import math

from stabjax.run.page_numbers import MINUS

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def log_ticks(low: float, high: float) -> list[float]:
    """Return at most six round ticks for a log axis from ``low`` to ``high`` (> 0)."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if math.log10(high / low) < 2.0:
        return [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
    stride = -(-(last - first) // 6)
    return [
        10.0**k
        for k in range(last - stride * ((last - first) // stride), last + 1, stride)
    ]


def symlog_ticks(low: float, high: float, threshold: float) -> list[float]:
    """Return zero and a few powers of ten on each side that has values."""
    base = round(math.log10(threshold))
    sides = [(-1.0, -low), (1.0, high)]
    used = [
        (sign, math.floor(math.log10(s) + 1e-9)) for sign, s in sides if s >= threshold
    ]
    decades = sum(top - base + 1 for _, top in used)
    stride = max(1, -(-decades // 6))
    ticks = [0.0]
    for sign, top in used:
        ticks += [
            sign * 10.0**k
            for k in range(top, base - 1, -stride)
            if k > base or decades < 6
        ]
    return sorted(ticks)


def tick_text(value: float) -> str:
    """Write a tick: plain where short, else as a power of ten.

    Example:
        >>> tick_text(1e6), tick_text(0.01), tick_text(2500.0)
        ('10⁶', '0.01', '2500')
    """
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if -4 <= exponent <= 4:
        return f"{value:.10g}".replace("-", MINUS)
    mantissa = value / 10.0**exponent
    power = "10" + str(exponent).translate(SUPERSCRIPTS)
    if abs(abs(mantissa) - 1) < 1e-9:
        return (MINUS if value < 0 else "") + power
    return f"{mantissa:.3g}·{power}".replace("-", MINUS)
