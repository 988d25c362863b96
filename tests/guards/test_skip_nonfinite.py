"""`compat="optax"` is `optax.apply_if_finite`, step for step."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import judge_series
from hypothesis import given, settings
from hypothesis import strategies as st

from stabjax.guards import skip_nonfinite
from stabjax.transforms import guard

OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(optax.linear_schedule(1e-2, 1e-3, 20)),
}
# The kinds of gradient that a step may have.
FINITE, NAN, INF, ONE_LEAF, HUGE, LARGEST = range(6)


def gradient_of(kind, step):
    rng = np.random.default_rng(step)
    gradient = {
        "a": rng.normal(size=(2, 2)).astype(np.float32),
        "b": rng.normal(size=3).astype(np.float32),
        "c": np.float32(rng.normal()),
    }
    if kind == NAN:
        gradient = jax.tree.map(lambda x: np.full_like(x, np.nan), gradient)
    elif kind in (INF, ONE_LEAF):
        gradient["b"][step % 3] = np.inf if kind == INF else np.nan
    elif kind == HUGE:
        # Its square overflows in the second moment: finite, and optax lets it pass.
        gradient["b"][0] = 1e30
    elif kind == LARGEST:
        gradient["b"][0] = 3e38
    return jax.tree.map(jnp.asarray, gradient)


def same(ours, theirs):
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.dtype == its.dtype
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(its))


def compare(optimizer, kinds, most, losses=None):
    """Step both through the gradients and compare all that they have in common."""
    compat = skip_nonfinite(compat="optax", max_consecutive=most)
    ours, theirs = guard(optimizer(), compat), optax.apply_if_finite(optimizer(), most)
    params = jax.tree.map(jnp.ones_like, gradient_of(FINITE, 0))
    mine, its = ours.init(params), theirs.init(params)
    params_of_optax = params
    with jax.disable_jit():  # Compiled, the two contract differently into FMAs.
        for step, kind in enumerate(kinds):
            loss = 1.0 if losses is None else losses[step]
            gradient = gradient_of(kind, step)
            update, mine = ours.update(gradient, mine, params, value=loss)
            expected, its = theirs.update(gradient, its, params_of_optax)
            same(update, expected)
            same(mine.inner_state, its.inner_state)
            state = mine.core.guards[0]
            assert state.streak == its.notfinite_count
            assert state.total == its.total_notfinite
            assert (state.streak == 0) == its.last_finite
            params = optax.apply_updates(params, update)
            params_of_optax = optax.apply_updates(params_of_optax, expected)
            same(params, params_of_optax)


@pytest.mark.parametrize(("name", "most"), [("sgd", 0), ("adamw", 1), ("sgd", 3)])
def test_compat_is_apply_if_finite_for_random_faults(name, most):
    kinds = np.random.default_rng(most).choice(
        [FINITE, FINITE, NAN, INF, ONE_LEAF], size=14
    )
    kinds[6:11] = NAN  # A streak that is longer than any patience here.
    compare(OPTIMIZERS[name], kinds, most)


@pytest.mark.slow
@settings(max_examples=5)
@given(
    kinds=st.lists(st.sampled_from([FINITE, NAN, INF, HUGE]), min_size=8, max_size=8),
    most=st.integers(0, 4),
    bad_losses=st.sets(st.integers(0, 7)),
)
def test_compat_looks_at_nothing_but_the_gradient(kinds, most, bad_losses):
    losses = [np.nan if step in bad_losses else 1.0 for step in range(8)]
    compare(OPTIMIZERS["adamw"], kinds, most, losses)


def test_compat_applies_the_largest_finite_gradient_as_optax_does():
    compare(OPTIMIZERS["sgd"], [FINITE, LARGEST, FINITE], 3)


def test_the_counter_of_compat_goes_on_after_it_gave_in_as_in_optax():
    norms = np.asarray([1.0, *[np.nan] * 5, 1.0])
    compat = skip_nonfinite(compat="optax", max_consecutive=2)
    trace = judge_series(compat, grad_norm=norms)
    assert trace.accepted.tolist() == [True, False, False, True, True, True, True]
    assert trace.state.streak.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert not trace.halt.any()


def test_without_compat_the_loss_is_looked_at():
    losses = np.asarray([1.0, np.nan, 1.0])
    assert not judge_series(skip_nonfinite(), loss=losses).accepted[1]
    assert judge_series(skip_nonfinite(compat="optax"), loss=losses).accepted[1]


def test_compat_cannot_roll_back():
    with pytest.raises(ValueError, match="on_exhausted must be 'accept' with compat"):
        inspect.unwrap(skip_nonfinite)(compat="optax", on_exhausted="roll_back")
