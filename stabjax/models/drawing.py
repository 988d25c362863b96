"""Colors and style of every picture: one that reads well on a light and a dark page.

Matplotlib draws with placeholder colors; afterwards each placeholder becomes a CSS
variable. A picture inside a page takes the variables from the page's style sheet; one
that stands alone brings them along.
"""

import html
import io
import re
from typing import Any

from matplotlib.figure import Figure

__all__ = [
    "DARK", "DASHES", "INK", "LIGHT", "MUTED", "RULE", "SERIES", "SETTINGS",
    "declarations", "raw_svg", "standalone_svg", "themed",
]  # fmt: skip

LIGHT = {
    "page": "#fcfcfa", "ink": "#1d1f21", "muted": "#63676c", "rule": "#e2e2dc",
    "bad": "#b3261e",
    "series-0": "#0b6bb3", "series-1": "#c2491d", "series-2": "#0b7a5a",
    "series-3": "#93489a", "series-4": "#96700a", "series-5": "#4a5560",
    "series-6": "#2b93c4", "series-7": "#bd3d74",
}  # fmt: skip
DARK = {
    "page": "#141618", "ink": "#e4e4e0", "muted": "#9a9ea4", "rule": "#2d3135",
    "bad": "#f2877d",
    "series-0": "#6cb2f2", "series-1": "#f28c58", "series-2": "#46c79c",
    "series-3": "#d197d6", "series-4": "#dfb244", "series-5": "#b3bdc7",
    "series-6": "#93d6fa", "series-7": "#f08fb8",
}  # fmt: skip

INK, MUTED, RULE = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0100{index:02x}" for index in range(8))
# Nearly solid, so that a noisy line stays a line; told apart without color too.
DASHES = (
    (),
    (7, 1.5),
    (3, 1.2),
    (9, 1.5, 1.5, 1.5),
    (5, 3),
    (1.5, 1),
    (12, 2),
    (4, 1, 1, 1),
)
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # real text: it takes the page's font, and can be found
    "svg.hashsalt": "stabjax",  # the same data give the same bytes
    "font.size": 10.0,
    "axes.unicode_minus": True,
    "path.simplify": False,
}
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    **{color: f"series-{slot}" for slot, color in enumerate(SERIES)},
}
_FONT = 'system-ui, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif'


def declarations(colors: dict[str, str]) -> str:
    """Return a palette as CSS declarations.

    Example:
        >>> declarations({"ink": "#000"})
        '--ink: #000;'
    """
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


def themed(svg: str) -> str:
    """Replace the placeholder colors of a picture by CSS variables."""
    for placeholder, name in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    return svg


def raw_svg(figure: Figure) -> str:
    """Render a figure, transparent and without metadata; the same bytes every time.

    Draw it, and call this, under ``matplotlib.rc_context(SETTINGS)``.
    """
    buffer = io.StringIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)


def standalone_svg(figure: Figure, title: str) -> str:
    """Return a figure as an SVG file of its own, for a task's ``artifacts``.

    It follows the light or dark setting of whoever looks at it, and its text is text.

    Args:
        figure: Drawn under ``matplotlib.rc_context(SETTINGS)``, in the colors `INK`,
            `MUTED`, `RULE` and `SERIES` of this module.
        title: What it shows, in words, for those who do not see it.

    Returns:
        The text of the file.

    Example:
        >>> svg = standalone_svg(Figure(figsize=(1, 1)), "an empty picture")
        >>> "<title>an empty picture</title>" in svg
        True
    """
    style = (
        f":root {{ color-scheme: light dark; {declarations(LIGHT)} }}\n"
        "@media (prefers-color-scheme: dark) { :root { "
        f"{declarations(DARK)} }} }}\n"
        f"text {{ font-family: {_FONT} !important; }}\n"
    )
    svg = re.sub(r"font-family:[^;\"]*;?\s*", "", themed(raw_svg(figure)))
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    head = f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n"
    start = svg.index(">") + 1
    return f"{svg[:start]}\n{head}{svg[start:].lstrip()}"
