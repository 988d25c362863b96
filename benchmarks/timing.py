"""Time variants against each other: interleaved, in one process, as ratios.

Absolute times on a shared machine say little. Here every round runs each variant
once, in random order, and a ratio is taken within its round; reported are the median
of the ratios and their quartiles.
"""

import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Ratio(NamedTuple):
    """Time of a variant over that of the reference.

    Attributes:
        wall: Median ratio of wall-clock times.
        low: Lower quartile of the same.
        high: Upper quartile.
        cpu: Median ratio of the process's CPU times.
        milliseconds: Median wall-clock time of one call.
    """

    wall: float
    low: float
    high: float
    cpu: float
    milliseconds: float


def interleave(
    variants: dict[str, Callable[[], None]], reference: str, rounds: int
) -> dict[str, Ratio]:
    """Time the variants.

    Args:
        variants: Functions that run one call to its end. Each is called twice first.
        reference: Name of the variant that the ratios are against.
        rounds: How often each is timed.

    Returns:
        The ratios by name.
    """
    wall: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(2):
        for run in variants.values():
            run()
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        names = list(variants)
        shuffle(names)
        for name in names:
            start, start_cpu = time.perf_counter(), time.process_time()
            variants[name]()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    return {name: _ratio(wall, cpu, name, reference) for name in variants}


def _ratio(
    wall: dict[str, list[float]], cpu: dict[str, list[float]], name: str, base: str
) -> Ratio:
    ratios = [a / b for a, b in zip(wall[name], wall[base], strict=True)]
    cpu_ratios = [a / max(b, 1e-9) for a, b in zip(cpu[name], cpu[base], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    values = (statistics.median(ratios), low, high, statistics.median(cpu_ratios))
    return Ratio(
        *(round(v, 3) for v in values),
        milliseconds=round(1e3 * statistics.median(wall[name]), 3),
    )
