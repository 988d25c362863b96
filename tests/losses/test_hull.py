"""How far a target lies outside what the sampler can produce."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax import losses
from stabjax.losses import check_in_hull

hull_violation = jax.jit(losses.hull_violation, static_argnames="box")
WEIGHTS = hnp.arrays(np.float64, (4, 5), elements=st.floats(0.0, 1.0))


@given(WEIGHTS)
def test_every_convex_combination_of_states_is_inside(weights):
    rows = weights + 1e-9
    rows /= rows.sum(1, keepdims=True)
    assert float(hull_violation(jnp.asarray(rows, jnp.float32))) <= 1e-6
    check_in_hull(jnp.asarray(rows, jnp.float32))


@given(st.integers(0, 4), st.floats(2.0**-9, 100.0, width=32))
def test_the_amount_outside_the_simplex_is_measured(place, amount):
    below, heavy = np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32)
    below[place, (place + 1) % 5] = -amount
    below[place, place] += amount
    np.testing.assert_allclose(hull_violation(below), amount, rtol=1e-5, atol=1e-6)
    heavy[place, place] += amount
    np.testing.assert_allclose(hull_violation(heavy), amount, rtol=1e-5, atol=1e-6)


@given(hnp.arrays(np.float32, 6, elements=st.floats(-20.0, 20.0, width=32)))
def test_the_amount_outside_a_box_is_measured(target):
    exact = max(0.0, np.max(-target), np.max(target - 9.0))
    ours = hull_violation(jnp.asarray(target), box=(0.0, 9.0))
    np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1.2e-38)


def test_it_runs_under_jit_and_vmap():
    targets = np.stack([np.eye(3), 2 * np.eye(3)]).astype(np.float32)
    amounts = jax.jit(jax.vmap(hull_violation))(targets)
    np.testing.assert_allclose(amounts, [0.0, 1.0])


def test_cells_that_do_not_count_may_hold_anything():
    target = jnp.array([[1.0, 0.0], [jnp.nan, 99.0]])
    mask = jnp.array([True, False])
    assert float(hull_violation(target, mask=mask)) == 0.0
    grid = jnp.array([4.0, jnp.nan])
    assert float(hull_violation(grid, box=(0.0, 9.0), mask=mask)) == 0.0
    assert float(hull_violation(target, mask=np.zeros(2, np.bool_))) == 0.0


def test_the_seeds_z_scored_target_is_refused_with_the_amount():
    colors = np.array([0, 0, 0, 5, 9], np.float32)
    z_scored = jnp.asarray((colors - colors.mean()) / colors.std())
    with pytest.raises(ValueError, match=r"within 1e-05 of \[0.0, 9.0\], got 0.76"):
        check_in_hull(z_scored, box=(0.0, 9.0))


def test_nan_is_never_inside():
    with pytest.raises(ValueError, match="the simplex, got nan"):
        check_in_hull(jnp.array([[jnp.nan, 1.0]]))


def test_the_check_refuses_to_run_inside_jit():
    with pytest.raises(TypeError, match="log hull_violation instead"):
        jax.jit(check_in_hull)(np.eye(2, dtype=np.float32))


def test_a_box_without_width_and_a_negative_tolerance_are_refused():
    with pytest.raises(ValueError, match="hull_violation: low must be < high"):
        hull_violation(jnp.ones(2), box=(1.0, 0.0))
    with pytest.raises(ValueError, match="check_in_hull: tolerance must be in"):
        check_in_hull(jnp.eye(2), tolerance=-1.0)


def test_the_tolerance_is_the_last_amount_that_passes():
    check = functools.partial(check_in_hull, jnp.array([9.5]), box=(0.0, 9.0))
    check(tolerance=0.5)
    with pytest.raises(ValueError, match=r"got 0\.5"):
        check(tolerance=0.25)
