"""The size of an update, foretold from a few elements."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from stabjax.core.update_size import runs_thinned, size_of, thin_strides, thinned

SHAPES = {"embedding": (300, 40), "layer": {"kernel": (40, 50), "bias": (50,)}}
SHAPES |= {"head": (50, 30), "scale": ()}
ELEMENTWISE = {
    "adam": optax.adam(0.1),
    "adamw with a mask": optax.adamw(
        0.1, mask={"embedding": False, "layer": True, "head": True, "scale": False}
    ),
    "sgd with momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "lion": optax.lion(0.1),
    "rmsprop": optax.rmsprop(0.1, momentum=0.9),
    "amsgrad": optax.amsgrad(0.1),
    "schedule": optax.adam(optax.exponential_decay(0.1, 2, 0.5)),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "partition": optax.partition(
        {"a": optax.adam(0.1), "b": optax.sgd(1.0)},
        {"embedding": "a", "layer": "b", "head": "a", "scale": "b"},
    ),
    "schedule-free": optax.contrib.schedule_free_adamw(0.1),
}
WHOLE_LEAVES = {
    "lamb": optax.lamb,
    "muon": optax.contrib.muon,
    "clip inside": lambda rate: optax.chain(
        optax.clip_by_global_norm(1.0), optax.sgd(rate)
    ),
}


def tree_of(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def before_step(optimizer):
    """Return parameters and a state that has seen three gradients, and the next."""
    params = tree_of(0)
    state = optimizer.init(params)
    for seed in (1, 2, 3):
        _, state = optimizer.update(tree_of(seed), state, params)
    return tree_of(4), state, params


def foretold(optimizer, given):
    _, _, params = given
    strides = thin_strides(params, None)
    few = [thinned(tree, params, strides) for tree in given]
    if not runs_thinned(optimizer, *few, {}):
        return None
    return size_of(optimizer.update(*few)[0], strides)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_of_an_elementwise_optimizer_it_is_that_of_the_same_elements(name):
    optimizer = ELEMENTWISE[name]
    given = before_step(optimizer)
    strides = thin_strides(given[2], None)
    whole = thinned(optimizer.update(*given)[0], given[2], strides)
    np.testing.assert_allclose(
        foretold(optimizer, given), size_of(whole, strides), rtol=1e-6
    )


def test_it_looks_at_few_elements_of_the_four_largest_leaves():
    params = tree_of(0)
    strides = thin_strides(params, None)
    few = thinned(params, params, strides)
    assert 1024 <= sum(leaf.size for leaf in jax.tree.leaves(few)) <= 2100
    # In the order of the leaves, where the scalar is last.
    assert [stride is not None for stride in strides] == [True] * 4 + [False]


@pytest.mark.parametrize("name", WHOLE_LEAVES)
def test_of_another_optimizer_it_grows_as_the_rate_does(name):
    slow, fast = (WHOLE_LEAVES[name](rate) for rate in (1e-4, 1e-2))
    ratio = foretold(fast, before_step(fast)) / foretold(slow, before_step(slow))
    assert ratio == pytest.approx(100.0, rel=1e-3)


def test_an_optimizer_whose_state_has_other_shapes_is_not_run_on_fewer_elements():
    factored = optax.adafactor(0.1, min_dim_size_to_factor=16)
    assert foretold(factored, before_step(factored)) is None


def test_only_what_moves_counts():
    params = {"embedding": jnp.zeros((1000, 4)), "b": jnp.zeros((4,))}
    updates = jax.tree.map(jnp.zeros_like, params)
    updates["embedding"] = updates["embedding"].at[::50].set(3.0)
    strides = thin_strides(params, None)
    size = size_of(thinned(updates, params, strides), strides)
    assert size == pytest.approx(3.0)
    assert size_of(params, strides) == 0.0


def test_what_is_not_trained_is_not_looked_at():
    params = {
        "frozen": jnp.zeros((4000,)),
        "b": jnp.zeros((4,)),
        "n": jnp.zeros(3, int),
    }
    assert thin_strides(params, (True, False, True)) == ((1,), None, None)


def test_sizes_whose_squares_leave_float32_are_measured():
    params = {"w": jnp.zeros((10,))}
    strides = thin_strides(params, None)
    for value in (1e30, 1e-15):
        size = size_of({"w": jnp.full((10,), value)}, strides)
        assert size == pytest.approx(value, rel=1e-5)
    assert not jnp.isfinite(size_of({"w": jnp.full((10,), jnp.nan)}, strides))
