"""Each player gets the gradient of its own loss, or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax.models.gan.players import play


def game(params, turn=None):
    """Two players who pull one product apart: a descends xy, b descends -xy."""
    a, b = params["a"], params["b"]
    held = jax.lax.stop_gradient
    first = play(lambda x: (jnp.sum(x * held(b)), {"seen": jnp.sum(x)}), a)
    value = -jnp.sum(held(a) * held(b))
    otherwise = None if turn is None else (value, None)
    second = play(
        lambda y: (-jnp.sum(held(a) * y), None), b, turn=turn, otherwise=otherwise
    )
    return first, second


PARAMS = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}


def total(params, turn=None, weight=1.0):
    first, second = game(params, turn)
    return weight * (first.value + second.value), (first, second)


def test_the_gradient_of_the_sum_is_that_of_each_players_own_loss():
    gradient, (first, second) = jax.grad(total, has_aux=True)(PARAMS)
    np.testing.assert_array_equal(gradient["a"], PARAMS["b"])
    np.testing.assert_array_equal(gradient["b"], -PARAMS["a"])
    # The sum itself is constant: a plain gradient of it is zero.
    assert first.value + second.value == 0.0
    np.testing.assert_allclose(first.gradient_norm, 5.0)
    assert first.metrics["seen"] == 3.0


@pytest.mark.parametrize("turn", [True, False])
def test_a_player_that_sits_out_has_a_gradient_of_exactly_zero(turn):
    gradient, (_, second) = jax.jit(jax.grad(total, has_aux=True))(
        PARAMS, jnp.array(turn)
    )
    np.testing.assert_array_equal(gradient["b"], -PARAMS["a"] if turn else np.zeros(2))
    np.testing.assert_array_equal(gradient["a"], PARAMS["b"])
    assert second.value == -11.0
    assert np.isnan(second.gradient_norm) != turn


def test_a_weight_on_the_loss_scales_the_gradient_as_a_loss_scale_needs():
    gradient, _ = jax.grad(lambda p: total(p, weight=4.0), has_aux=True)(PARAMS)
    np.testing.assert_array_equal(gradient["a"], 4.0 * PARAMS["b"])


def test_tensors_are_counted_whose_gradient_is_large_or_not_finite():
    slopes = {"fine": 1.0, "large": 101.0, "infinite": jnp.inf, "broken": jnp.nan}
    mine = {name: jnp.ones(1) for name in slopes}

    def loss(p):
        return sum(slopes[name] * jnp.sum(p[name]) for name in slopes), None

    move = play(loss, mine)
    assert move.warnings == 3.0
    assert not np.isfinite(move.gradient_norm)


def test_a_turn_needs_what_is_said_otherwise():
    with pytest.raises(ValueError, match="turn and otherwise"):
        play(lambda p: (jnp.sum(p), None), jnp.ones(2), turn=jnp.array(True))
