"""One iteration in one program: rollout, advantages, and every update under guard.

What a minibatch update is judged by are the guards of `stabjax.train_step`, inside the
scan. Environments and return statistics travel as the model state of each update: the
rollout proposes where they go, and the first update that is applied takes them there.
An iteration of which nothing is applied changes nothing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from stabjax.core.elementwise import select
from stabjax.core.haste import jit_once
from stabjax.models.ppo import telemetry
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import VectorEnvironment, VectorState
from stabjax.models.ppo.episodes import empty_log
from stabjax.models.ppo.objective import Minibatch
from stabjax.models.ppo.preparation import ModelState, Preparation, Prepared
from stabjax.models.ppo.rollout import Apply, Experience, interact
from stabjax.train_step import Row, TrainState, TrainStep

__all__ = ["Iteration"]


@dataclasses.dataclass(frozen=True)
class Iteration:
    """The fixed parts of an iteration, and the iteration itself.

    Attributes:
        config: The model's configuration.
        environment: Many environments side by side.
        apply: ``(parameters, observations) -> Answer``.
        prepare: Makes rows, targets and metrics of a rollout.
        learner: The guarded train step of a minibatch, its ring of one row.
        window: Rows of telemetry kept on the device [iterations].
        rolls_back: Whether a guard can ask for a rollback.
    """

    config: Config
    environment: VectorEnvironment
    apply: Apply
    prepare: Preparation
    learner: TrainStep
    window: int
    rolls_back: bool

    def train_step(self) -> TrainStep:
        """Return the iteration as what the runner takes for a step."""

        def many(state: TrainState, batches: Any, key: Any) -> tuple[TrainState, Row]:
            return jax.lax.scan(lambda s, b: self.one(s, b, key), state, batches)

        return dataclasses.replace(
            self.learner,
            init=self.init,
            step=jax.jit(self.one, donate_argnums=0),
            many_steps=jax.jit(many, donate_argnums=0),
        )

    def first_model_state(self, params: Any, key: Any) -> ModelState:
        """Return environments at the start of an episode, and empty statistics."""
        return jit_once(self.draw_model_state)(params, key)

    def draw_model_state(self, params: Any, key: Any) -> ModelState:
        """Return the same, as a function that may be traced."""
        key_reset, key_batch = jax.random.split(key)
        keys = jax.random.split(key_reset, self.environment.count)
        environments = self.environment.reset(keys)
        frozen: Experience | tuple[()] = ()
        if self.config.mode == "single_batch":
            environments, frozen = self.interact(params, environments, key_batch)
        return ModelState(environments, self.prepare.unit.init(), empty_log(), frozen)

    def init(self, params: Any, batch: Any, *, model_state: ModelState) -> TrainState:
        """Return the state before the first iteration; see `TrainStep`."""
        del batch  # the environments are the data
        example = jax.eval_shape(self._example, params, model_state)
        state = self.learner.init(params, example, model_state=model_state)
        ring = telemetry.ring_for(state.telemetry, self.window)
        return state._replace(telemetry=ring)

    def _example(self, params: Any, model_state: ModelState) -> Minibatch:
        experience, after = self._experience(params, model_state, jax.random.key(0))
        ready = self.prepare(params, model_state, after, experience)
        size = self.config.rows // self.config.num_minibatches
        rows = jax.tree.map(lambda x: x[:size], ready.rows)
        return Minibatch(rows, ready.shared, jnp.ones((), jnp.bool_))

    def one(self, state: TrainState, batch: Any, key: Any) -> tuple[TrainState, Row]:
        """Take one iteration; see `TrainStep`."""
        del batch
        number = telemetry.iteration_number(state.telemetry)
        key_act, key_order = jax.random.split(jax.random.fold_in(key, number))
        before = state.model_state
        experience, after = self._experience(state.params, before, key_act)
        ready = self.prepare(state.params, before, after, experience)
        return self.learn(state, ready, key_order, number)

    def _experience(
        self, params: Any, model_state: ModelState, key: Any
    ) -> tuple[Experience, VectorState]:
        if isinstance(model_state.frozen, Experience):
            return model_state.frozen, model_state.environments
        after, experience = self.interact(params, model_state.environments, key)
        return experience, after

    def interact(
        self, params: Any, state: VectorState, key: Any
    ) -> tuple[VectorState, Experience]:
        """Play a rollout; return where the environments are then, and what happened."""
        steps = self.config.rollout_steps
        return interact(self.environment, self.apply, params, state, key, steps)

    def learn(
        self, state: TrainState, ready: Prepared, key: Any, number: Int[Array, ""]
    ) -> tuple[TrainState, Row]:
        """Make all updates of an iteration, each judged by the guards."""
        ring = state.telemetry
        learner = state._replace(
            params=ready.params, telemetry=telemetry.scratch_ring(ring)
        )
        learner, rows, done = self._updates(learner, ready, key)
        row = telemetry.one_row(ring.schema, rows, done, number)
        params = learner.params
        if self.config.normalization == "pop_art":
            # A head in the new unit goes with the new statistics, or not at all.
            applied = row.ints[ring.schema.ints.index("accepted")] > 0
            params = select(applied, params, state.params)
        after = learner._replace(
            params=params, telemetry=telemetry.write(ring, row, number)
        )
        return after, row

    def _updates(
        self, state: TrainState, ready: Prepared, key: Any
    ) -> tuple[TrainState, Row, Bool[Array, " updates"]]:
        """Scan over all minibatches; return rows, and which updates were made."""
        key_order, key_step = jax.random.split(key)
        order = self._order(key_order)
        first = jnp.arange(self.config.updates) == 0

        def update(carry: tuple[TrainState, Array], drawn: tuple[Array, Array]) -> Any:
            state, stopped = carry
            taken, is_first = drawn

            def go_on(state: TrainState) -> tuple[TrainState, Row]:
                rows = jax.tree.map(lambda x: _taken(x, taken), ready.rows)
                batch = Minibatch(rows, ready.shared, is_first)
                return self.learner.step(state, batch, key_step)

            if not self._can_stop:
                after, row = go_on(state)
                return (after, stopped), (row, ~stopped)
            after, row = jax.lax.cond(stopped, _left_out, go_on, state)
            return (after, stopped | self._stops(row, state)), (row, ~stopped)

        carry = (state, jnp.zeros((), jnp.bool_))
        (state, _), (rows, done) = jax.lax.scan(update, carry, (order, first))
        return state, rows, done

    @property
    def _can_stop(self) -> bool:
        return self.config.target_kl is not None or self.rolls_back

    def _stops(self, row: Row, state: TrainState) -> Bool[Array, ""]:
        """Whether the rest of the iteration is left out.

        After a rollback the rollout belongs to other parameters, and above the KL
        limit to a policy too far away.
        """
        schema = state.telemetry.schema
        back = schema.ints.index("rollbacks")
        stops = row.ints[back] > self.learner.guard_states(state).rollbacks
        if self.config.target_kl is not None:
            divergence = row.floats[schema.floats.index("approx_kl")]
            stops |= divergence > self.config.target_kl
        return stops

    def _order(self, key: Any) -> Int[Array, "updates size"]:
        """Return which transitions each update sees: every epoch all, in new order."""
        shape = (self.config.update_epochs, self.config.rows)
        # One draw and one sort for all epochs; two of 2**32 numbers that are equal
        # keep their order, which no one can tell.
        order = jnp.argsort(jax.random.bits(key, shape, jnp.uint32), axis=1)
        return order.reshape(self.config.updates, -1)


def _left_out(state: TrainState) -> tuple[TrainState, Row]:
    ring = state.telemetry
    return state, Row(ring.floats[0], ring.ints[0])


def _taken(x: Array, index: Array) -> Array:
    return x.at[index].get(mode="promise_in_bounds", unique_indices=True)
