"""The perpendicular gradient inside optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax import losses
from stabjax.transforms import orthogonal_gradient

PARAMS = {"w": jnp.array([3.0, 0.0, 4.0]), "scale": jnp.float32(2.0)}
GRADIENT = {"w": jnp.array([1.0, 2.0, -1.0]), "scale": jnp.float32(0.5)}


@pytest.mark.parametrize("keep_norm", [False, True])
def test_in_a_chain_it_is_the_pure_function_and_then_the_optimizer(keep_norm):
    optimizer = optax.chain(orthogonal_gradient(keep_norm=keep_norm), optax.sgd(1.0))
    update = jax.jit(optimizer.update)
    updates, _ = update(GRADIENT, optimizer.init(PARAMS), PARAMS)
    rest = losses.orthogonal_gradient(GRADIENT, PARAMS, keep_norm=keep_norm)
    jax.tree.map(
        lambda u, r: np.testing.assert_allclose(u, -r, rtol=1e-6), updates, rest
    )
    assert abs(float(updates["w"] @ PARAMS["w"])) < 1e-5


def test_leaves_can_be_spared_with_a_mask():
    link = optax.masked(orthogonal_gradient(), {"w": False, "scale": True})
    updates, _ = link.update(GRADIENT, link.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["w"], GRADIENT["w"])


def test_weights_stop_growing_on_data_that_is_already_separated():
    x = jnp.array([[1.0, 0.2], [-1.0, 0.1]])

    def loss_fn(params):
        logits = x @ params["w"]
        return losses.cross_entropy(logits, jnp.array([0, 1]))

    def length_after(optimizer):
        params = {"w": jnp.array([[2.0, -2.0], [0.1, -0.1]])}
        state = optimizer.init(params)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss_fn)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, state), length=300)
        return float(optax.tree.norm(params))

    plain = length_after(optax.sgd(1.0))
    held = length_after(optax.chain(orthogonal_gradient(), optax.sgd(1.0)))
    assert plain > 4.0
    assert held < 3.1


def test_params_are_required():
    link = orthogonal_gradient()
    with pytest.raises(ValueError, match="orthogonal_gradient: params must be given"):
        link.update(GRADIENT, link.init(PARAMS))
