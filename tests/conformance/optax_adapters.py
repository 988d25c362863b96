"""Our transformations behind the signatures and the state classes of optax."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from stabjax import guards, transforms

# Optax's own, before anything is replaced.
ReduceLROnPlateauState = optax.contrib.ReduceLROnPlateauState
ZeroNansState = optax.ZeroNansState
skip_not_finite = optax.skip_not_finite


class ApplyIfFiniteState(NamedTuple):
    """The state of `guard` under the names of optax."""

    guarded: transforms.GuardState

    @property
    def notfinite_count(self):
        return self.guarded.core.guards[0].streak

    @property
    def last_finite(self):
        return self.notfinite_count == 0

    @property
    def total_notfinite(self):
        return self.guarded.core.guards[0].total

    @property
    def inner_state(self):
        return self.guarded.inner_state


def apply_if_finite(inner, max_consecutive_errors):
    """Return `skip_nonfinite` with ``compat="optax"``."""
    options = {"max_consecutive": max_consecutive_errors, "compat": "optax"}
    ours = transforms.guard(inner, guards.skip_nonfinite(**options))

    def update(updates, state, params=None, **extra_args):
        updates, after = ours.update(updates, state.guarded, params, **extra_args)
        return updates, ApplyIfFiniteState(after)

    return optax.GradientTransformationExtraArgs(
        lambda params: ApplyIfFiniteState(ours.init(params)), update
    )


def _stateless(ours):
    """Accept no state, as the stateless links of optax do."""

    def update(updates, state, params=None, **extra_args):
        state = ours.init(updates) if state is None else state
        return ours.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(ours.init, update)


def clip_by_global_norm(max_norm):
    return _stateless(transforms.clip_by_global_norm(max_norm))


def clip_by_block_rms(threshold):
    return _stateless(transforms.clip_by_block_rms(threshold))


def adaptive_grad_clip(clipping, eps=1e-3, axis=None):
    ours = transforms.adaptive_clip(clipping, eps, axis)
    return _stateless(optax.with_extra_args_support(ours))


def zero_nans():
    """Return `repair_nonfinite`, with the flags that optax keeps per leaf."""
    ours = transforms.repair_nonfinite()

    def init(params):
        return ZeroNansState(jax.tree.map(lambda _: jnp.zeros((), jnp.bool_), params))

    def update(updates, state, params=None):
        del state
        found = jax.tree.map(lambda x: jnp.any(jnp.isnan(x)), updates)
        updates, _ = ours.update(updates, ours.init(params), params)
        return updates, ZeroNansState(found)

    return optax.GradientTransformation(init, update)


def reduce_on_plateau(
    factor=0.1,
    patience=10,
    rtol=1e-4,
    atol=0.0,
    cooldown=0,
    accumulation_size=1,
    min_scale=0.0,
):
    """Return our plateau guard with the state of optax.

    Optax reduces after ``patience`` bad averages, we after one more, as torch does.
    """
    if rtol and atol:
        raise NotImplementedError("a relative and an absolute threshold at once")
    options = {
        "factor": factor,
        "patience": patience - 1,
        "threshold": rtol or atol,
        "threshold_mode": "rel" if rtol else "abs",
        "cooldown": cooldown,
        "accumulation_size": accumulation_size,
        "min_scale": min_scale,
        "min_change": 0.0,
    }
    ours = transforms.reduce_on_plateau(**options)

    def named(state):
        plateau = state.core.guards[0]
        seen = jnp.maximum(plateau.in_sum, 1)
        return ReduceLROnPlateauState(
            scale=plateau.scale,
            best_value=jnp.where(plateau.averages > 0, plateau.best, jnp.inf),
            plateau_count=plateau.bad,
            cooldown_count=plateau.cooldown_left,
            count=plateau.in_sum,
            avg_value=plateau.sum * accumulation_size / seen,
        )

    def update(updates, state, params=None, *, value, **extra_args):
        fresh = ours.init(params)
        plateau = fresh.core.guards[0]._replace(
            scale=jnp.asarray(state.scale, jnp.float32),
            best=jnp.asarray(state.best_value, jnp.float32),
            bad=state.plateau_count,
            cooldown_left=state.cooldown_count,
            in_sum=state.count,
            sum=jnp.asarray(
                state.avg_value * state.count / accumulation_size, jnp.float32
            ),
        )
        core = fresh.core._replace(guards=(plateau,))
        updates, after = ours.update(
            updates, fresh._replace(core=core), params, value=value, **extra_args
        )
        return updates, named(after)

    return optax.GradientTransformationExtraArgs(
        lambda params: named(ours.init(params)), update
    )


class MultiSteps:
    """`accumulate` as the class of optax; its state has the names already."""

    def __init__(
        self,
        opt,
        every_k_schedule,
        use_grad_mean=True,
        should_skip_update_fn=None,
        accumulator_dtype=jnp.float32,
    ):
        if not use_grad_mean or accumulator_dtype != jnp.float32:
            raise NotImplementedError("a sum, or an accumulator that is not float32")
        if should_skip_update_fn not in (None, skip_not_finite):
            raise NotImplementedError("a test of one's own")
        self.inner_opt = optax.with_extra_args_support(opt)
        self._ours = transforms.accumulate(opt, every_k_schedule)
        self.init, self.update = self._ours

    def has_updated(self, state: Any):
        return state.emitted

    def gradient_transformation(self):
        return self._ours


REPLACED = {
    "adaptive_grad_clip": adaptive_grad_clip,
    "apply_if_finite": apply_if_finite,
    "clip_by_block_rms": clip_by_block_rms,
    "clip_by_global_norm": clip_by_global_norm,
    "MultiSteps": MultiSteps,
    "reduce_on_plateau": reduce_on_plateau,
    "zero_nans": zero_nans,
}
FOLDED = {
    "adamw": transforms.adamw,
    "lion": transforms.lion,
    "sgd": transforms.sgd,
}
