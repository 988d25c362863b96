"""Guards: judges on the scalars of a step.

Register one in `GUARDS` and it has its name in configurations, its options checked
from its signature, its telemetry columns, and the contract tests.
"""

from collections.abc import Callable

from stabjax.guards.back_off import back_off as back_off
from stabjax.guards.clip_by_global_norm import (
    clip_by_global_norm as clip_by_global_norm,
)
from stabjax.guards.clip_by_group_norm import clip_by_group_norm as clip_by_group_norm
from stabjax.guards.escalate import escalate as escalate
from stabjax.guards.reduce_on_plateau import reduce_on_plateau as reduce_on_plateau
from stabjax.guards.skip_nonfinite import skip_nonfinite as skip_nonfinite
from stabjax.guards.skip_spikes import skip_spikes as skip_spikes
from stabjax.types import Guard

GUARDS: dict[str, Callable[..., Guard]] = {
    guard.__name__: guard
    for guard in (
        back_off,
        clip_by_global_norm,
        clip_by_group_norm,
        escalate,
        reduce_on_plateau,
        skip_nonfinite,
        skip_spikes,
    )
}
