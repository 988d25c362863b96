"""The seed's network: its size, its start, its graph that nothing reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stabjax.models.causal.config import Config
from stabjax.models.causal.latent import describe, keep_largest
from stabjax.models.causal.latent_task import first_parameters
from stabjax.models.modules import graph_of

CONFIG = Config(decoder="latent")


@pytest.fixture(scope="module")
def params():
    return jax.device_get(first_parameters(CONFIG, 13)(jax.random.key(0)))


def answer(params, values):
    params = jax.tree.map(jnp.asarray, params)
    return nnx.merge(graph_of(describe(CONFIG, 13)), params)(jnp.asarray(values))


def test_it_has_the_parameters_of_the_original(params):
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 5094


def test_layers_start_as_those_of_torch_and_the_graph_small(params):
    """Uniform within one over the root of the inputs, weights and biases alike."""
    layers = [*params["encoders"].values(), params["decoder"]]
    for layer in (part for pair in layers for part in pair.values()):
        bound = layer["kernel"].shape[0] ** -0.5
        for leaf in layer.values():
            assert np.abs(leaf).max() <= bound
        spread = np.std(layer["kernel"]) / (bound / np.sqrt(3.0))
        assert spread == pytest.approx(1.0, abs=0.1)
    assert np.std(params["graph"]["logits"]) == pytest.approx(0.1, abs=0.02)


def test_a_tenth_of_the_entries_is_kept_as_in_the_original(params):
    logits = params["graph"]["logits"]
    kept = np.asarray(keep_largest(jnp.asarray(logits), 0.1))
    assert np.sum(kept > 0.0) == 16  # int(0.1 * 169)
    lowest = np.sort(logits.ravel())[-16]
    expected = np.where(logits >= lowest, 1.0 / (1.0 + np.exp(-logits)), 0.0)
    np.testing.assert_allclose(kept, expected, rtol=1e-6)


def test_what_is_not_kept_has_no_gradient(params):
    logits = jnp.asarray(params["graph"]["logits"])
    slope = np.asarray(jax.grad(lambda x: jnp.sum(keep_largest(x, 0.1)))(logits))
    kept = np.asarray(keep_largest(logits, 0.1))
    np.testing.assert_array_equal(slope != 0.0, kept != 0.0)
    np.testing.assert_allclose(slope, kept * (1.0 - kept), rtol=1e-5)


def test_the_reconstruction_is_the_same_whatever_the_graph(params):
    values = np.random.default_rng(0).normal(size=(2, 3, 13)).astype(np.float32)
    other = params | {"graph": {"logits": params["graph"]["logits"] * 0.0 + 7.0}}
    one, two = answer(params, values), answer(other, values)
    np.testing.assert_array_equal(one.reconstruction, two.reconstruction)
    np.testing.assert_array_equal(one.codes, two.codes)
    assert not np.array_equal(one.adjacency, two.adjacency)
    assert one.codes.shape == (6, 48)
