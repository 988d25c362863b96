"""An optimizer rests while its player sits out, and otherwise does what it does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax.models.gan.config import Config
from stabjax.models.gan.optimizer import per_player, rest_at_zero

PARAMS = {"w": jnp.ones(3), "b": jnp.zeros(2)}
MOVES = {"w": jnp.array([0.0, 1.0, -2.0]), "b": jnp.zeros(2)}
RESTS = jax.tree.map(jnp.zeros_like, PARAMS)


def test_moments_counters_and_schedules_stand_still_at_a_zero_gradient():
    inner = optax.adam(optax.linear_schedule(1.0, 0.0, 4))
    resting = rest_at_zero(inner)
    state = plain = inner.init(PARAMS)
    for gradient in (MOVES, RESTS, RESTS, MOVES):
        updates, state = jax.jit(resting.update)(gradient, state, PARAMS)
        if gradient is RESTS:
            assert all(np.all(u == 0.0) for u in jax.tree.leaves(updates))
            continue
        expected, plain = inner.update(gradient, plain, PARAMS)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected
        )
    assert optax.tree.get_all_with_path(state, "count")[0][1] == 2


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_is_no_rest(bad):
    resting = rest_at_zero(optax.sgd(1.0))
    gradient = {"w": jnp.array([0.0, 0.0, bad]), "b": jnp.zeros(2)}
    updates, _ = resting.update(gradient, resting.init(PARAMS), PARAMS)
    assert not np.isfinite(updates["w"][2])


def test_the_count_head_has_adam_of_its_own_and_a_clip_sees_one_player():
    params = {name: {"w": jnp.zeros(1)} for name in ("generator", "critic", "count")}
    clip = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    gradients = {
        "generator": {"w": jnp.array([0.5])},
        "critic": {"w": jnp.array([1e6])},
        "count": {"w": jnp.array([0.5])},
    }
    for rate, expected in ((1e-3, -1e-3), (None, -0.5)):
        optimizer = per_player(Config(count_rate=rate), clip)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        np.testing.assert_allclose(updates["count"]["w"], [expected], rtol=1e-4)
        np.testing.assert_allclose(updates["generator"]["w"], [-0.5], rtol=1e-6)
        np.testing.assert_allclose(updates["critic"]["w"], [-1.0], rtol=1e-6)
