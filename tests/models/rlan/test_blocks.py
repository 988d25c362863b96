"""Convolutions, normalization and positions on canvases with padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rlan_tiny import hasty, parameters, solver, tiny

from stabjax.models.rlan.blocks import sinusoids
from stabjax.models.rlan.encoders import pooling
from stabjax.models.rlan.relative import coordinates


@pytest.fixture(scope="module")
def canvas():
    """Features and two grids on canvases of 3 x 3, one of them 2 x 1."""
    rng = np.random.default_rng(0)
    real = np.zeros((2, 3, 3), bool)
    real[0], real[1, :2, :1] = True, True
    x = rng.normal(size=(2, 9, tiny().width)).astype(np.float32)
    return x, real.reshape(2, -1)


@hasty
def _block(params, x, real):
    return solver(tiny(), params).pairs.first(x, real)


def test_nine_shifts_and_a_product_are_the_convolution(canvas):
    @hasty
    def both(params, x, real):
        return [
            solver(tiny(convolution=form), params).solver.drive(x, real)
            for form in ("shifts", "lax")
        ]

    shifts, lax = both(parameters(), *canvas)
    np.testing.assert_allclose(shifts, lax, rtol=1e-5, atol=1e-5)


def test_a_grid_does_not_feel_its_padding(canvas):
    x, real = canvas
    noisy = np.where(real[:, :, None], x, np.float32(1e3))
    outputs = [np.asarray(_block(parameters(), y, real)) for y in (x, noisy)]
    np.testing.assert_array_equal(outputs[0][real], outputs[1][real])


def test_group_norm_has_unit_statistics_over_the_grid(canvas):
    x, real = canvas
    norm = hasty(lambda params, *inputs: solver(tiny(), params).solver.norm(*inputs))
    y = np.asarray(norm(parameters(), 3.0 * x + 1.0, real))
    group = y.reshape(2, 9, tiny().groups, -1)[1][real[1], 0]
    assert group.mean() == pytest.approx(0.0, abs=1e-5)
    assert group.std() == pytest.approx(1.0, abs=1e-3)


def test_positions_tell_every_cell_apart():
    places = sinusoids(30, 16)
    assert places.shape == (900, 16)
    assert len(np.unique(places.round(4), axis=0)) == 900


def test_every_coarse_place_takes_in_some_cells_and_every_cell_has_one():
    share = pooling(10, 8)
    assert share.shape == (100, 64)
    np.testing.assert_array_equal(share.sum(axis=1), 1.0)
    assert share.sum(axis=0).min() >= 1.0


def test_coordinates_have_a_finite_gradient_where_a_clue_lies_on_a_cell():
    """Equal attention on an odd side puts the clue exactly on the middle cell."""

    def total(centroid):
        return jnp.sum(coordinates(centroid, jnp.full((1, 2), 3.0), 3))

    grad = hasty(jax.grad(total))(jnp.ones((1, 1, 2)))
    assert bool(jnp.all(jnp.isfinite(grad)))


def test_the_plain_angle_has_none_there():
    assert bool(jnp.isnan(jax.grad(lambda x: jnp.arctan2(x, x))(0.0)))
