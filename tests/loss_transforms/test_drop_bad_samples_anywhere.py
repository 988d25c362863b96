"""Dropping bad samples under noise, state, other transforms and derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samples import (
    BATCH,
    DAMAGE,
    GOOD,
    KEY,
    PARAMS,
    SIZE,
    broken,
    differentiate,
    exact,
    loss_fn,
    of_batch,
    stateful,
    vector_of,
)

from stabjax.loss_transforms import (
    bound_component,
    component_gradient_norms,
    drop_bad_samples,
    drop_nonfinite_component,
    pcgrad,
)
from stabjax.losses import combine, weigh


def noisy(params, sample, key):
    """Return a loss that is NaN for about a quarter of the keys."""
    noise = jax.random.normal(key)
    return params * jnp.where(noise > 0.7, jnp.nan, noise) + sample, {"noise": noise}


@pytest.mark.parametrize("legacy", [False, True])
def test_each_sample_keeps_its_noise_in_the_second_pass(legacy):
    key = jax.random.PRNGKey(3) if legacy else jax.random.key(3)
    noise = jax.vmap(jax.random.normal)(jax.random.split(jax.random.key(3), 40))
    good = np.float64(noise)[np.asarray(noise) <= 0.7]
    assert 25 < good.size < 38
    grad_fn = jax.jit(jax.value_and_grad(drop_bad_samples(noisy), has_aux=True))
    (loss, aux), gradient = grad_fn(jnp.float32(2.0), jnp.zeros(40), key)
    np.testing.assert_allclose(float(gradient), np.mean(good), rtol=1e-5)
    np.testing.assert_allclose(float(loss), 2.0 * np.mean(good), rtol=1e-5)
    np.testing.assert_allclose(float(aux["noise"]), np.mean(good), rtol=1e-5)
    assert float(aux["dropped_samples"]) == 40 - good.size


def test_a_batched_loss_keeps_its_noise_where_it_is():
    def noisy_batch(params, batch, key):
        noise = jax.random.normal(key, batch.shape)
        return jnp.where(batch < 0, jnp.nan, 1.0) * params * noise, {"noise": noise}

    batch = jnp.ones(9).at[jnp.asarray([2, 7])].set(-1.0)
    noise = np.float64(jax.random.normal(jax.random.clone(KEY), (9,)))
    transformed = drop_bad_samples(noisy_batch, batched=True)
    _, aux, gradient = differentiate(transformed, batch, jnp.float32(1.0))
    wanted = np.mean(np.delete(noise, [2, 7]))
    np.testing.assert_allclose(float(gradient), wanted, rtol=1e-5)
    np.testing.assert_allclose(float(aux["noise"]), wanted, rtol=1e-5)


def test_without_a_key_the_loss_is_given_none():
    def keyless(params, sample, key):
        assert key is None
        return loss_fn(params, sample, key)

    transformed = drop_bad_samples(keyless)
    _, _, gradient = differentiate(transformed, broken(DAMAGE), key=None)
    np.testing.assert_allclose(vector_of(gradient), exact(PARAMS, BATCH, GOOD)[1], 1e-5)


def test_a_model_state_is_averaged_over_the_samples_that_keep_it_finite():
    old = {"mean": jnp.ones(2), "best": jnp.float32(jnp.inf), "seen": jnp.int32(7)}
    _, aux, gradient = differentiate(
        drop_bad_samples(stateful), broken(DAMAGE), model_state=old
    )
    labels = np.asarray(BATCH["label"])
    good = np.asarray([i for i in GOOD if labels[i] != 4])
    assert float(aux["dropped_samples"]) == SIZE - good.size == 4.0
    new = aux["model_state"]
    wanted = np.full(2, 0.9 + 0.1 * np.mean(labels[good]))
    np.testing.assert_allclose(new["mean"], wanted, rtol=1e-6)
    assert float(new["best"]) == np.inf
    assert (int(new["seen"]), new["seen"].dtype) == (8, jnp.int32)
    np.testing.assert_allclose(vector_of(gradient), exact(PARAMS, BATCH, good)[1], 1e-5)


def test_the_step_and_the_weights_of_the_loss_inside_are_passed_on():
    terms = lambda p, s, k: ({"fit": loss_fn(p, s, k)[0]}, {})
    transformed = drop_bad_samples(weigh(terms, weights={"fit": lambda step: step}))
    assert transformed.wants_step
    assert transformed.components == ("fit",)
    _, aux, gradient = differentiate(transformed, broken(DAMAGE), step=jnp.int32(3))
    value, slope = exact(PARAMS, BATCH, GOOD)
    np.testing.assert_allclose(vector_of(gradient), 3 * slope, rtol=1e-5)
    np.testing.assert_allclose(float(aux["raw/fit"]), value, rtol=1e-6)


def test_counters_absent_leaves_and_parameters_that_do_not_move():
    params = {**PARAMS, "steps": jnp.int32(3), "none": None}
    _, _, gradient = differentiate(drop_bad_samples(loss_fn), broken(DAMAGE), params)
    assert gradient["steps"].dtype == jax.dtypes.float0
    assert gradient["none"] is None
    np.testing.assert_allclose(vector_of(gradient), exact(PARAMS, BATCH, GOOD)[1], 1e-5)


def test_a_factor_outside_multiplies_the_gradient():
    transformed = drop_bad_samples(loss_fn)
    thrice = lambda p, b, k: (3.0 * transformed(p, b, k)[0], {})
    _, _, gradient = differentiate(thrice, broken(DAMAGE))
    wanted = 3 * exact(PARAMS, BATCH, GOOD)[1]
    np.testing.assert_allclose(vector_of(gradient), wanted, rtol=1e-5)


def test_what_is_reported_has_no_gradient_but_the_components_have():
    transformed = drop_bad_samples(loss_fn)
    report = lambda name: lambda p, b, k: (transformed(p, b, k)[1][name], {})
    _, _, gradient = differentiate(report("raw/fit"), broken(DAMAGE))
    np.testing.assert_array_equal(vector_of(gradient), 0.0)
    _, _, gradient = differentiate(report("weighted/root"), broken(DAMAGE))
    slope = exact(PARAMS, BATCH, GOOD)[1]
    wanted = np.append(np.zeros(6), slope[6])
    np.testing.assert_allclose(vector_of(gradient), wanted, rtol=1e-5)


OUTER = {
    "bound_component": lambda f: bound_component(f, "root", lambda x: 2.0 * x),
    "component_gradient_norms": component_gradient_norms,
    "drop_nonfinite_component": functools.partial(
        drop_nonfinite_component, check_gradient=True
    ),
    "pcgrad": lambda f: pcgrad(f, order="named"),
}


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("damage", [{}, DAMAGE])
def test_a_transform_outside_sees_the_mean_over_the_good_samples(outer, damage):
    good = np.setdiff1d(np.arange(SIZE), list(damage))
    only = jax.tree.map(lambda leaf: jnp.asarray(leaf)[good], BATCH)

    def plain(params, batch, key):
        means = jax.tree.map(jnp.mean, of_batch(params, batch, key)[1])
        named = {n: v for n, v in means.items() if n.startswith(("raw/", "weighted/"))}
        return named["weighted/fit"] + named["weighted/root"], named

    build = OUTER[outer]
    loss, aux, gradient = differentiate(
        build(drop_bad_samples(loss_fn)), broken(damage)
    )
    expected, wanted, slope = differentiate(build(plain), only)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-6)
    np.testing.assert_allclose(vector_of(gradient), vector_of(slope), rtol=1e-5)
    for name in wanted.keys() - {"unnamed"}:
        np.testing.assert_allclose(float(aux[name]), float(wanted[name]), rtol=1e-5)
    assert float(aux["dropped_samples"]) == len(damage)


def test_several_losses_over_one_batch_are_combined():
    total = combine({"a": drop_bad_samples(loss_fn), "b": lambda p, b, k: p["b"] ** 2})
    _, _, gradient = differentiate(total, broken(DAMAGE))
    wanted = exact(PARAMS, BATCH, GOOD)[1] + np.append(np.zeros(6), 0.8)
    np.testing.assert_allclose(vector_of(gradient), wanted, rtol=1e-5)


def test_the_derivative_of_the_gradient_is_that_of_the_good_samples():
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)), PARAMS)
    direction = jax.tree.map(lambda d, p: d.reshape(p.shape), direction, PARAMS)
    batch = broken(DAMAGE)

    def along(loss):
        gradient = lambda p: jax.grad(loss, has_aux=True)(p, batch, None)[0]
        return jax.jit(lambda: jax.jvp(gradient, (PARAMS,), (direction,))[1])()

    curved = along(drop_bad_samples(loss_fn))
    x = np.float64(BATCH["x"])[GOOD]
    _, slope = exact(PARAMS, BATCH, GOOD)
    wanted = 2 * np.float64(direction["w"]) @ x.T @ x / len(GOOD)
    wanted = np.append(wanted.ravel(), slope[6] / 2 * float(direction["b"]))
    np.testing.assert_allclose(vector_of(curved), wanted, rtol=1e-5)


def accumulated(params, batches, transformed):
    add = lambda total, batch: (total + transformed(params, batch, None)[0], None)
    return jax.lax.scan(add, jnp.zeros(()), batches)[0]


def in_checkpoint(params, batches, transformed):
    run = jax.checkpoint(lambda p, b: transformed(p, b, None)[0])
    return sum(
        run(params, jax.tree.map(lambda leaf, i=i: leaf[i], batches)) for i in (0, 1)
    )


@pytest.mark.parametrize("through", [accumulated, in_checkpoint])
def test_a_gradient_through_a_loop_or_a_checkpoint_is_that_of_the_good(through):
    pair = [broken(DAMAGE), broken({0: "nan gradient"})]
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair)
    total = lambda params: through(params, batches, drop_bad_samples(loss_fn))
    gradient = jax.jit(jax.grad(total))(PARAMS)
    wanted = exact(PARAMS, BATCH, GOOD)[1] + exact(PARAMS, BATCH, np.arange(1, SIZE))[1]
    np.testing.assert_allclose(vector_of(gradient), wanted, rtol=1e-5)


def test_what_cannot_be_differentiated_is_an_error():
    transformed, batch = drop_bad_samples(loss_fn), broken(DAMAGE)
    norm = lambda p: jnp.sum(
        jax.grad(transformed, has_aux=True)(p, batch, None)[0]["w"]
    )
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(norm)(PARAMS)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda p: transformed(p, batch, None)[0], (PARAMS,), (PARAMS,))
    of_input = lambda x: transformed(PARAMS, {**batch, "x": x}, None)[0]
    of_both = lambda p: transformed(p, {**batch, "added": p["b"] * ones}, None)[0]
    ones = jnp.ones(SIZE)
    for function, argument in ((of_input, batch["x"]), (of_both, PARAMS)):
        for run in (lambda f: f, jax.jit):
            with pytest.raises(ValueError, match="only parameters"):
                run(jax.grad(run(function)))(argument)


def test_a_loss_that_names_no_components_will_do():
    plain = lambda p, s, k: (loss_fn(p, s, k)[0], {})
    transformed = drop_bad_samples(plain)
    assert transformed.components is None
    loss, aux, gradient = differentiate(transformed, broken(DAMAGE))
    value, slope = exact(PARAMS, BATCH, GOOD)
    np.testing.assert_allclose(float(loss), value, rtol=1e-6)
    np.testing.assert_allclose(vector_of(gradient), slope, rtol=1e-5)
    assert sorted(aux) == [
        "bad_samples",
        "dropped_samples",
        "dropped_share",
        "first_bad_sample",
    ]
