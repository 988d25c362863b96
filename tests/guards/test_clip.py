"""Clipping: the right vector at every size, and nobody starved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import judge_series, rows_of

from stabjax import make_train_step, transforms
from stabjax.core.layout import layout_of
from stabjax.core.measure import group_norms
from stabjax.guards import (
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_group_norm,
    zclip,
)
from stabjax.transforms import guard
from stabjax.types import Alert

SIZES = {
    jnp.float32: (1e-30, 1e-18, 1e-6, 1.0, 3.0, 1e6, 1e18, 1e20, 1e30),
    jnp.bfloat16: (1e-30, 1e-18, 1e-6, 1.0, 3.0, 1e6, 1e18, 1e20, 1e30),
    jnp.float16: (1e-6, 1e-3, 1.0, 3.0, 300.0, 1e4, 6e4),
}
jitted_norms = jax.jit(group_norms, static_argnums=(1, 2))
ULPS = {jnp.float32: 32, jnp.bfloat16: 2, jnp.float16: 2}


def clipped_by(clip, gradient):
    optimizer = guard(optax.identity(), clip)
    update = jax.jit(optimizer.update)
    return update(gradient, optimizer.init(gradient))


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("dtype", SIZES)
def test_the_clipped_vector_is_right_at_every_size(dtype, group):
    clip = clip_by_group_norm() if group else clip_by_global_norm()
    rng, info = np.random.default_rng(0), jnp.finfo(dtype)
    for size in SIZES[dtype]:
        gradient = {"w": jnp.asarray(size * rng.uniform(0.5, 1.0, 16), dtype)}
        exact = np.asarray(gradient["w"], np.float64)
        exact *= min(1.0, 1.0 / np.linalg.norm(exact))
        ours, _ = clipped_by(clip, gradient)
        unit = float(info.eps) * np.maximum(np.abs(exact), float(info.tiny))
        assert np.all(
            np.abs(np.asarray(ours["w"], np.float64) - exact) <= ULPS[dtype] * unit
        )
        assert np.all(np.asarray(ours["w"]) > 0)


# A norm of which float32 holds no reciprocal, or which it does not hold at all.
@pytest.mark.parametrize("max_norm", [1.0, 1e-3])
@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("face", ["guard", "link", "branch", "select"])
def test_any_finite_gradient_is_clipped_to_the_bound(face, size, max_norm):
    params = {"w": jnp.zeros(size)}
    apply = _applied_by(face, max_norm, params)
    for value in (1e30, 1e34, 1e36, 3e38):
        moved, row = apply({"w": jnp.full((size,), value)})
        np.testing.assert_allclose(np.linalg.norm(moved), max_norm, rtol=1e-5)
        if row is not None:
            exact = min(value * size**0.5, float(jnp.finfo(jnp.float32).max))
            np.testing.assert_allclose(row["grad_norm"], exact, rtol=1e-5)
            assert row["gradient_scale"] <= 1.01 * max_norm / exact
            assert row["alerts"] & int(Alert.CLIPPED)


def _applied_by(face, max_norm, params):
    """Return ``gradient -> (update, telemetry or None)`` of SGD at rate 1."""
    clip = clip_by_global_norm(max_norm)
    if face in ("guard", "link"):
        made = {
            "guard": lambda: guard(optax.identity(), clip),
            "link": lambda: transforms.clip_by_global_norm(max_norm),
        }[face]()
        update = jax.jit(made.update)
        return lambda g: (np.asarray(update(g, made.init(params))[0]["w"]), None)
    loss = lambda p, b, k: (jnp.sum(p["w"] * b), {})
    train = make_train_step(loss, optax.sgd(1.0), guards=[clip], form=face)

    def apply(gradient):
        state = train.init(params, gradient["w"])
        state, _ = train.step(state, gradient["w"], jax.random.key(0))
        return -np.asarray(state.params["w"]), rows_of(state)[-1]

    return apply


@pytest.mark.parametrize("clip", [clip_by_group_norm(), zclip(), clip_by_block_rms()])
def test_what_nothing_brings_back_into_range_is_refused_and_says_so(clip):
    for optimizer in (optax.sgd(1.0), optax.adam(1.0)):
        guarded = guard(optimizer, clip)
        gradient = {"w": jnp.full((4,), 1e38)}
        update, state = jax.jit(guarded.update)(gradient, guarded.init(gradient))
        assert not np.any(update["w"])
        assert state.alerts & int(Alert.GRADIENT_RANGE)
        assert state.refused_step == 0


def test_the_norm_after_clipping_is_the_bound_over_all_leaves():
    gradient = {"a": jnp.full((4,), 3.0), "b": jnp.asarray(-8.0)}
    ours, state = clipped_by(clip_by_global_norm(max_norm=0.5), gradient)
    np.testing.assert_allclose(ours["a"], 0.15, rtol=1e-6)
    np.testing.assert_allclose(ours["b"], -0.4, rtol=1e-6)
    assert state.alerts == int(Alert.CLIPPED)
    np.testing.assert_allclose(state.core.guards[0].clip_ratio, 0.05, rtol=1e-6)


def test_a_gradient_at_the_bound_is_not_clipped():
    trace = judge_series(clip_by_global_norm(max_norm=2.0), grad_norm=[2.0, 2.001])
    assert trace.gradient_scale[0] == 1.0
    assert trace.gradient_scale[1] < 1.0
    assert trace.alerts.tolist() == [0, int(Alert.CLIPPED)]


def test_the_statistics_are_the_share_clipped_and_the_geometric_mean_of_norms():
    norms = np.asarray([0.5, 4.0, np.nan, 2.0, 0.25, np.inf])
    trace = judge_series(clip_by_global_norm(max_norm=1.0), grad_norm=norms)
    finite = norms[np.isfinite(norms)]
    assert trace.state.seen[-1] == 4
    np.testing.assert_allclose(trace.state.clip_fraction[-1], 0.5, rtol=1e-6)
    typical = np.exp(np.mean(np.log(finite)))
    np.testing.assert_allclose(trace.state.typical_norm[-1], typical, rtol=1e-4)


def test_one_explosion_moves_the_typical_norm_by_a_few_per_cent():
    norms = np.ones(500)
    norms[400] = 1e30
    trace = judge_series(clip_by_global_norm(), grad_norm=norms)
    assert 1.0 < trace.state.typical_norm[400] < 2.1
    assert trace.state.typical_norm[-1] < 1.3


def test_one_exploding_head_starves_the_rest_globally_but_not_by_group():
    gradient = {"core": jnp.full((4,), 0.5), "head": jnp.full((4,), 1e6)}
    starved, _ = clipped_by(clip_by_global_norm(), gradient)
    ours, _ = clipped_by(clip_by_group_norm(groups=["head"]), gradient)
    assert np.max(starved["core"]) < 1e-6
    np.testing.assert_array_equal(ours["core"], gradient["core"])
    np.testing.assert_allclose(ours["head"], 0.5, rtol=1e-6)


def test_a_group_is_still_clipped_while_another_overflows():
    gradient = {"core": jnp.full((4,), 25.0), "head": jnp.full((4,), 1e25)}
    ours, state = clipped_by(clip_by_group_norm(groups=["head"]), gradient)
    np.testing.assert_allclose(ours["core"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(ours["head"], 0.5, rtol=1e-6)
    typical = state.core.guards[0].typical_norm
    np.testing.assert_allclose(typical, [2e25, 50.0], rtol=1e-4)


@pytest.mark.parametrize("largest", [1.0, 1e18, 1e25, 1e38])
def test_group_norms_match_float64_whatever_the_others_are(largest):
    norms = np.asarray([3.0, 4.0, largest, 1e-10, 0.0, 2 * largest], np.float32)
    ours = jitted_norms(jnp.asarray(norms), (0, 0, 1, 2, 2, 1), 4)
    exact = [5.0, np.sqrt(5.0) * largest, 1e-10, 0.0]
    np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=1e-5)


def test_groups_of_one_leaf_each_have_its_norm_in_any_order():
    ours = jitted_norms(jnp.asarray([3.0, 4.0, 5.0]), (2, 0, 1), 3)
    assert [float(norm) for norm in ours] == [4.0, 5.0, 3.0]


def test_a_nan_in_one_group_leaves_the_statistics_of_the_others_clean():
    norms = jnp.asarray([np.nan, 2.0])
    ours = jitted_norms(norms, (0, 1), 2)
    assert jnp.isnan(ours[0])
    assert ours[1] == 2.0


def test_a_leaf_belongs_to_the_longest_prefix_that_ends_at_a_slash():
    tree = {"head": {"a": 0.0, "ab": 0.0}, "heads": 0.0, "core": 0.0}
    layout = layout_of(tree)
    assert layout.leaves == ("core", "head/a", "head/ab", "heads")
    assert layout.members(("head", "head/a")) == (2, 1, 0, 2)


def test_a_prefix_that_fits_nothing_names_the_nearest():
    clip = clip_by_group_norm(groups=["heda"])
    gradient = {"head": {"w": jnp.ones(2)}, "core": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"under 'heda'. Did you mean 'head'\?"):
        clipped_by(clip, gradient)
