"""Guards: judges on the scalars of a step.

Register one in `GUARDS` and it has its name in configurations, its options checked
from its signature, its telemetry columns, and the contract tests.
"""

from collections.abc import Callable

from stabjax.guards.back_off import back_off as back_off
from stabjax.guards.clip_by_block_rms import clip_by_block_rms as clip_by_block_rms
from stabjax.guards.clip_by_global_norm import (
    clip_by_global_norm as clip_by_global_norm,
)
from stabjax.guards.clip_by_group_norm import clip_by_group_norm as clip_by_group_norm
from stabjax.guards.clip_update_spikes import clip_update_spikes as clip_update_spikes
from stabjax.guards.dead_gradient import dead_gradient as dead_gradient
from stabjax.guards.dynamic_loss_scale import dynamic_loss_scale as dynamic_loss_scale
from stabjax.guards.empty_set import empty_set as empty_set
from stabjax.guards.escalate import escalate as escalate
from stabjax.guards.metric_range import metric_range as metric_range
from stabjax.guards.recommended import recommended as recommended
from stabjax.guards.reduce_on_plateau import reduce_on_plateau as reduce_on_plateau
from stabjax.guards.repair_nonfinite import repair_nonfinite as repair_nonfinite
from stabjax.guards.reset_moments import reset_moments as reset_moments
from stabjax.guards.saturation import saturation as saturation
from stabjax.guards.sentinel import sentinel as sentinel
from stabjax.guards.skip_large import skip_large as skip_large
from stabjax.guards.skip_nonfinite import skip_nonfinite as skip_nonfinite
from stabjax.guards.skip_spikes import skip_spikes as skip_spikes
from stabjax.guards.trivial_baseline import trivial_baseline as trivial_baseline
from stabjax.guards.update_ratio_band import update_ratio_band as update_ratio_band
from stabjax.guards.zclip import zclip as zclip
from stabjax.types import Guard

GUARDS: dict[str, Callable[..., Guard]] = {
    guard.__name__: guard
    for guard in (
        back_off,
        clip_by_block_rms,
        clip_by_global_norm,
        clip_by_group_norm,
        clip_update_spikes,
        dead_gradient,
        dynamic_loss_scale,
        empty_set,
        escalate,
        metric_range,
        reduce_on_plateau,
        repair_nonfinite,
        reset_moments,
        saturation,
        sentinel,
        skip_large,
        skip_nonfinite,
        skip_spikes,
        trivial_baseline,
        update_ratio_band,
        zclip,
    )
}
# Names that stand for several guards, wherever a configuration lists guards.
PRESETS: dict[str, Callable[..., tuple[Guard, ...]]] = {"recommended": recommended}
