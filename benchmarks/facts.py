"""What a figure depends on: versions and hardware."""

import platform
from importlib import metadata

import jax


def facts(*others: str) -> dict[str, str]:
    """Return versions and hardware.

    Args:
        others: Packages whose versions matter too, where they are installed.
    """
    found = {
        "jax": jax.__version__,
        "optax": metadata.version("optax"),
        "python": platform.python_version(),
        "hardware": f"{jax.devices()[0].device_kind}, {platform.machine()}",
    }
    for name in others:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
