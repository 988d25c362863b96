"""`clip_by_block_rms`: each block by itself, whatever its size, dtype and sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stabjax.guards import clip_by_block_rms
from stabjax.transforms import guard
from stabjax.types import Alert


def clipped_by(clip, gradient):
    optimizer = guard(optax.identity(), clip)
    return jax.jit(optimizer.update)(gradient, optimizer.init(gradient))


def gradient_of(dtype=jnp.float32, scale=1.0):
    rng = np.random.default_rng(0)
    sizes = {"a": (4, 8), "b": (3,), "c": ()}
    return {
        "core": {
            name: jnp.asarray(scale * rng.normal(size=shape) * 3, dtype)
            for name, shape in sizes.items()
        },
        "head": jnp.asarray(0.01 * scale * rng.normal(size=(5,)), dtype),
    }


def exact_blocks(gradient, threshold):
    """Return the clipped leaves in float64."""

    def clip(leaf):
        leaf = np.asarray(leaf, np.float64)
        rms = np.sqrt(np.mean(np.square(leaf)))
        return leaf * min(1.0, threshold / rms)

    return jax.tree.map(clip, gradient)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("threshold", [1e-3, 1.0, 100.0])
def test_every_leaf_is_clipped_by_its_own_rms(dtype, threshold):
    gradient = gradient_of(dtype)
    ours, _ = clipped_by(clip_by_block_rms(threshold=threshold), gradient)
    exact = exact_blocks(gradient, threshold)
    rtol = 8 * float(jnp.finfo(dtype).eps)
    for mine, its in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(np.asarray(mine, np.float64), its, rtol=rtol)


def test_it_is_that_of_optax_in_float32():
    gradient = gradient_of()
    ours, _ = clipped_by(clip_by_block_rms(threshold=0.7), gradient)
    theirs, _ = optax.clip_by_block_rms(0.7).update(gradient, optax.EmptyState())
    for mine, its in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-6)


def test_squares_that_overflow_do_not_turn_a_block_into_zeros():
    gradient = {"a": jnp.full((4,), 1e25), "b": jnp.full((4,), 2.0)}
    ours, state = clipped_by(clip_by_block_rms(threshold=1.0), gradient)
    np.testing.assert_allclose(ours["a"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(ours["b"], 1.0, rtol=1e-6)
    assert state.core.applied == 1
    theirs, _ = optax.clip_by_block_rms(1.0).update(gradient, optax.EmptyState())
    assert not theirs["a"].any(), "optax still does"


def test_a_group_of_leaves_is_one_block_and_the_rest_another():
    gradient = gradient_of()
    clip = clip_by_block_rms(threshold=0.5, groups=["core"])
    ours, state = clipped_by(clip, gradient)
    core = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient["core"])])
    factor = 0.5 / np.sqrt(np.mean(np.square(core.astype(np.float64))))
    for mine, its in zip(
        jax.tree.leaves(ours["core"]), jax.tree.leaves(gradient["core"]), strict=True
    ):
        np.testing.assert_allclose(mine, factor * np.asarray(its), rtol=1e-5)
    np.testing.assert_array_equal(ours["head"], gradient["head"])
    guard_state = state.core.guards[0]
    np.testing.assert_allclose(guard_state.clip_ratio, factor, rtol=1e-5)
    np.testing.assert_allclose(guard_state.clip_fraction, 0.5, rtol=1e-6)
    assert state.alerts == int(Alert.CLIPPED)


def test_a_prefix_that_fits_nothing_names_the_nearest():
    with pytest.raises(ValueError, match=r"under 'cor'. Did you mean 'core'\?"):
        clipped_by(clip_by_block_rms(groups=["cor"]), gradient_of())


def test_a_nan_block_is_refused_and_no_factor_of_another_is_spoiled():
    gradient = gradient_of()
    gradient["core"]["b"] = gradient["core"]["b"].at[0].set(jnp.nan)
    ours, state = clipped_by(clip_by_block_rms(threshold=1.0), gradient)
    assert not any(np.any(x) for x in jax.tree.leaves(ours))
    assert state.core.refused == 1
    assert np.isfinite(state.core.guards[0].clip_ratio)
    assert state.core.guards[0].seen == 0


def test_empty_scalar_and_missing_leaves_are_no_trouble():
    gradient = {"empty": jnp.zeros((0, 3)), "none": None, "one": jnp.asarray(4.0)}
    ours, state = clipped_by(clip_by_block_rms(threshold=1.0), gradient)
    assert ours["one"] == 1.0
    assert state.core.applied == 1
    _, state = clipped_by(clip_by_block_rms(), {})
    assert state.core.applied == 1


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_it_is_the_same_on_eight_devices(kind):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    gradient = {"w": 3.0 * jnp.ones((16, 4)).at[3].set(7.0), "b": jnp.ones((16,))}
    spread = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("x"))), gradient
    )
    alone, _ = clipped_by(clip_by_block_rms(threshold=0.5), gradient)
    with jax.set_mesh(mesh):
        ours, _ = clipped_by(clip_by_block_rms(threshold=0.5), spread)
    for name, mine in ours.items():
        assert mine.sharding.is_equivalent_to(spread[name].sharding, mine.ndim)
        np.testing.assert_allclose(mine, alone[name], rtol=1e-6)
