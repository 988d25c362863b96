"""The one exception of configuration, and the wording its messages share."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says what to change."""


def nearest(name: object, choices: Iterable[str]) -> str:
    """Return the hint that follows an unknown name.

    Args:
        name: What was written.
        choices: The valid names.

    Returns:
        ``"; did you mean 'x'?"``, or the list of valid names if none is near.

    Example:
        >>> nearest("stpes", ["steps", "seed"])
        "; did you mean 'steps'?"
    """
    names = sorted(choices)
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(names)}." if names else "; there are none."


def show(value: object, limit: int = 60) -> str:
    """Return ``repr(value)`` cut to ``limit`` characters, for error messages."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def join(path: str, key: object) -> str:
    """Return the dotted path of ``key`` under ``path``."""
    return f"{path}.{key}" if path else str(key)
