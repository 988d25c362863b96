"""Unit-wise clipping against optax, in low precision, broken, and sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from stabjax.transforms import adaptive_clip

SHAPES = {
    "scalar": (),
    "bias": (5,),
    "row": (1, 4),
    "kernel": (4, 3),
    "heads": (3, 2, 4),
    "conv": (2, 2, 3, 4),
    "conv3d": (2, 2, 2, 3, 2),
}


def tree(seed, scale=1.0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(scale * rng.normal(size=shape), dtype)
        for name, shape in SHAPES.items()
    }


@functools.cache
def compiled(clipping, axis):
    clip = adaptive_clip(clipping, axis=axis)
    return jax.jit(lambda g, p: clip.update(g, clip.init(p), p))


def clipped(gradient, params, clipping=0.1, axis=None):
    return compiled(clipping, axis)(gradient, params)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_it_is_the_adaptive_clipping_of_optax(scale):
    gradient, params = tree(1, scale), tree(0)
    ours, _ = clipped(gradient, params)
    theirs, _ = optax.adaptive_grad_clip(0.1).update(gradient, None, params)
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)


@pytest.mark.parametrize("axis", [0, -1, (0, 1)])
def test_the_axes_of_a_unit_can_be_given(axis):
    rng = np.random.default_rng(0)
    gradient = {"w": jnp.asarray(rng.normal(size=(3, 4, 2, 2, 2, 2)), jnp.float32)}
    params = {"w": gradient["w"][::-1]}
    ours, _ = clipped(gradient, params, axis=axis)
    theirs = optax.adaptive_grad_clip(0.1, axis=axis)
    theirs, _ = theirs.update(gradient, None, params)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-6)
    with pytest.raises(ValueError, match="axis must be given for a tensor of rank 6"):
        clipped(gradient, params)


@given(
    st.integers(0, 99),
    st.floats(-6, 30).map(lambda power: 10.0**power),
    st.sampled_from([0.001, 0.1, 3.0]),
)
def test_no_unit_is_larger_than_its_share_of_the_parameters(seed, scale, clipping):
    rng = np.random.default_rng(seed)
    gradient = jnp.asarray(scale * rng.normal(size=(4, 3)), jnp.float32)
    params = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    ours, _ = clipped(gradient, params, clipping)
    ours, params, gradient = (
        np.asarray(x, np.float64) for x in (ours, params, gradient)
    )
    bound = clipping * np.maximum(np.linalg.norm(params, axis=0), 1e-3)
    norm = np.linalg.norm(gradient, axis=0)
    expected = gradient * np.minimum(1.0, bound / np.maximum(norm, 1e-30))
    np.testing.assert_allclose(ours, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "value"), [(jnp.float16, 3e4), (jnp.bfloat16, 1e30), (jnp.float32, 1e30)]
)
def test_a_norm_that_its_dtype_cannot_hold_is_clipped_not_zeroed(dtype, value):
    gradient = {"w": jnp.full((16, 2), value, dtype)}
    params = {"w": jnp.ones((16, 2), dtype)}
    ours, _ = clipped(gradient, params)
    assert ours["w"].dtype == dtype
    np.testing.assert_allclose(np.asarray(ours["w"], np.float32), 0.1, rtol=1e-2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_unit_that_is_not_finite_stays_alone_and_is_counted(value):
    gradient = jnp.full((4, 3), 10.0).at[1, 2].set(value)
    ours, state = clipped(gradient, jnp.ones((4, 3)))
    np.testing.assert_allclose(ours[:, :2], 0.1, rtol=1e-6)
    np.testing.assert_array_equal(ours[:, 2], gradient[:, 2])
    assert state.nonfinite == 1
    np.testing.assert_allclose(state.last_fraction, 2 / 3, rtol=1e-6)


def test_it_counts_the_share_of_units_that_it_clips():
    clip = adaptive_clip(0.1)
    params = {"a": jnp.ones((4, 2)), "b": jnp.ones((3,))}
    state = clip.init(params)
    large = {"a": jnp.ones((4, 2)), "b": jnp.zeros((3,))}
    for _ in range(2):
        _, state = clip.update(large, state, params)
    np.testing.assert_allclose(state.clip_fraction, 2 / 3, rtol=1e-6)
    assert state.steps == 2


def test_integers_and_empty_leaves_pass_and_nothing_is_traced_for_them():
    params = {"i": jnp.asarray([3]), "e": jnp.zeros((0, 2)), "n": None}
    ours, state = clipped(params, params)
    assert ours["i"].tolist() == [3]
    assert ours["e"].shape == (0, 2)
    assert state.last_fraction == 0.0


def test_it_needs_parameters_and_positive_options():
    clip = adaptive_clip(0.1)
    with pytest.raises(ValueError, match="adaptive_clip: update needs params"):
        clip.update(jnp.ones(2), clip.init(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"clipping must be in \(0, inf\), got 0.0"):
        adaptive_clip(0.0)
    with pytest.raises(ValueError, match=r"eps must be in \(0, inf\), got -1.0"):
        adaptive_clip(0.1, eps=-1.0)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_it_runs_on_sharded_parameters_where_optax_refuses_explicit_sharding(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    rng = np.random.default_rng(0)
    hosts = {"kernel": rng.normal(size=(16, 4)), "out": rng.normal(size=(4, 16))}
    specs = {"kernel": P("data", None), "out": P(None, "data")}

    def place(scale):
        return {
            name: jax.device_put(
                np.asarray(scale * host, np.float32), NamedSharding(mesh, specs[name])
            )
            for name, host in hosts.items()
        }

    gradient, params = place(100.0), place(1.0)
    clip = adaptive_clip(0.1)
    with jax.set_mesh(mesh):
        ours, state = jax.jit(clip.update)(gradient, clip.init(params), params)
        if kind == AxisType.Explicit:
            theirs = optax.adaptive_grad_clip(0.1)
            with pytest.raises(Exception, match=r"[Ss]harding"):
                jax.jit(theirs.update)(gradient, theirs.init(params), params)
    for name, host in hosts.items():
        np.testing.assert_allclose(ours[name], 0.1 * host, rtol=1e-5)
        assert ours[name].sharding.spec == specs[name]
    assert state.last_fraction == 1.0
