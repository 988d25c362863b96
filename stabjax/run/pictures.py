"""Pictures of a run as inline SVG that takes its colors from the page's style sheet."""

import dataclasses
import itertools
import math
import re

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from stabjax.models.drawing import (
    DASHES,
    MUTED,
    RULE,
    SERIES,
    SETTINGS,
    raw_svg,
    themed,
)
from stabjax.run.page_records import Column
from stabjax.run.page_ticks import log_ticks, symlog_ticks, tick_text

ROUND = [1, 2, 2.5, 5, 10]  # what a step between two ticks may begin with
LARGEST = 1e100  # drawn at most this large: float32 telemetry ends at 3.4e38
BUCKETS = 200  # points per line: finer than the panel's pixels can show


@dataclasses.dataclass(frozen=True)
class Envelope:
    """A curve thinned to buckets of steps, without losing its extremes.

    Attributes:
        steps: First step of each bucket that logged anything.
        middle: Median of the bucket's finite values; NaN if it has none.
        low: Smallest finite value of the bucket; NaN if it has none.
        high: Largest finite value of the bucket; NaN if it has none.
        non_finite: Non-finite values in the bucket.
    """

    steps: Int[np.ndarray, " n"]
    middle: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    non_finite: Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a panel: a name, a color slot, and a column per random seed."""

    name: str
    slot: int
    columns: list[Column]


def envelope(columns: list[Column], *, buckets: int = BUCKETS) -> Envelope:
    """Thin columns, pooled over random seeds, to at most ``buckets`` points.

    Each bucket of consecutive steps keeps the median, the minimum and the maximum of
    its finite values, so the smallest and the largest value of the whole always stay.

    Args:
        columns: The same column of one or more runs.
        buckets: Largest number of points; at least 1.

    Returns:
        The thinned curve.

    Raises:
        ValueError: If ``buckets`` is less than 1.
    """
    if buckets < 1:
        raise ValueError(f"envelope: buckets must be at least 1, got {buckets}.")
    steps = np.concatenate([np.zeros(0, np.int64), *(c.steps for c in columns)])
    values = np.concatenate([np.zeros(0), *(c.values for c in columns)])
    if not len(steps):
        return Envelope(steps, values, values, values, steps)
    first = int(steps.min())
    width = -(-(int(steps.max()) - first + 1) // buckets)
    order = np.argsort((steps - first) // width, kind="stable")
    at, values = ((steps - first) // width)[order], values[order]
    used, starts = np.unique(at, return_index=True)
    parts = np.split(values, starts[1:])
    finite = [part[np.isfinite(part)] for part in parts]
    return Envelope(
        steps=first + used * width,
        middle=np.asarray(
            [np.median(part) if len(part) else np.nan for part in finite]
        ),
        low=np.asarray([part.min() if len(part) else np.nan for part in finite]),
        high=np.asarray([part.max() if len(part) else np.nan for part in finite]),
        non_finite=np.asarray(
            [len(whole) - len(part) for whole, part in zip(parts, finite, strict=True)]
        ),
    )


def panel(curves: list[Curve], *, identity: str, last_step: int) -> tuple[str, str]:
    """Draw one panel: a line per curve, its band, and its non-finite steps.

    Args:
        curves: What to draw; a color slot per curve.
        identity: Prefix of the ids inside the SVG, unique on the page.
        last_step: Right end of the step axis, shared by the panels of a page.

    Returns:
        The SVG, without an outer description, and the name of the value scale.
    """
    thinned = [(curve, envelope(curve.columns)) for curve in curves]
    thinned = [(curve, _drawable(env)) for curve, env in thinned if len(env.steps)]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(5.6, 2.8))
        axes = figure.add_axes((0.125, 0.12, 0.84, 0.78))
        scale = _set_scale(axes, [env for _, env in thinned])
        for curve, env in thinned:
            _draw(axes, curve, env)
        _draw_rug(axes, thinned)
        axes.set_xlim(0, last_step + 1)
        _dress(axes, scale)
        if not any(np.isfinite(env.middle).any() for _, env in thinned):
            axes.text(0.5, 0.5, "no finite value", color=MUTED, ha="center",
                      transform=axes.transAxes)  # fmt: skip
        return to_inline_svg(figure, identity=identity), scale.split(":")[0]


def to_inline_svg(figure: Figure, *, identity: str) -> str:
    """Render a figure as an SVG element whose colors are the page's CSS variables."""
    svg = raw_svg(figure)
    svg = re.sub(r"<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<(g) id="[^"]*"', r"<\1", svg)
    svg = re.sub(r'<g/>|<g>\s*</g>| transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r'\s(xmlns|xmlns:xlink|version)="[^"]*"', "", svg)
    svg = re.sub(r'(<svg)[^>]*?(viewBox="[^"]*")[^>]*>', r"\1 \2>", svg, count=1)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font-family:[^;\"]*;?\s*", "", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{identity}-", svg)
    svg = re.sub(r"<[^>]*>", _rounded, svg)
    svg = re.sub(r"\s+\"", '"', re.sub(r"\s*\n\s*", "\n", svg))
    return themed(svg).strip()


def _rounded(tag: re.Match[str]) -> str:
    """Round the coordinates of one tag: a tenth of a point is finer than a pixel."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.1f}", tag[0])


def strip(share: Float[np.ndarray, " n"]) -> str:
    """Draw how often something happened, bucket by bucket, as a thin strip.

    Args:
        share: Share of the steps of each bucket, in [0, 1].

    Returns:
        An SVG that stretches to the width it is given; opacity is the share.
    """
    # A single step in a thousand must still be seen, so opacity starts at 0.35.
    tone = np.where(share > 0, np.ceil((0.35 + 0.65 * share) * 10) / 10, 0.0)
    edges = np.flatnonzero(np.diff(tone, prepend=-1.0, append=-1.0))
    bars = "".join(
        f'<rect x="{a}" width="{b - a}" height="1" opacity="{tone[a]:.1f}"/>'
        for a, b in itertools.pairwise(edges)
        if tone[a] > 0
    )
    return (
        f'<svg viewBox="0 0 {max(1, len(share))} 1" preserveAspectRatio="none" '
        f'aria-hidden="true">{bars}</svg>'
    )


def _drawable(env: Envelope) -> Envelope:
    low, middle, high = (
        np.clip(part, -LARGEST, LARGEST) for part in (env.low, env.middle, env.high)
    )
    return dataclasses.replace(env, low=low, middle=middle, high=high)


def _draw(axes: Axes, curve: Curve, env: Envelope) -> None:
    color = SERIES[curve.slot % len(SERIES)]
    dashes = DASHES[curve.slot % len(DASHES)]
    if (env.high > env.low).any():
        axes.fill_between(
            env.steps, env.low, env.high, color=color, alpha=0.16, linewidth=0
        )
    style = (0, dashes) if dashes else "-"
    axes.plot(env.steps, env.middle, color=color, linewidth=1.5, linestyle=style)
    here = np.isfinite(env.middle)
    around = np.pad(here, 1)
    alone = here & ~around[:-2] & ~around[2:]
    dots = here if here.sum() <= 12 else alone
    axes.plot(env.steps[dots], env.middle[dots], "o", color=color, markersize=3)


def _draw_rug(axes: Axes, thinned: list[tuple[Curve, Envelope]]) -> None:
    """Mark non-finite steps above the plot, one row per curve that has any."""
    rows = [(curve, env) for curve, env in thinned if env.non_finite.any()]
    for row, (curve, env) in enumerate(rows):
        bad = env.non_finite > 0
        width = float(np.median(np.diff(env.steps))) if len(env.steps) > 1 else 1.0
        edges = np.flatnonzero(np.diff(bad, prepend=False, append=False))
        starts, ends = env.steps[edges[::2]], env.steps[edges[1::2] - 1] + width
        axes.hlines(
            np.full(len(starts), 1.025 + 0.035 * row), starts, ends,
            color=SERIES[curve.slot % len(SERIES)], linewidth=3,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip


def _set_scale(axes: Axes, envelopes: list[Envelope]) -> str:
    """Choose linear, log or symlog from the spread of the values, with its ticks."""
    everything = [np.concatenate([env.low, env.high]) for env in envelopes]
    everything = [values[np.isfinite(values)] for values in everything]
    values = np.concatenate([np.zeros(0), *everything])
    if len(values) and np.ptp(values) <= 1e-6 * np.abs(values).max():
        middle, room = float(values[0]), 0.5 * abs(float(values[0])) or 1.0
        axes.set_ylim(middle - room, middle + room)
        return "linear"
    sizes = [np.abs(part[part != 0]) for part in everything if (part != 0).any()]
    if not sizes:
        return "linear"
    largest = max(float(part.max()) for part in sizes)
    # The size below which little happens: a tenth of some curve's steps lie there.
    typical = min(float(np.quantile(part, 0.1)) for part in sizes)
    if values.min() > 0:
        smallest = float(values.min())
        if largest / smallest <= 30:
            return "linear"
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(log_ticks(smallest, largest)))
        return "log"
    if largest / typical <= 100:
        return "linear"
    threshold = 10.0 ** math.floor(math.log10(typical))
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.6)
    low, high = float(values.min()), float(values.max())
    ticks = symlog_ticks(low, high, threshold)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    return f"symlog:{threshold}"


def _dress(axes: Axes, scale: str) -> None:
    """Leave of the frame only what is needed to read a value off."""
    axes.set_facecolor("none")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=9.5, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: tick_text(float(round(x))))
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: tick_text(float(y))))
    axes.yaxis.set_minor_locator(NullLocator())
    if scale == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
