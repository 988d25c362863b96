"""A loss of three quadratic components, with its gradients in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from stabjax.losses import weigh

NAMES = ("fit", "flow", "size")
WEIGHTS = {"fit": 1.0, "flow": 0.5, "size": 2.0}
KEY = jax.random.key(0)
_RNG = np.random.default_rng(7)
MATRICES = {name: _RNG.normal(size=(4, 5)) for name in NAMES}
TARGETS = {name: _RNG.normal(size=4) for name in NAMES}
START = _RNG.normal(size=5)


def params_of(vector=START, dtype=jnp.float32):
    """Return five numbers as a tree of two groups."""
    vector = jnp.asarray(vector, dtype)
    return {"trunk": {"w": vector[:3]}, "head": vector[3:].reshape(2, 1)}


def vector_of(tree):
    """Return a tree of parameters or gradients as five float64 numbers."""
    parts = (tree["trunk"]["w"], tree["head"])
    return np.concatenate([np.asarray(p, np.float64).ravel() for p in parts])


def terms(params, batch, key):
    """Return the components; ``batch`` scales the targets."""
    vector = jnp.concatenate([params["trunk"]["w"], params["head"].ravel()])
    raw = {}
    for name in NAMES:
        matrix = jnp.asarray(MATRICES[name], vector.dtype)
        target = batch * jnp.asarray(TARGETS[name], vector.dtype)
        raw[name] = jnp.sum((matrix @ vector - target) ** 2)
    return raw, {"first": vector[0].astype(jnp.float32)}


def stateful_terms(params, batch, key, *, model_state):
    """The same, counting its calls."""
    raw, aux = terms(params, batch, key)
    return raw, {**aux, "model_state": {"calls": model_state["calls"] + 1.0}}


MODEL_STATE = {"calls": jnp.zeros(())}


def quadratic_loss(stateful=False, weights=None):
    return weigh(stateful_terms if stateful else terms, weights=weights or WEIGHTS)


def exact_values(vector=START, batch=1.0):
    """Return the weighted components in float64."""
    return {
        n: WEIGHTS[n] * np.sum((MATRICES[n] @ vector - batch * TARGETS[n]) ** 2)
        for n in NAMES
    }


def exact_gradients(vector=START, batch=1.0):
    """Return the gradients of the weighted components in float64."""
    return {
        n: 2 * WEIGHTS[n] * MATRICES[n].T @ (MATRICES[n] @ vector - batch * TARGETS[n])
        for n in NAMES
    }


def differentiate(loss_fn, params=None, batch=1.0, **kwargs):
    """Return loss, aux and gradient, compiled."""
    params = params_of() if params is None else params
    grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, aux), gradient = grad_fn(params, jnp.float32(batch), KEY, **kwargs)
    return loss, aux, gradient
