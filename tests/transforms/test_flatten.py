"""Small leaves as one vector: the same numbers in fewer buffers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, bits

from stabjax import guards, make_train_step
from stabjax.transforms.flatten import Flattened, flatten


def mixed():
    """Small and large leaves of two dtypes, a scalar, an integer, None, an empty."""
    return {
        "bias": jnp.linspace(-1.0, 1.0, 5, dtype=jnp.float32),
        "half": jnp.linspace(0.5, 1.0, 6, dtype=jnp.bfloat16).reshape(2, 3),
        "kernel": jnp.linspace(-2.0, 2.0, 48, dtype=jnp.float32).reshape(6, 8),
        "nothing": None,
        "empty": jnp.zeros((0, 3), jnp.float32),
        "scale": jnp.asarray(0.3, jnp.float32),
        "count": jnp.asarray(3, jnp.int32),
    }


def gradient_of(params, step):
    def pull(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros_like(leaf)
        return (jnp.sin(leaf.astype(jnp.float32) + step) * 3).astype(leaf.dtype)

    return jax.tree.map(pull, params)


def trained(optimizer, params, steps=2):
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(gradient_of(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(
    ("inner", "max_size"),
    [
        (optax.adamw(1e-2), 8),
        (optax.adamw(1e-2), 10_000),
        (optax.sgd(0.1, momentum=0.9), 1),
        (optax.lion(1e-2), 8),
    ],
)
def test_every_element_takes_the_step_it_took_before(inner, max_size):
    floats = mixed() | {"count": None}  # optax's moments are none for whole numbers
    flat, _ = trained(flatten(inner, max_size=max_size), floats)
    plain, _ = trained(inner, floats)
    assert bits(flat) == bits(plain)


def test_small_leaves_become_one_vector_per_dtype_and_large_ones_stay():
    _, state = trained(flatten(optax.adam(1e-2), max_size=8), mixed() | {"count": None})
    moments = state[0].mu
    assert isinstance(moments, Flattened)
    assert {name: v.shape for name, v in moments.small.items()} == {
        "bfloat16": (6,),
        "float32": (6,),
    }
    assert moments.small["bfloat16"].dtype == jnp.bfloat16
    assert moments.rest["kernel"].shape == (6, 8)
    assert moments.rest["bias"] is None


def test_whole_numbers_are_left_to_the_inner_optimizer():
    seen = []
    inner = optax.stateless(lambda u, p: seen.append(u) or u)
    updates, _ = flatten(inner).update(mixed(), optax.EmptyState(), mixed())
    assert seen[0].rest["count"] == 3
    assert bits(updates) == bits(mixed())


def test_gradients_of_another_dtype_and_a_call_without_parameters():
    params = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2, jnp.bfloat16)}
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) * 0.5, params)
    optimizer = flatten(optax.sgd(1.0))
    updates, _ = optimizer.update(wide, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["a"], -wide["a"])
    updates, _ = optimizer.update(params, optimizer.init(params))
    np.testing.assert_array_equal(updates["b"], -params["b"])


def test_extra_arguments_reach_the_inner_optimizer():
    inner = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda u, s, p=None, *, value: (jax.tree.map(lambda x: x * value, u), s),
    )
    optimizer = flatten(inner)
    params = {"w": jnp.ones(2)}
    updates, _ = optimizer.update(params, optimizer.init(params), params, value=3.0)
    np.testing.assert_array_equal(updates["w"], [3.0, 3.0])


def test_a_guarded_step_refuses_and_applies_as_without_it():
    def loss_fn(params, batch, key):
        del key
        loss = sum(jnp.sum((x * batch - 1.0) ** 2) for x in jax.tree.leaves(params))
        return loss, {}

    params = {f"leaf{i}": jnp.full((3,), 0.1 * i) for i in range(4)}

    def run(optimizer):
        clip = guards.clip_by_global_norm()
        train = make_train_step(loss_fn, optimizer, guards=[clip])
        state = train.init(params, jnp.ones(()))
        for value in (1.0, np.nan, 2.0):
            state, _ = train.step(state, jnp.float32(value), KEY)
        return train.guard_states(state), state.params

    core, flat = run(flatten(optax.adam(1e-2)))
    plain_core, plain = run(optax.adam(1e-2))
    assert (core.applied, core.refused) == (2, 1)
    assert (plain_core.applied, plain_core.refused) == (2, 1)
    for ours, theirs in zip(jax.tree.leaves(flat), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(ours), np.asarray(theirs), 4)


def test_a_size_out_of_range_is_refused():
    with pytest.raises(ValueError, match="flatten: max_size must be a whole number"):
        flatten(optax.sgd(0.1), max_size=0)
