"""A few bad samples do not cost the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from hypothesis import given
from hypothesis import strategies as st
from samples import (
    BATCH,
    KEY,
    KINDS,
    PARAMS,
    SIZE,
    broken,
    differentiate,
    exact,
    loss_fn,
    of_batch,
    vector_of,
)
from test_host_traffic import TALKS, counted_reads

from stabjax.health import decode
from stabjax.loss_transforms import drop_bad_samples
from stabjax.train_step import make_train_step


@functools.cache
def form(name):
    """Return the compiled gradient of the transform of one form of the loss."""
    batched = name == "batched"
    transformed = drop_bad_samples(of_batch if batched else loss_fn, batched=batched)
    return jax.jit(jax.value_and_grad(transformed, has_aux=True))


def check(result, bad):
    """Compare with the mean over the good samples in float64."""
    (loss, aux), gradient = result
    good = np.setdiff1d(np.arange(SIZE), bad)
    value, slope = exact(PARAMS, BATCH, good)
    np.testing.assert_allclose(float(loss), value, rtol=1e-6)
    np.testing.assert_allclose(vector_of(gradient), slope, rtol=2e-6, atol=2e-6)
    total = float(aux["weighted/fit"]) + float(aux["weighted/root"])
    np.testing.assert_allclose(total, value, rtol=1e-6)
    mean_label = np.mean(np.float64(BATCH["label"])[good])
    np.testing.assert_allclose(float(aux["label"]), mean_label, rtol=1e-6)
    assert float(aux["dropped_samples"]) == float(aux["bad_samples"]) == len(bad)
    np.testing.assert_allclose(float(aux["dropped_share"]), len(bad) / SIZE)
    assert float(aux["first_bad_sample"]) == min(bad, default=-1)
    assert np.isfinite(float(aux["raw/fit"]))


@pytest.mark.parametrize("name", ["per sample", "batched"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [[0], [6], [SIZE - 1], [2, 3, 9]])
def test_value_and_gradient_are_those_of_the_good_samples(name, kind, bad):
    batch = broken(dict.fromkeys(bad, kind))
    plain = jax.grad(lambda p: jnp.mean(of_batch(p, batch, KEY)[0]))(PARAMS)
    harmless = kind in ("nan loss", "inf loss", "nan component")
    assert bool(np.all(np.isfinite(vector_of(plain)))) == harmless
    check(form(name)(PARAMS, batch, jax.random.clone(KEY)), bad)


@given(st.dictionaries(st.integers(0, SIZE - 1), st.sampled_from(KINDS), max_size=6))
def test_any_mixture_of_bad_samples_is_found(damage):
    result = form("per sample")(PARAMS, broken(damage), jax.random.clone(KEY))
    check(result, sorted(damage))


def test_while_all_are_finite_nothing_changes():
    def mean_loss(params, batch, key):
        losses = jax.vmap(lambda sample: loss_fn(params, sample, key)[0])(batch)
        return jnp.mean(losses), {}

    loss, _, gradient = differentiate(drop_bad_samples(loss_fn), BATCH)
    expected, _, wanted = differentiate(mean_loss, BATCH)
    np.testing.assert_allclose(float(loss), float(expected), rtol=3e-7)
    np.testing.assert_allclose(
        vector_of(gradient), vector_of(wanted), rtol=3e-7, atol=1e-7
    )


@functools.cache
def counting():
    """Return the compiled gradient, and a list that grows where a loss is computed."""
    computed = []

    def counted(params, sample, key):
        jax.debug.callback(computed.append, sample["label"])
        return loss_fn(params, sample, key)

    return jax.jit(jax.grad(drop_bad_samples(counted), has_aux=True)), computed


@pytest.mark.parametrize(
    ("damage", "passes"),
    [
        ({}, 1),
        ({2: "nan input", 7: "nan input"}, 2),
        (dict.fromkeys(range(7), "nan input"), 1),  # Too many.
        ({0: "nan gradient"}, 5),  # Sets of 6, 3, 1, then the other 11 at once.
        ({SIZE - 1: "nan gradient"}, 6),  # Sets of 6, 3, 1, 1, 1.
    ],
)
def test_the_second_pass_runs_only_where_and_as_often_as_it_must(damage, passes):
    grad_fn, computed = counting()
    computed.clear()
    jax.block_until_ready(grad_fn(PARAMS, broken(damage), jax.random.clone(KEY)))
    jax.effects_barrier()
    assert len(computed) == passes * SIZE


@pytest.mark.parametrize("kind", ["nan input", "nan gradient"])
@pytest.mark.parametrize(("max_share", "most"), [(0.25, 3), (0.0, 0), (1.0, 11)])
def test_with_more_bad_samples_than_allowed_the_batch_is_left(kind, max_share, most):
    transformed = drop_bad_samples(loss_fn, max_share=max_share)
    if most:
        allowed = broken(dict.fromkeys(range(most), kind))
        _, aux, gradient = differentiate(transformed, allowed)
        assert float(aux["dropped_samples"]) == most
        assert np.all(np.isfinite(vector_of(gradient)))
    batch = broken(dict.fromkeys(range(most + 1), kind))
    loss, aux, gradient = differentiate(transformed, batch)
    plain = lambda p, b, k: (jnp.mean(of_batch(p, b, k)[0]), {})
    expected, _, wanted = differentiate(plain, batch)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-6)
    np.testing.assert_allclose(
        vector_of(gradient), vector_of(wanted), rtol=1e-6, atol=1e-6
    )
    assert not np.all(np.isfinite(vector_of(gradient)))
    assert float(aux["dropped_samples"]) == float(aux["dropped_share"]) == 0.0
    assert float(aux["bad_samples"]) == most + 1
    assert float(aux["first_bad_sample"]) == 0.0


def test_a_share_of_samples_counts_exactly():
    batch = jnp.ones(100).at[:29].set(jnp.nan)
    square = lambda p, s, k: ((p * s) ** 2, {})
    for max_share, dropped in ((0.29, 29.0), (0.289, 0.0)):
        transformed = drop_bad_samples(square, max_share=max_share)
        _, aux, _ = differentiate(transformed, batch, jnp.float32(1.0))
        assert float(aux["dropped_samples"]) == dropped


def test_a_sum_that_overflows_is_the_fault_of_no_sample():
    batch = jnp.full((4,), 3e38)
    loss, aux, gradient = differentiate(
        drop_bad_samples(lambda p, s, k: (p * s, {})), batch, jnp.float32(1.0)
    )
    assert np.isinf(float(loss))  # The step is refused.
    assert float(aux["bad_samples"]) == 0.0
    huge = drop_bad_samples(lambda p, s, k: (jnp.sum(p * s) * 8.0, {}))
    _, aux, gradient = differentiate(huge, batch / 10, jnp.float32(1e-30))
    assert float(aux["bad_samples"]) == 0.0
    np.testing.assert_allclose(float(gradient), 2.4e38, rtol=1e-6)


@pytest.mark.parametrize(
    "form", ["branch", pytest.param("select", marks=pytest.mark.slow)]
)
def test_the_good_samples_go_on_training_through_the_train_step(form):
    traced = []

    def traced_loss(params, sample, key):
        traced.append(1)
        return loss_fn(params, sample, key)

    transformed = drop_bad_samples(traced_loss)
    train = make_train_step(transformed, optax.sgd(0.01), form=form, window=8)
    damages = [{}, {3: "nan input"}, {0: "nan gradient", 11: "inf input"}, {}]
    damages.append(dict.fromkeys(range(9), "nan input"))
    batches = [broken(damage) for damage in damages]
    state = train.init(PARAMS, batches[0])
    text = train.step.lower(state, batches[0], KEY).compile().as_text()
    assert not TALKS.search(text)
    with compilations() as compiled, counted_reads() as reads:
        state, _ = train.step(state, batches[0], KEY)
        once = len(traced)
        for batch in batches[1:]:
            state, _ = train.step(state, batch, KEY)
    assert len(traced) == once
    assert len([name for name in compiled if "one" in name]) <= 1
    assert reads == []
    params = jax.tree.map(np.float64, PARAMS)
    for damage in damages[:4]:
        good = np.setdiff1d(np.arange(SIZE), list(damage))
        _, slope = exact(params, BATCH, good)
        params = {"w": params["w"] - 0.01 * slope[:6].reshape(2, 3)} | {
            "b": params["b"] - 0.01 * slope[6]
        }
    np.testing.assert_allclose(vector_of(state.params), vector_of(params), rtol=2e-6)
    many = train.init(PARAMS, batches[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    many, _ = train.many_steps(many, stacked, KEY)
    np.testing.assert_allclose(
        vector_of(many.params), vector_of(state.params), rtol=1e-6
    )
    rows = decode(
        train.schema(state),
        np.asarray(state.telemetry.floats),
        np.asarray(state.telemetry.ints),
    )
    assert [row["accepted"] for row in rows] == [1, 1, 1, 1, 0]
    assert [row["dropped_samples"] for row in rows] == [0, 1, 2, 0, 0]
    assert [row["bad_samples"] for row in rows] == [0, 1, 2, 0, 9]
    assert [row["alerts"] for row in rows][:4] == [0, 0, 0, 0]


def test_half_precision_parameters_keep_their_dtype():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    batch = broken({4: "nan input", 8: "nan gradient"})
    loss, aux, gradient = differentiate(drop_bad_samples(loss_fn), batch, half)
    good = np.setdiff1d(np.arange(SIZE), [4, 8])
    value, slope = exact(jax.tree.map(np.float64, half), BATCH, good)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in aux.values()} == {"float32"}
    np.testing.assert_allclose(float(loss), value, rtol=0.02)
    largest = np.max(np.abs(slope))
    np.testing.assert_allclose(vector_of(gradient), slope, atol=0.02 * largest)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_batch_of_any_size_is_searched(size):
    square = lambda p, s, k: (jnp.sqrt(s * p), {})
    for bad in range(size):
        batch = jnp.ones(size).at[bad].set(0.0)
        _, aux, gradient = differentiate(
            drop_bad_samples(square, max_share=1.0), batch, jnp.float32(4.0)
        )
        if size == 1:  # Nothing would be left.
            assert np.isnan(float(gradient))
            assert float(aux["dropped_samples"]) == 0.0
        else:
            np.testing.assert_allclose(float(gradient), 0.25, rtol=1e-6)
            assert float(aux["first_bad_sample"]) == bad


def test_a_call_that_is_not_differentiated_gives_the_same():
    batch = broken({1: "nan gradient", 5: "nan loss"})
    transformed = drop_bad_samples(loss_fn)
    loss, aux = jax.jit(transformed)(PARAMS, batch, jax.random.clone(KEY))
    expected, wanted, _ = differentiate(transformed, batch)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-6)
    assert {n: float(v) for n, v in aux.items()} == pytest.approx(
        {n: float(v) for n, v in wanted.items()}, rel=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_share": -0.1}, "max_share"), ({"max_share": 1.5}, "max_share")],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=f"drop_bad_samples: {message}"):
        drop_bad_samples(loss_fn, **options)


@pytest.mark.parametrize(
    ("inner", "batch", "message"),
    [
        (loss_fn, {"x": jnp.ones((3, 2)), "y": jnp.ones(4)}, "leading axis"),
        (loss_fn, {"x": jnp.ones(3), "y": jnp.ones(())}, "leading axis"),
        (loss_fn, None, "leading axis"),
        (loss_fn, jnp.ones((0, 2)), "leading axis"),
        (lambda p, s, k: (s, {}), jnp.ones((3, 2)), "'loss' must have shape"),
        (lambda p, s, k: (jnp.int32(1), {}), jnp.ones(3), "must be floats, got int32"),
        (lambda p, s, k: (s, {"m": jnp.ones(2)}), jnp.ones(3), "'m' must have shape"),
    ],
)
def test_a_loss_or_batch_of_another_shape_is_refused(inner, batch, message):
    with pytest.raises(ValueError, match=f"drop_bad_samples: .*{message}"):
        drop_bad_samples(inner)(PARAMS, batch, jax.random.clone(KEY))


def test_a_batched_loss_has_to_report_one_value_per_sample():
    with pytest.raises(ValueError, match=r"'loss' must have shape \(3,\), got"):
        drop_bad_samples(lambda p, b, k: (jnp.mean(b), {}), batched=True)(
            PARAMS, jnp.ones(3), None
        )
