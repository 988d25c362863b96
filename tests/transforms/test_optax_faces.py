"""Guards under the optax contract, by themselves and by their field names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax import transforms
from stabjax.guards import clip_by_global_norm, skip_spikes
from stabjax.transforms import guard

PARAMS = {"w": jnp.ones(3), "b": jnp.ones(())}


def test_it_drops_into_a_chain_and_the_state_is_found_by_name():
    optimizer = optax.chain(transforms.clip_by_global_norm(1.0), optax.sgd(1.0))
    gradient = {"w": jnp.full((3,), 10.0), "b": jnp.zeros(())}
    updates, state = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["w"], -1 / np.sqrt(3), rtol=1e-6)
    assert optax.tree.get(state, "clip_fraction") == 1.0
    assert optax.tree.get(state, "applied") == 1


def test_two_guards_nest():
    inner = guard(optax.sgd(1.0), clip_by_global_norm(max_norm=1.0))
    optimizer = guard(inner, clip_by_global_norm(max_norm=100.0))
    gradient = {"w": jnp.full((3,), np.nan), "b": jnp.zeros(())}
    updates, state = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    assert not np.any(updates["w"])
    assert state.core.refused == 1
    assert state.inner_state.core.step == 0


def test_a_guard_that_reads_the_loss_requires_it():
    optimizer = transforms.skip_spikes(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"skip_spikes judges on the loss; pass it as"):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    norms = guard(optax.sgd(1.0), skip_spikes(signals=["gradient_norm"]))
    updates, _ = norms.update(PARAMS, norms.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["w"], -1.0)


def test_a_nan_loss_is_refused_although_the_gradient_is_finite():
    optimizer = transforms.skip_nonfinite(optax.sgd(1.0))
    state = optimizer.init(PARAMS)
    updates, state = optimizer.update(PARAMS, state, PARAMS, value=jnp.nan)
    assert not np.any(updates["w"])
    assert state.core.guards[0].total == 1


def test_the_plateau_link_scales_what_comes_before_it():
    plateau = transforms.reduce_on_plateau(patience=0, factor=0.5, accumulation_size=1)
    optimizer = optax.chain(optax.sgd(1.0), plateau)
    state = optimizer.init(PARAMS)
    for _ in range(3):
        updates, state = optimizer.update(PARAMS, state, PARAMS, value=1.0)
    np.testing.assert_array_equal(updates["w"], -0.25)


def test_the_group_link_clips_each_group_by_its_own_norm():
    link = transforms.clip_by_group_norm(1.0, ["w"])
    gradient = {"w": jnp.full((3,), 1e6), "b": jnp.asarray(0.5)}
    updates, _ = link.update(gradient, link.init(gradient))
    np.testing.assert_allclose(updates["w"], 1 / np.sqrt(3), rtol=1e-6)
    assert updates["b"] == 0.5


def test_integer_and_boolean_leaves_keep_their_dtype_and_are_zero_when_refused():
    optimizer = guard(optax.identity())
    tree = {"f": jnp.asarray([1.0]), "i": jnp.asarray([3]), "t": jnp.asarray([True])}
    state = optimizer.init(tree)
    updates, state = optimizer.update(tree, state)
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(
        lambda x: x.dtype, tree
    )
    assert updates["i"].tolist() == [3]
    updates, _ = optimizer.update(tree | {"f": jnp.asarray([np.inf])}, state)
    assert [x.tolist() for x in updates.values()] == [[0.0], [0], [False]]


@pytest.mark.parametrize("tree", [{}, {"a": None}, {"a": jnp.zeros((0,))}])
def test_an_empty_tree_is_applied(tree):
    optimizer = guard(optax.adam(0.1), clip_by_global_norm())
    _, state = optimizer.update(tree, optimizer.init(tree), tree)
    assert state.core.applied == 1


def test_an_optimizer_that_needs_no_parameters_works_without():
    optimizer = guard(optax.sgd(0.5))
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    np.testing.assert_array_equal(updates["w"], -0.5)


def test_the_update_norm_is_that_of_the_update_that_was_applied():
    optimizer = guard(optax.sgd(2.0))
    state = optimizer.init(PARAMS)
    _, state = optimizer.update({"w": jnp.ones(3), "b": jnp.ones(())}, state)
    np.testing.assert_allclose(state.core.update_norm, 4.0, rtol=1e-6)
    _, state = optimizer.update({"w": jnp.full((3,), np.nan), "b": jnp.ones(())}, state)
    np.testing.assert_allclose(state.core.update_norm, 4.0, rtol=1e-6)


def test_headroom_refuses_what_would_freeze_a_moment_without_reading_the_outcome():
    optimizer = guard(optax.adam(0.1), finite_check="headroom")
    params = {"w": jnp.ones(2)}
    state = optimizer.init(params)
    for gradient, refused in ((jnp.array([1e20, 1.0]), 1), (jnp.ones(2), 1)):
        updates, state = optimizer.update({"w": gradient}, state, params)
        assert state.core.refused == refused
    assert np.all(np.asarray(updates["w"]) < 0)


def test_headroom_is_refused_for_an_optimizer_that_is_not_known():
    unknown = optax.stateless(lambda g, p: jax.tree.map(jnp.log, g))
    optimizer = guard(unknown, finite_check="headroom")
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="finite_check must be 'outcome'"):
        optimizer.update(params, optimizer.init(params), params)
