"""Episodes as pictures: a strip of frames, and a film that needs no script."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from stabjax.models.drawing import MUTED, RULE, SETTINGS, standalone_svg
from stabjax.models.ppo.environment import Environment

__all__ = ["film", "strip"]

_STRIP = 6  # frames of the strip
_ABREAST = 3  # of them side by side: a page shows four strips in two columns
_FILM = 24  # frames of the film
_SECONDS = 4.8  # once through it


def strip(environment: Environment, states: Sequence[Any]) -> str:
    """Return frames at equal distances in time, the last state among them.

    Args:
        environment: With a ``draw``.
        states: The states of an episode, on the host.

    Returns:
        The text of an SVG file.
    """
    moments = _moments(len(states), _STRIP)
    with matplotlib.rc_context(SETTINGS):
        abreast = min(_ABREAST, len(moments))
        rows = math.ceil(len(moments) / abreast)
        figure = Figure(figsize=(2.0 * abreast, 1.75 * rows), layout="constrained")
        for place, moment in enumerate(moments):
            axes = figure.add_subplot(rows, abreast, place + 1)
            _draw(environment, axes, states[moment])
            axes.set_title(f"step {moment + 1}", color=MUTED, fontsize=9)
        return standalone_svg(figure, f"{environment.name}: {environment.caption}")


def film(environment: Environment, states: Sequence[Any]) -> str:
    """Return the episode as an SVG file that moves by style alone.

    Who asked for less motion sees the last frame.
    """
    moments = _moments(len(states), _FILM)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for frame, moment in enumerate(moments):
            before = set(axes.get_children())
            _draw(environment, axes, states[moment])
            for part, artist in enumerate(_new(axes, before)):
                artist.set_gid(f"frame{frame}-{part}")
        title = f"{environment.name}, moving: {environment.caption}"
        svg = standalone_svg(figure, title)
    return svg.replace("</style>", _motion(len(moments)) + "</style>", 1)


def _new(axes: Any, before: set[Any]) -> list[Any]:
    return [artist for artist in axes.get_children() if artist not in before]


def _motion(frames: int) -> str:
    """Return the style that shows one frame after the other, for ever."""
    share = 100.0 / frames
    rules = [
        f"@keyframes turn {{ 0% {{ visibility: visible }} "
        f"{share:.3f}%, 100% {{ visibility: hidden }} }}"
    ]
    still = []
    for frame in range(frames):
        start = _SECONDS * (frame / frames - 1.0)
        rules.append(
            f'[id^="frame{frame}-"] {{ visibility: hidden; '
            f"animation: turn {_SECONDS}s step-end {start:.3f}s infinite }}"
        )
        shown = "visible" if frame == frames - 1 else "hidden"
        still.append(
            f'[id^="frame{frame}-"] {{ animation: none; visibility: {shown} }}'
        )
    calm = "@media (prefers-reduced-motion: reduce) {\n" + "\n".join(still) + "\n}\n"
    return "\n".join(rules) + "\n" + calm


def _draw(environment: Environment, axes: Any, state: Any) -> None:
    assert environment.draw is not None
    environment.draw(axes, state)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)


def _moments(length: int, most: int) -> list[int]:
    """Return at most so many different moments, first and last among them."""
    spread = np.linspace(0, length - 1, min(most, length))
    return [round(moment) for moment in spread]
