"""Run an `OwnLoop` under one setting: its optimizers are wrapped, nothing else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import stabjax
from harm.faults import Fault, damage_of
from harm.outcome import Outcome, finite_or_none
from harm.run import OwnLoop
from harm.settings import Setting
from stabjax.types import Alert

TWIN = 1000


class CountedState(NamedTuple):
    """State of `counted`.

    Attributes:
        inner: State of the optimizer.
        steps: Updates asked for.
        alerts: In how many of them each alert was seen.
        largest_norm: Largest finite gradient norm.
        first_loss: Loss of the first update.
    """

    inner: PyTree
    steps: Array
    alerts: Array
    largest_norm: Array
    first_loss: Array


def counted(
    inner: optax.GradientTransformationExtraArgs, *, guarded: bool
) -> optax.GradientTransformationExtraArgs:
    """Count what the guards around an optimizer say, which keep the last step only."""

    def init(params: PyTree) -> CountedState:
        return CountedState(
            inner=inner.init(params),
            steps=jnp.zeros((), jnp.int32),
            alerts=jnp.zeros((len(Alert),), jnp.int32),
            largest_norm=jnp.zeros((), jnp.float32),
            first_loss=jnp.zeros((), jnp.float32),
        )

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Any = 0.0,
        **extra: Any,
    ) -> tuple[PyTree, CountedState]:
        norm = optax.tree.norm(updates).astype(jnp.float32)
        after: Any
        updates, after = inner.update(
            updates, state.inner, params, value=value, **extra
        )
        alerts = state.alerts
        if guarded:
            bits = jnp.asarray([alert.value for alert in Alert], jnp.int32)
            alerts = alerts + ((after.alerts & bits) != 0).astype(jnp.int32)
        larger = jnp.isfinite(norm) & (norm > state.largest_norm)
        loss = jnp.asarray(value, jnp.float32)
        return updates, CountedState(
            inner=after,
            steps=state.steps + 1,
            alerts=alerts,
            largest_norm=jnp.where(larger, norm, state.largest_norm),
            first_loss=jnp.where(state.steps == 0, loss, state.first_loss),
        )

    return optax.GradientTransformationExtraArgs(init, update)


class Wrapped:
    """A run that owns its loop, under one setting.

    Args:
        run: The run.
        setting: How its optimizers are wrapped.
    """

    def __init__(self, run: OwnLoop, setting: Setting) -> None:
        self.run = run
        self.guarded = setting.guards is not None

        def wrap(optimizer: optax.GradientTransformation):
            optimizer = setting.around(optimizer)
            if setting.guards is not None:
                return counted(stabjax.guard(optimizer, *setting.guards), guarded=True)
            return counted(optax.with_extra_args_support(optimizer), guarded=False)

        self._wrap = wrap

    def play(self, seed: int, *, twin: int = 0, fault: Fault | None = None) -> Outcome:
        """Return what comes of the run; a twin is a run with another seed."""
        damage = damage_of(fault, self.run.steps)
        score, states = self.run.run(self._wrap, seed + TWIN * twin, damage)
        return self._outcome(score, jax.device_get(states))

    def _outcome(self, score: Any, states: list[CountedState]) -> Outcome:
        cores = [state.inner.core for state in states] if self.guarded else []
        alerts = np.sum([state.alerts for state in states], axis=0)
        names = [str(alert.name).lower() for alert in Alert]
        return Outcome(
            score=finite_or_none(score),
            steps=int(sum(state.steps for state in states)),
            refused=int(
                sum(core.refused for core in cores)
                if self.guarded
                else sum(_skipped(state.inner) for state in states)
            ),
            halted=any(bool(core.halted) for core in cores),
            rollbacks=int(sum(core.rollbacks for core in cores)),
            alerts={n: int(c) for n, c in zip(names, alerts, strict=True) if c},
            largest_norm=float(max(state.largest_norm for state in states)),
            first_loss=float(states[0].first_loss),
        )


def _skipped(inner: PyTree) -> int:
    found = optax.tree.get_all_with_path(inner, "total_notfinite")
    return int(found[0][1]) if found else 0
