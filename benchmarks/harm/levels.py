"""How serious an alert is."""

from collections.abc import Callable

from stabjax import health
from stabjax.types import Alert

_INFORMATION = Alert.CLIPPED | Alert.REBASED | Alert.PLATEAU


def level(name: str) -> str:
    """Return ``"information"``, ``"warning"`` or ``"error"`` for an alert's name."""
    alert = Alert[name.upper()]
    severity: Callable[[Alert], str] | None = getattr(health, "severity", None)
    if severity is not None:
        return str(severity(alert))
    return "information" if alert & _INFORMATION else "warning"
