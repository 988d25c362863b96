"""The command `stabjax cost`."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from stabjax.config.errors import ConfigError
from stabjax.cost.subject import find_subject


def report_cost(
    what: str | None,
    overrides: Sequence[str] = (),
    *,
    shapes: str | None = None,
    devices: int = 1,
    width: int = 100,
) -> str:
    """Return the table of what guards add to an optimizer.

    Args:
        what: A configuration, ``module:function``, or None; see `find_subject`.
        overrides: ``key=value`` for the configuration.
        shapes: Parameters to take instead of the model's, see `read_shapes`.
        devices: Devices to shard the parameters over, >= 1.
        width: Columns of the terminal.

    Raises:
        ConfigError: If there is nothing to measure, or its pieces do not fit.
    """
    place = _place(devices)
    subject = find_subject(what, overrides, shapes)
    from stabjax.cost.measure import measure
    from stabjax.cost.table import cost_table

    try:
        cost = measure(
            subject.params,
            subject.optimizer,
            subject.guards,
            place=place,
            **subject.options,
        )
    except ValueError as error:
        # Ours start with the function that refuses; others keep their traceback.
        if re.match(r"[A-Za-z_.]+: ", str(error)):
            raise ConfigError(f"{subject.source}: {error}") from error
        raise
    each = f"\nThis is what each of {devices} devices does." if place else ""
    return cost_table(cost, width=width) + each


def _place(devices: int) -> Callable[[Any], Any] | None:
    if devices < 1:
        raise ConfigError(f"--devices must be >= 1, got {devices}.")
    if devices == 1:
        return None
    import jax

    # On CPU there are as many devices as are asked for before the first is used.
    if "device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", devices)
    if devices > jax.device_count():
        raise ConfigError(
            f"--devices must be at most {jax.device_count()}, got {devices}."
        )
    from stabjax.cost.shapes import spread_over

    auto = (jax.sharding.AxisType.Auto,)
    return spread_over(
        jax.make_mesh((devices,), ("device",), auto, devices=jax.devices()[:devices])
    )
