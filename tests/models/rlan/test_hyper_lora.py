"""Generated weights and the cap on their norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rlan_tiny import hasty

from stabjax.models.rlan.hyper_lora import TARGETS, LowRank, cap_norm, pool


def _factors(scale):
    rng = np.random.default_rng(0)
    left = scale * rng.normal(size=(2, 4, 6, 2))
    return left.astype(np.float32), rng.normal(size=(2, 4, 2, 6)).astype(np.float32)


def _dense(left, right):
    return np.einsum("rtwk,rtkv->rtwv", left, right)


_capped = hasty(cap_norm, static_argnames=("setting", "limit"))


@pytest.mark.parametrize("setting", ["seed", "sound"])
@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_the_cap_holds_the_norm_and_keeps_the_direction(setting, scale):
    left, right = _factors(scale)
    factor, norm = _capped(left, right, setting, 1.0)
    dense = _dense(left, right)
    np.testing.assert_allclose(norm, np.linalg.norm(dense, axis=(2, 3)), rtol=1e-4)
    capped = dense * np.asarray(factor)[..., None, None]
    size = np.linalg.norm(capped, axis=(2, 3))
    assert np.all(size <= 1.0 + 1e-5)
    np.testing.assert_allclose(size, np.minimum(norm, 1.0), rtol=1e-4)


def test_before_nothing_is_capped():
    factor, norm = _capped(*_factors(10.0), "before", 1.0)
    np.testing.assert_array_equal(factor, 1.0)
    assert float(norm.min()) > 1.0


@pytest.mark.parametrize(("setting", "finite"), [("seed", False), ("sound", True)])
def test_at_zero_the_plain_root_gives_nan(setting, finite):
    def total(left, right):
        return jnp.sum(cap_norm(left, right, setting, 1.0)[0])

    slope = hasty(jax.grad(total))(*_factors(0.0))
    assert bool(np.all(np.isfinite(slope))) is finite


def test_a_change_is_applied_as_the_dense_matrix():
    left, right = _factors(1.0)
    x = np.random.default_rng(1).normal(size=(2, 9, 6)).astype(np.float32)
    change = LowRank(left, right, np.zeros((2, 4), np.float32))
    moved = hasty(LowRank.apply, static_argnums=1)(change, "candidate", x)
    dense = _dense(left, right)[:, TARGETS.index("candidate")]
    np.testing.assert_allclose(
        moved, x + np.einsum("rcw,rwv->rcv", x, dense), rtol=1e-4, atol=1e-5
    )


def test_the_context_of_no_demonstration_is_zero():
    tokens = jnp.ones((1, 2, 3, 4))
    np.testing.assert_array_equal(pool(tokens, jnp.zeros((1, 2, 3), bool)), 0.0)
