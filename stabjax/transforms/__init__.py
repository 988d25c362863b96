"""Faces to optax: `guard` around an optimizer, and each guard by its field name.

Besides: optimizers with guards folded into their formula, accumulation that leaves out
what is refused, and the clips that need more than the scalars of a step.
"""

from stabjax.transforms.accumulate import AccumulateState as AccumulateState
from stabjax.transforms.accumulate import accumulate as accumulate
from stabjax.transforms.adaptive_clip import adaptive_clip as adaptive_clip
from stabjax.transforms.applied import keep_if_refused as keep_if_refused
from stabjax.transforms.applied import was_applied as was_applied
from stabjax.transforms.clip_update_by_rms import (
    clip_update_by_rms as clip_update_by_rms,
)
from stabjax.transforms.faces import STEP_ONLY as STEP_ONLY
from stabjax.transforms.faces import back_off as back_off
from stabjax.transforms.faces import clip_by_block_rms as clip_by_block_rms
from stabjax.transforms.faces import clip_by_global_norm as clip_by_global_norm
from stabjax.transforms.faces import clip_by_group_norm as clip_by_group_norm
from stabjax.transforms.faces import clip_update_spikes as clip_update_spikes
from stabjax.transforms.faces import escalate as escalate
from stabjax.transforms.faces import reduce_on_plateau as reduce_on_plateau
from stabjax.transforms.faces import reset_moments as reset_moments
from stabjax.transforms.faces import skip_large as skip_large
from stabjax.transforms.faces import skip_nonfinite as skip_nonfinite
from stabjax.transforms.faces import skip_spikes as skip_spikes
from stabjax.transforms.faces import trivial_baseline as trivial_baseline
from stabjax.transforms.faces import zclip as zclip
from stabjax.transforms.flatten import flatten as flatten
from stabjax.transforms.guard import GuardState as GuardState
from stabjax.transforms.guard import guard as guard
from stabjax.transforms.optimizers import adamw as adamw
from stabjax.transforms.optimizers import lion as lion
from stabjax.transforms.optimizers import sgd as sgd
from stabjax.transforms.orthogonal_gradient import (
    orthogonal_gradient as orthogonal_gradient,
)
from stabjax.transforms.repair_nonfinite import repair_nonfinite as repair_nonfinite
