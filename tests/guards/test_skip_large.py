"""`skip_large`: an absolute limit, and the end of a streak above it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import judge_series

from stabjax.guards import skip_large
from stabjax.types import Alert

SPIKE, REBASED, HALT = (
    int(x) for x in (Alert.GRADIENT_SPIKE, Alert.REBASED, Alert.HALT)
)


def test_a_norm_above_the_limit_is_refused_and_one_at_it_is_not():
    norms = [1.0, 2.0, np.nextafter(np.float32(2.0), np.float32(3.0)), 1e30, 1.0]
    trace = judge_series(skip_large(max_norm=2.0), grad_norm=norms)
    assert trace.accepted.tolist() == [True, True, False, False, True]
    assert trace.alerts.tolist() == [0, 0, SPIKE, SPIKE, 0]
    assert trace.state.total[-1] == 2


def test_a_lasting_rise_halts_by_default_because_an_absolute_limit_knows_no_level():
    norms = np.where(np.arange(30) < 10, 1.0, 5.0)
    trace = judge_series(skip_large(max_norm=2.0, max_consecutive=4), grad_norm=norms)
    assert trace.halt.argmax() == 13
    assert trace.alerts[13] == SPIKE | HALT
    assert not trace.accepted[10:].any()


def test_it_accepts_the_rest_of_the_streak_where_asked_and_says_so():
    norms = np.where((np.arange(30) >= 10) & (np.arange(30) < 20), 5.0, 1.0)
    norms[25:] = 5.0
    guard = skip_large(max_norm=2.0, max_consecutive=4, on_exhausted="accept")
    trace = judge_series(guard, grad_norm=norms)
    refused = [10, 11, 12, 13, 25, 26, 27, 28]
    assert (~trace.accepted).nonzero()[0].tolist() == refused
    assert (trace.alerts == REBASED).nonzero()[0].tolist() == [*range(14, 20), 29]


def test_it_rolls_back_at_the_end_of_each_streak_where_asked():
    norms = np.where(np.arange(20) < 5, 1.0, 5.0)
    guard = skip_large(max_norm=2.0, max_consecutive=4, on_exhausted="roll_back")
    trace = judge_series(guard, grad_norm=norms)
    assert trace.roll_back.nonzero()[0].tolist() == [8, 12, 16]
    assert not trace.accepted[5:].any()


def test_a_nan_neither_prolongs_nor_ends_a_streak():
    norms = [1.0, 5.0, np.nan, 5.0, np.inf, 5.0, 1.0]
    trace = judge_series(skip_large(max_norm=2.0, max_consecutive=3), grad_norm=norms)
    assert trace.halt.argmax() == 5
    assert trace.state.streak.tolist() == [0, 1, 1, 2, 2, 3, 0]


def test_the_limit_of_optax_is_the_square_of_ours_and_refuses_equality():
    skip = jax.jit(optax.skip_large_updates, static_argnums=3)
    for norm in (1.0, 1.999, 2.0, 2.001, 5.0):
        theirs, _ = skip({"w": jnp.asarray([norm])}, 0, None, 4.0)
        ours = judge_series(skip_large(max_norm=2.0), grad_norm=[norm])
        if norm == 2.0:
            assert theirs
            assert ours.accepted[0]
        else:
            assert bool(theirs) == (not ours.accepted[0])


@pytest.mark.parametrize("norm", [1e20, 1e30])
def test_a_norm_whose_square_overflows_is_compared_as_it_is(norm):
    assert judge_series(skip_large(max_norm=1e31), grad_norm=[norm]).accepted[0]
    theirs, _ = optax.skip_large_updates({"w": jnp.asarray([norm])}, 0, None, 1e38)
    assert theirs
