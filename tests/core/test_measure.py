"""Norms, finiteness and the first bad leaf, from one read of the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabjax.core.judge import init_core
from stabjax.core.layout import layout_of
from stabjax.core.measure import step_stats
from stabjax.core.sums import Sums, sums_in_both_units, sums_of_squares
from stabjax.train_step import make_train_step
from stabjax.types import Alert, Layout

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
HUGE = {
    jnp.float16: (300.0, 6e4),
    jnp.bfloat16: (1e20, 1e30),
    jnp.float32: (1e20, 1e30),
}


@functools.partial(jax.jit, static_argnames="spread")
def measured(tree, *, spread=False):
    sums = sums_in_both_units(tree, spread=spread)
    return step_stats(
        layout_of(tree), sums, jnp.float32(1), {}, init_core(()).progress()
    )


def norm64(leaf):
    wide = np.asarray(leaf).astype(np.complex128)
    return np.sqrt(np.sum(np.abs(wide) ** 2))


def close(ours, exact):
    np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=4e-6)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_per_leaf_and_overall_match_float64(dtype, spread):
    rng = np.random.default_rng(0)
    shapes = [(3,), (), (40, 5), (9000,), (3,), (3,), (3,), (2, 3), (1,)]
    tree = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]
    stats = measured(tree, spread=spread)
    exact = [norm64(leaf) for leaf in tree]
    close(stats.leaf_norms, exact)
    close(stats.grad_norm, np.linalg.norm(exact))
    assert stats.finite
    assert stats.first_bad_leaf == -1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [5, 9000])
def test_the_first_bad_leaf_is_named_wherever_the_element_is(size, value):
    for bad in range(3):
        tree = [jnp.ones(size) for _ in range(3)]
        for later in range(bad, 3):
            tree[later] = tree[later].at[size - 1].set(value)
        stats = measured(tree)
        assert stats.first_bad_leaf == bad
        assert not stats.finite
        assert not stats.overflow
        assert jnp.isnan(stats.grad_norm)


@pytest.mark.parametrize(("dtype", "value"), [(d, v) for d in DTYPES for v in HUGE[d]])
def test_a_finite_gradient_has_a_finite_norm_however_large(dtype, value):
    tree = {"a": jnp.full((16,), value, dtype), "b": jnp.ones((3,), dtype)}
    for spread in (False, True):
        stats = measured(tree, spread=spread)
        assert stats.finite
        close(stats.grad_norm, np.hypot(norm64(tree["a"]), norm64(tree["b"])))
        assert bool(stats.overflow) == (value >= 1e20)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("leaves", [1, 2, 5])
def test_a_single_element_is_measured_in_the_small_unit_too(shape, leaves):
    tree = [jnp.full(shape, 1e30)] + [jnp.ones(shape)] * (leaves - 1)
    for spread in (False, True):
        stats = measured(tree, spread=spread)
        assert stats.finite
        close(stats.grad_norm, 1e30)
    assert not measured([jnp.full(shape, jnp.inf)] * leaves).finite


@pytest.fixture(
    scope="module", params=[(f, d) for f in ("branch", "select") for d in DTYPES]
)
def applied(request):
    """Return ``gradients -> row`` of a whole step in one form and dtype."""
    form, dtype = request.param
    params = {name: jnp.zeros((16,), dtype) for name in "abc"}
    train = make_train_step(lambda p, b, k: (b, {}), optax.sgd(1e-3), form=form)
    state = train.init(params, jnp.ones(()))
    step = jax.jit(lambda g: train.apply_gradients(state, jnp.float32(1), {}, g)[1])
    names = train.schema(state)

    def row(**values):
        gradients = {n: jnp.full((16,), values.get(n, 1.0), dtype) for n in "abc"}
        floats, ints = step(gradients)
        return dict(zip(names.floats, floats.tolist(), strict=True)) | dict(
            zip(names.ints, ints.tolist(), strict=True)
        )

    row.dtype = dtype
    return row


def test_overflow_is_told_apart_from_inf_and_nan_in_a_whole_step(applied):
    for value in HUGE[applied.dtype]:
        row = applied(b=value)
        assert row["first_bad_leaf"] == -1
        assert not row["alerts"] & int(Alert.NONFINITE_GRADIENT)
        assert bool(row["alerts"] & int(Alert.NORM_OVERFLOW)) == (value >= 1e20)
        exact = np.sqrt(16 * float(jnp.asarray(value, applied.dtype)) ** 2 + 32)
        close(row["grad_norm"], exact)
    for value in (np.inf, -np.inf, np.nan):
        row = applied(b=value)
        assert row["first_bad_leaf"] == 1
        assert row["alerts"] == int(Alert.NONFINITE_GRADIENT)
        assert row["accepted"] == 0


def test_elements_that_are_not_finite_are_counted_over_all_leaves(applied):
    for value in (1.0, HUGE[applied.dtype][1]):
        assert applied(b=value)["nonfinite_elements"] == 0
    assert applied(b=np.nan)["nonfinite_elements"] == 16
    assert (
        applied(a=np.inf, b=HUGE[applied.dtype][1], c=np.nan)["nonfinite_elements"]
        == 32
    )


def test_more_elements_than_int32_counts_are_the_largest_int32():
    sums = Sums(*(jnp.asarray([np.nan, np.nan]) for _ in range(2)), jnp.full(2, 2e9))
    layout = Layout(("a", "b"), (2, 2))
    stats = step_stats(layout, sums, jnp.float32(1), {}, init_core(()).progress())
    assert stats.nonfinite_elements == 2**31 - 1


def test_a_leaf_that_only_overflows_is_not_blamed_for_another(applied):
    largest = HUGE[applied.dtype][1]
    for value in (np.nan, np.inf):
        row = applied(a=largest, c=value)
        assert row["first_bad_leaf"] == 2


def test_tiny_gradients_are_finite_and_measure_zero_below_the_root_of_float32():
    stats = measured({"a": jnp.full((4,), 1e-40), "b": jnp.full((4,), 1e-30)})
    assert stats.finite
    assert stats.grad_norm == 0.0
    close(measured({"a": jnp.full((4,), 1e-17)}).grad_norm, 2e-17)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("tree", [{}, [], {"a": None}, {"a": np.zeros((0, 3))}])
def test_a_tree_without_elements_is_finite_and_has_norm_zero(tree, spread):
    stats = measured(jax.tree.map(jnp.asarray, tree), spread=spread)
    assert stats.finite
    assert stats.grad_norm == 0.0
    assert stats.first_bad_leaf == -1


@pytest.mark.parametrize("spread", [False, True])
def test_complex_leaves_count_both_parts_and_integers_count_nothing(spread):
    odd = [jnp.asarray([3 + 4j, 1e20j]), jnp.asarray([7, 8]), jnp.asarray([True])]
    stats = measured(odd, spread=spread)
    close(stats.leaf_norms, [1e20, 0.0, 0.0])
    bad = [jnp.asarray([1.0 + 0j, complex(0, np.nan)]), *odd[1:]]
    assert measured(bad, spread=spread).first_bad_leaf == 0


@settings(max_examples=5)
@given(
    leaves=st.integers(4, 9),
    shape=st.lists(st.integers(0, 4), max_size=3),
    seed=st.integers(0, 99),
)
def test_stacked_small_leaves_have_the_sums_of_the_single_ones(leaves, shape, seed):
    rng = np.random.default_rng(seed)
    tree = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(leaves)]
    both = sums_in_both_units(tree, spread=False)
    np.testing.assert_allclose(both.plain, sums_of_squares(tree), rtol=1e-6)
    small = sums_of_squares(tree, 2.0**-20)
    np.testing.assert_allclose(small, both.plain * 2.0**-40, rtol=1e-6)


@pytest.mark.parametrize("spread", [False, True])
def test_a_leaf_of_thirty_million_elements_is_summed_accurately(spread):
    leaf = jnp.ones((2**25,), jnp.bfloat16)
    sums = jax.jit(lambda x: sums_in_both_units([x], spread=spread))(leaf)
    close(sums.plain, [2.0**25])


def test_the_sum_over_leaves_may_overflow_although_no_leaf_does():
    stats = measured([jnp.asarray([1.5e19]), jnp.asarray([1.5e19])])
    assert stats.overflow
    close(stats.grad_norm, 1.5e19 * np.sqrt(2))


def test_nothing_is_to_blame_in_a_tree_without_leaves():
    stats = measured({})
    assert (stats.first_bad_leaf, stats.first_bad_component) == (-1, -1)
    assert (stats.grad_norm, stats.finite) == (0.0, True)
