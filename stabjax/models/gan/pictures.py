"""Pictures of real events against generated ones: a few side by side, and spectra."""

import dataclasses
from collections.abc import Callable

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from stabjax.models.drawing import (
    INK,
    MUTED,
    RULE,
    SERIES,
    SETTINGS,
    standalone_svg,
)
from stabjax.models.gan.events import Events, Schema, counts, inside, nonempty
from stabjax.models.gan.jet_metrics import jet_mass, jet_momentum

__all__ = ["event_pictures"]

REAL, GENERATED = SERIES[0], SERIES[1]
SHOWN = 4  # events side by side
BINS = 30
LARGEST = 110.0  # area of the marker of the most energetic particle [points^2]

Measure = Callable[[Events], np.ndarray]  # a value of every particle or event


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """One quantity of real and of generated events, ready to be drawn.

    Attributes:
        title: What it is, with its unit.
        real: Its values in real events.
        generated: Its values in generated events.
        logarithmic: Whether the share is shown on a log scale.
        whole: Whether it takes whole numbers only.
    """

    title: str
    real: Float[np.ndarray, " n"]
    generated: Float[np.ndarray, " m"]
    logarithmic: bool = False
    whole: bool = False


def event_pictures(real: Events, generated: Events, schema: Schema) -> dict[str, str]:
    """Draw real events and generated ones.

    ``events.svg`` shows a few events of either in the plane across the axis, the area
    of a dot growing with the energy, in pairs: best when ``generated`` was made for
    the conditions of ``real``, row by row. ``spectra.svg`` shows how energy, radius
    and count (of jets, also mass and transverse momentum) are distributed. Values
    beyond the axis are counted in its last bin.

    Args:
        real: Real events; at least one, with a particle.
        generated: Generated events, of any number and quality: empty events and
            values that are not finite are said to be so.
        schema: What the columns mean.

    Returns:
        File name to the text of an SVG file, for a task's ``artifacts``.

    Raises:
        ValueError: If ``real`` has no particle.
    """
    if not np.any(real.mask):
        raise ValueError("event_pictures: real must hold at least one particle.")
    with matplotlib.rc_context(SETTINGS):
        return {
            "events.svg": _draw_events(real, generated, schema),
            "spectra.svg": _draw_spectra(real, generated, schema),
        }


def _draw_events(real: Events, generated: Events, schema: Schema) -> str:
    rows = _typical(real, min(SHOWN, len(real.mask)))
    figure = Figure(figsize=(5.6, 3.3))
    grid = figure.subplots(2, SHOWN, squeeze=False)
    figure.subplots_adjust(0.06, 0.09, 0.99, 0.93, 0.12, 0.2)
    reach = _reach(real, rows, schema)
    for axes in grid.flat:
        axes.set_axis_off()
    for column, row in enumerate(rows):
        _draw_event(grid[0, column], real, row, schema, reach, REAL)
        if row < len(generated.mask):
            _draw_event(grid[1, column], generated, row, schema, reach, GENERATED)
    for height, name, color in ((0.725, "real", REAL), (0.295, "generated", GENERATED)):
        figure.text(0.025, height, name, color=color, rotation=90, va="center",
                    ha="center")  # fmt: skip
    first, second = (_label(schema, name) for name in schema.plane)
    figure.text(
        0.525, 0.03, f"{first} across, {second} up, both within ±{reach:.2g}",
        color=MUTED, ha="center", fontsize=9,
    )  # fmt: skip
    return standalone_svg(
        figure, f"{len(rows)} real events above, generated ones below: {schema.title}"
    )


def _draw_event(
    axes: Axes, events: Events, row: int, schema: Schema, reach: float, color: str
) -> None:
    axes.set_axis_on()
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal",
             xticks=[], yticks=[], facecolor="none")  # fmt: skip
    for spine in axes.spines.values():
        spine.set_color(RULE)
    particles = np.asarray(events.particles)[row][np.asarray(events.mask)[row]]
    axes.axhline(0.0, color=RULE, linewidth=0.6, zorder=0)
    axes.axvline(0.0, color=RULE, linewidth=0.6, zorder=0)
    finite = np.isfinite(particles).all(axis=1)
    noun = "particle" if len(particles) == 1 else "particles"
    title = f"{len(particles)} {noun}" if len(particles) else "empty"
    axes.set_title(title, fontsize=9, color=MUTED, pad=4)
    if not finite.all():
        axes.text(0.5, 0.5, f"{int((~finite).sum())} not finite", color=MUTED,
                  ha="center", fontsize=9, transform=axes.transAxes)  # fmt: skip
    shown = particles[finite]
    x, y = (shown[:, schema.features.index(name)] for name in schema.plane)
    near = np.maximum(np.abs(x), np.abs(y)) <= reach
    x, y, shown = x[near], y[near], shown[near]
    axes.scatter(x, y, s=_areas(shown, schema), color=color, alpha=0.55, linewidths=0)


def _areas(
    particles: Float[np.ndarray, "n features"], schema: Schema
) -> Float[np.ndarray, " n"]:
    """Return marker areas: linear in pt, or in the decades of a log10 energy."""
    column = particles[:, schema.features.index(schema.energy)].astype(np.float64)
    if not schema.energy_is_log10:
        return 4.0 + 4.0 * LARGEST * np.clip(column, 0.0, 1.0)
    # Ten GeV are a point, a PeV the largest dot.
    return 4.0 + LARGEST * np.clip((column + 5.0) / 5.0, 0.0, 1.0) ** 2


def _typical(events: Events, number: int) -> list[int]:
    """Return events of few to many particles, in the order of their counts."""
    order = np.argsort(counts(events), kind="stable")
    places = (np.arange(number) + 0.5) / number
    return [int(order[int(place * len(order))]) for place in places]


def _reach(real: Events, rows: list[int], schema: Schema) -> float:
    """Return the half width of the window: nearly all of the real particles shown."""
    mask = np.asarray(real.mask)[rows]
    shown = np.asarray(real.particles)[rows][mask]
    radii = schema.radii(shown if len(shown) else inside(real))
    return float(np.quantile(radii, 0.97)) * 1.15 or 1.0


def _draw_spectra(real: Events, generated: Events, schema: Schema) -> str:
    spectra = _spectra(real, generated, schema)
    lines = -(-len(spectra) // 2)
    figure = Figure(figsize=(5.6, 0.5 + 1.75 * lines))
    grid = figure.subplots(lines, 2, squeeze=False).flatten()
    height = 0.5 + 1.75 * lines
    figure.subplots_adjust(0.09, 0.5 / height, 0.98, 1 - 0.5 / height, 0.2, 0.6)
    for axes, spectrum in zip(grid, spectra, strict=False):
        _draw_spectrum(axes, spectrum)
    for axes in grid[len(spectra) :]:
        axes.set_axis_off()
    place = 1 - 0.15 / height
    figure.text(0.09, place, "real", color=REAL, va="center")
    figure.text(0.17, place, "generated", color=GENERATED, va="center")
    figure.text(0.98, place, "share of all per bin", color=MUTED, va="center",
                ha="right", fontsize=9)  # fmt: skip
    names = ", ".join(spectrum.title for spectrum in spectra)
    return standalone_svg(figure, f"spectra of real and generated events: {names}")


def _spectra(real: Events, generated: Events, schema: Schema) -> list[Spectrum]:
    """Return what is compared, particles first, then events."""

    def spectrum(title: str, measure: Measure, **settings: bool) -> Spectrum:
        return Spectrum(title, measure(real), measure(generated), **settings)

    def feature(name: str, **settings: bool) -> Spectrum:
        column = schema.features.index(name)
        return spectrum(
            _label(schema, name), lambda events: inside(events)[:, column], **settings
        )

    found = [
        feature(schema.energy, logarithmic=True),
        spectrum(
            f"log10 of {schema.radius}",
            lambda events: schema.log10_radii(inside(events)),
        ),
        spectrum(
            "particles per event",
            lambda events: counts(events).astype(np.float64),
            whole=True,
        ),
    ]
    if schema.jets:
        return [
            *found,
            feature(schema.plane[0]),
            spectrum("mass / pt of the jet", jet_mass),
            spectrum("pt of the constituents / pt", jet_momentum),
        ]
    total = spectrum(
        "log10 of summed energy",
        lambda events: schema.log10_energy_sums(nonempty(events)),
    )
    return [*found, total]


def _draw_spectrum(axes: Axes, spectrum: Spectrum) -> None:
    edges = _edges(spectrum)
    # A log scale ends at half of one particle: an empty bin lies on its floor.
    largest = max(len(spectrum.real), len(spectrum.generated))
    floor = 0.5 / largest if spectrum.logarithmic else 0.0
    for values, color, dashes in (
        (spectrum.real, REAL, "-"),
        (spectrum.generated, GENERATED, (0, (5, 1.5))),
    ):
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        share, _ = np.histogram(np.clip(finite, edges[0], edges[-1]), edges)
        share = np.maximum(share / len(values), floor)
        axes.stairs(share, edges, baseline=None, color=color, linewidth=1.4,
                    linestyle=dashes)  # fmt: skip
        if color == REAL:
            axes.stairs(share, edges, baseline=floor, color=color, alpha=0.14,
                        fill=True)  # fmt: skip
    _dress(axes, spectrum)
    axes.set_ylim(bottom=floor)
    missing = int((~np.isfinite(spectrum.generated)).sum())
    if missing or not len(spectrum.generated):
        words = f"{missing} not finite" if missing else "nothing generated"
        axes.text(1.0, 1.03, words, color=GENERATED, ha="right", va="bottom",
                  fontsize=9, transform=axes.transAxes)  # fmt: skip


def _dress(axes: Axes, spectrum: Spectrum) -> None:
    """Leave of the frame only what is needed to read a value off."""
    if spectrum.logarithmic:
        axes.set_yscale("log")
    axes.set_facecolor("none")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=8.5, pad=4)
    axes.set_xlabel(spectrum.title, color=INK, fontsize=9, labelpad=3)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=spectrum.whole))
    axes.yaxis.set_minor_locator(NullLocator())
    if not spectrum.logarithmic:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _edges(spectrum: Spectrum) -> Float[np.ndarray, " edges"]:
    """Return bins over the real values, and a little beyond."""
    low, high = spectrum.real.min(), spectrum.real.max()
    if spectrum.whole:
        step = max(1, int(high - low) // BINS + 1)
        return np.arange(min(low, 0.0) - 0.5, high + step + 0.5, step)
    low, high = np.quantile(spectrum.real, [0.001, 0.999])
    room = 0.15 * (high - low) or 0.5
    return np.linspace(low - room, high + room, BINS + 1)


def _label(schema: Schema, name: str) -> str:
    """Return a feature with its unit, as far as the unit does not say it all."""
    unit = schema.feature_units[schema.features.index(name)]
    if unit.startswith("log10"):
        return unit
    words = name.replace("_", " ")
    return f"{words} [{unit}]" if unit else words
