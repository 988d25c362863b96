"""Reject a step that leaves the domain of the loss, return, and take half of it.

A loss such as ``-log det(I - W*W)`` is defined only on part of the weights' space and
infinite beyond. That a step left it shows one step late, when the next loss is
infinite: the finite contract then refuses to go on from there, but the state it keeps
is the one outside. Snapshots do not help, since they are taken of a state that no
loss has looked at yet. So the last state at which the loss was finite is carried
along, and a refusal returns to it; `stabjax.guards.back_off` halves what is tried next.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from stabjax.core.elementwise import select
from stabjax.train_step import Row, TrainState, TrainStep
from stabjax.types import Aux, LossFn, Scalar

__all__ = ["Verified", "carry_verified", "return_to_domain"]

_SHRINK = 0.9


class Verified(NamedTuple):
    """The last state from which a step was accepted, so that its loss was finite.

    Attributes:
        params: Parameters.
        opt_state: State of the optimizer.
    """

    params: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class carry_verified:
    """Wrap a stateless loss so that the step carries a `Verified` as model state."""

    loss: LossFn

    @property
    def wants_step(self) -> bool:
        """Whether the loss is called with ``step=``."""
        return getattr(self.loss, "wants_step", False)

    def __call__(
        self, params: Any, batch: Any, key: Any, /, *, model_state: Verified, **kwargs
    ) -> tuple[Scalar, Aux]:
        """Return the loss and its aux, with the model state as it was."""
        value, aux = self.loss(params, batch, key, **kwargs)
        return value, {**aux, "model_state": model_state}


def return_to_domain(
    train: TrainStep, optimizer: optax.GradientTransformation
) -> TrainStep:
    """Return the step that goes back to the last verified state after a refusal.

    The refused step costs one evaluation and nothing else; which steps were refused,
    and how far `back_off` has shortened them, stands in the telemetry. A state that
    turns out to be outside although it was verified (the bound has just moved) is
    shrunk towards zero by a tenth per refusal, since zero is always inside.

    Args:
        train: A guarded step of a `carry_verified` loss; guards should include
            `stabjax.guards.back_off`, or the same step is tried again and again.
        optimizer: The optimizer of that step.

    Returns:
        The functions of the new step; safe in ``scan`` and under ``vmap``.
    """

    def init(params: Any, batch: Any) -> TrainState:
        state = train.init(
            params, batch, model_state=Verified(params, optimizer.init(params))
        )
        copies = jax.tree.map(jnp.copy, (state.params, state.opt_state))
        return state._replace(model_state=Verified(*copies))

    step = train.step.__wrapped__  # type: ignore[attr-defined] # before its jit

    def one(state: TrainState, batch: Any, key: Array) -> tuple[TrainState, Row]:
        after, row = step(state, batch, key)
        streak = train.guard_states(after).consecutive_refused
        here = Verified(state.params, state.opt_state)
        last = select(streak > 0, state.model_state, here)
        back = last._replace(
            params=jax.tree.map(
                lambda p: jnp.where(streak > 1, _SHRINK**streak * p, p), last.params
            )
        )
        moved = Verified(after.params, after.opt_state)
        chosen = select(streak > 0, back, moved)
        return after._replace(
            params=chosen.params, opt_state=chosen.opt_state, model_state=last
        ), row

    def many(state: TrainState, batches: Any, key: Array) -> tuple[TrainState, Row]:
        return jax.lax.scan(lambda s, b: one(s, b, key), state, batches)

    return dataclasses.replace(
        train,
        init=init,
        step=jax.jit(one, donate_argnums=0),
        many_steps=jax.jit(many, donate_argnums=0),
    )
