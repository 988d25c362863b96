"""Why the equivariance loss of the original and of its fix is zero for any network."""

import jax
import numpy as np
import pytest
from rlan_tiny import hasty, parameters, solver, tiny

from stabjax.models.arc import PAD
from stabjax.models.rlan.contexts import context_equivariance, output_equivariance
from stabjax.models.rlan.hyper_lora import pool
from stabjax.models.rlan.turns import turn_cells


@pytest.fixture(scope="module")
def encoded(random_batch):
    """Features of random demonstrations, and of the same ones turned as grids."""
    config = tiny(batch=4)
    encode = hasty(lambda params, pairs: solver(config, params).encode(pairs))
    pairs = random_batch(config)["support"].reshape(4, 2, 2, 9)
    turned = hasty(turn_cells, static_argnames=("side", "outside"))(
        pairs.reshape(-1, 9), np.ones((16,), np.int32), side=3, outside=PAD
    ).reshape(pairs.shape)
    return encode(parameters(), pairs), encode(parameters(), np.asarray(turned))


def _normal(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


_contexts = hasty(context_equivariance, static_argnames="setting")
_outputs = hasty(output_equivariance)


@pytest.mark.parametrize("setting", ["before", "seed"])
def test_of_pooled_contexts_the_loss_is_zero_with_either_pooling(encoded, setting):
    support, _ = encoded
    assert np.std(support.features) > 0.1
    assert float(_contexts(*support, setting)) < 1e-10


@pytest.mark.parametrize("setting", ["before", "seed"])
def test_it_is_zero_for_features_of_any_network(setting):
    features = 100.0 * _normal((2, 3, 16, 8))
    loss = _contexts(features, np.ones((2, 3, 16), bool), setting)
    assert float(loss) < 1e-8


def test_encoding_the_turned_grids_moves_the_context(encoded):
    """Not a fix either: a turned task may need other weights. But not zero."""
    support, turned = encoded
    gap = np.asarray(hasty(pool)(*support)) - np.asarray(hasty(pool)(*turned))
    assert np.mean(gap**2) > 1e-4


def test_no_gradient_reaches_the_encoder(encoded):
    support, _ = encoded
    slope = hasty(jax.grad(lambda x: context_equivariance(x, support.real, "seed")))(
        support.features
    )
    np.testing.assert_array_equal(slope, 0.0)


def test_equal_answers_are_equivariant_and_different_ones_are_not():
    logits = 3.0 * _normal((2, 9, 10))
    valid = np.ones((2, 9), bool)
    assert float(_outputs(logits, logits, valid)) == pytest.approx(0.0)
    assert float(_outputs(logits, logits[::-1], valid)) > 0.1


def test_the_divergence_is_the_mean_of_both_directions():
    logits = _normal((2, 1, 10))
    x = np.asarray(logits, np.float64)
    s = np.where(x < 0, 1 / (1 - x), x + 1)
    p, q = (s / s.sum(axis=-1, keepdims=True))[:, 0]
    expected = (np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))) / 2
    loss = _outputs(logits[:1], logits[1:], np.ones((1, 1), bool))
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_padding_does_not_count():
    logits = _normal((2, 9, 10))
    valid = np.arange(9)[None].repeat(2, axis=0) < 4
    broken = np.where(valid[:, :, None], logits, np.float32(np.nan))
    slope = hasty(jax.grad(output_equivariance))(broken, logits[::-1], valid)
    assert np.all(np.isfinite(slope))
    np.testing.assert_array_equal(slope[:, 4:], 0.0)
