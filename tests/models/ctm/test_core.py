"""The core against plain formulas: scan and loop, running sums and explicit sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stabjax.models.ctm.config import Config
from stabjax.models.ctm.core import Core
from stabjax.models.ctm.neurons import SuperLinear
from stabjax.models.ctm.synapse import make_synapse
from stabjax.models.ctm.synchronization import Synchronization

SMALL = Config(
    neurons=16, width=8, attention_heads=2, ticks=4, memory=3, pairs=6,
    neuron_hidden=2, synapse="mlp",
)  # fmt: skip


@pytest.fixture(scope="module")
def core():
    return Core(SMALL, nnx.Rngs(0))


def _inputs():
    tokens = jax.random.normal(jax.random.key(1), (2, 5, 8))
    real = jnp.ones((2, 5), bool)
    return tokens, real, 0.1 * jax.random.normal(jax.random.key(2), (16, 16))


def test_scanning_the_ticks_is_a_python_loop(core):
    tokens, real, plastic = _inputs()
    thought = jax.jit(core.__call__)(tokens, real, plastic)
    keys, values = core.attention.project(tokens)
    tick = jax.jit(core.tick)
    state, outputs = core.start(2), []
    for _ in range(SMALL.ticks):
        state, out = tick(state, keys, values, real, plastic)
        outputs.append(out)
    np.testing.assert_allclose(
        thought.outputs, jnp.stack(outputs), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(thought.z, state.z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(thought.trace, state.trace, rtol=1e-5, atol=1e-6)


def test_the_running_sums_are_the_explicit_decayed_sum():
    sync = Synchronization(SMALL, use=0)
    rng = np.random.default_rng(0)
    decay = rng.uniform(0.0, 2.0, SMALL.pairs)
    sync.decay[...] = jnp.asarray(decay, jnp.float32)
    z = rng.normal(size=(5, 3, 16))
    state = sync.start(3)
    for tick in z:
        state, out = sync(state, jnp.asarray(tick, jnp.float32))
    left, right = np.array(sync.left), np.array(sync.right)
    weights = np.exp(-decay)[None] ** np.arange(4, -1, -1)[:, None]
    products = np.einsum("tp,tbp->bp", weights, z[:, :, left] * z[:, :, right])
    expected = products / np.sqrt(weights.sum(axis=0))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_decays_outside_their_range_are_counted():
    sync = Synchronization(SMALL, use=0)
    sync.decay[...] = jnp.array([-1.0, 0.0, 1.0, 15.0, 16.0, 2.0])
    assert float(sync.clipped_share()) == pytest.approx(2 / 6)


def test_pairs_do_not_depend_on_the_runs_seed():
    assert Synchronization(SMALL, use=0).left == Synchronization(SMALL, use=0).left
    assert Synchronization(SMALL, use=0).left != Synchronization(SMALL, use=1).left


def test_plastic_synapses_add_their_product_with_the_state(core):
    tokens, real, plastic = _inputs()
    keys, values = core.attention.project(tokens)
    start = core.start(2)
    with_p, _ = core.tick(start, keys, values, real, plastic)
    without, _ = core.tick(start, keys, values, real, jnp.zeros((16, 16)))
    np.testing.assert_allclose(
        with_p.trace[:, :, -1] - without.trace[:, :, -1],
        start.z @ plastic.T,
        atol=1e-5,
    )


def test_tokens_that_are_not_real_change_nothing(core):
    tokens, real, plastic = _inputs()
    real = real.at[:, 3:].set(False)
    other = tokens.at[:, 3:].set(100.0)
    np.testing.assert_allclose(
        core(tokens, real, plastic).z, core(other, real, plastic).z, atol=1e-6
    )


def test_every_neuron_has_weights_of_its_own():
    layer = SuperLinear(3, 2, 4, nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    out = np.asarray(layer(jnp.asarray(x)))
    weight = np.asarray(layer.weight[...])
    for neuron in range(4):
        np.testing.assert_allclose(
            out[:, neuron], x[:, neuron] @ weight[:, :, neuron], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["unet", "mlp"])
def test_a_synapse_returns_one_normalized_value_per_neuron(kind):
    synapse = make_synapse(SMALL.model_copy(update={"synapse": kind}), nnx.Rngs(0))
    out = synapse(jax.random.normal(jax.random.key(0), (64, 24)))
    assert out.shape == (64, 16)
    np.testing.assert_allclose(jnp.mean(out, axis=-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.std(out, axis=-1), 1.0, atol=1e-2)
