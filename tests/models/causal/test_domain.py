"""A step that leaves the domain is rejected, undone and halved; in scan, under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax import guards
from stabjax.losses import in_acyclicity_domain
from stabjax.models.causal.domain import carry_verified, return_to_domain
from stabjax.models.causal.regression import covariance
from stabjax.models.causal.search import structural_step
from stabjax.models.causal.structural import first_weights, without_loops
from stabjax.models.causal.structural_config import Structural
from stabjax.models.causal.synthetic import (
    random_dag,
    random_weights,
    sample_linear_sem,
)
from stabjax.train_step import make_train_step

STEPS = 80
SGD = optax.sgd(0.05)


def barrier(params, batch, key):
    """Lowest at 0.98, infinite from 1 on; a plain step goes from 0.95 to 1.1."""
    del key
    x = params["x"]
    inside = x < 1.0
    room = jnp.where(inside, 1.0 - x, 1.0)
    value = jnp.where(inside, -0.1 * jnp.log(room) - 5.0 * x, jnp.inf)
    return value * batch, {}


def path_of(step):
    """Return the function from a start to x and whether each step was refused."""

    @jax.jit
    def path(start):
        def body(state, _):
            state, _ = step.step(state, jnp.ones(()), jax.random.key(0))
            refused = step.guard_states(state).consecutive_refused > 0
            return state, (state.params["x"], refused)

        state = step.init({"x": start}, jnp.ones(()))
        _, (seen, refused) = jax.lax.scan(body, state, None, length=STEPS)
        return jnp.concatenate([start[None], seen]), refused

    return lambda start=0.0: jax.device_get(path(jnp.float32(start)))


@pytest.fixture(scope="module")
def returning():
    step = make_train_step(
        carry_verified(barrier),
        SGD,
        guards=[guards.back_off(after=1, recovery=1000)],
        window=1,
    )
    return path_of(return_to_domain(step, SGD))


def test_refusing_alone_stays_outside_for_good():
    step = make_train_step(barrier, SGD, guards=[guards.back_off(after=1)], window=1)
    x, refused = path_of(step)()
    first = int(np.argmax(refused))
    assert refused[first:].all()
    assert x[-1] > 1.0


def test_a_snapshot_of_a_state_that_no_loss_has_seen_does_not_help():
    ladder = [
        guards.escalate(roll_back_after=1, max_rollbacks=10_000, halt_after=10_000),
        guards.back_off(after=1),
    ]
    step = make_train_step(barrier, SGD, guards=ladder, window=1, snapshot_every=1)
    x, refused = path_of(step)()
    assert refused[-STEPS // 2 :].all()
    assert x[-1] > 1.0


def test_returning_and_halving_goes_on_inside(returning):
    x, refused = returning()
    assert 0 < refused.sum() < STEPS / 4
    assert 0.9 < x[-1] < 1.0
    assert not refused[1:][refused[:-1]].any()  # one step later it is inside again


def test_the_step_after_a_refusal_is_half_as_long(returning):
    x, refused = returning()
    at = int(np.argmax(refused))  # step `at` was refused: x[at] was outside
    before, gone, returned, again = x[at - 1 : at + 3]
    assert gone > 1.0
    assert returned == before
    assert again - before == pytest.approx(0.5 * (gone - before), rel=0.01)


def test_a_state_that_its_domain_leaves_behind_is_shrunk_into_it(returning):
    x, refused = returning(2.0)
    assert refused[:3].all()
    assert 0.95 < x[-1] < 1.0


def test_many_graphs_are_learned_with_refusals_of_their_own():
    rng = np.random.default_rng(0)
    weights = random_weights(random_dag(10, 2, rng), rng)
    moments = covariance(sample_linear_sem(weights, 1000, rng)).astype(np.float32) / 10
    config = Structural(score="evlog", stage_steps=40)
    fast = optax.adam(0.1)  # leaves the domain within thirty steps
    step = structural_step(config, fast, guards=[], window=160, form="select")

    def fit(moments):
        batch = {"moments": moments}
        state = step.init(first_weights(10, 0), batch)

        def body(state, _):
            return step.step(state, batch, jax.random.key(0))[0], None

        state, _ = jax.lax.scan(body, state, None, length=160)
        core = step.guard_states(state)
        place = step.schema(state).floats.index("loss")
        losses = state.telemetry.floats[:, place]
        found = without_loops(state.params["weights"])
        inside = in_acyclicity_domain(found, bound=0.7)
        return inside, core.step - core.applied, losses

    both = jnp.stack([moments, np.eye(10, dtype=np.float32)])
    inside, refused, losses = jax.jit(jax.vmap(fit))(both)
    assert bool(inside.all())
    assert 0 < int(refused[0]) < 40
    assert int(refused[1]) == 0  # independent noise: nothing pulls it outside
    assert int(refused[0]) == int(jnp.sum(~jnp.isfinite(losses[0])))
    assert bool(jnp.isfinite(losses[:, -1]).all())
