"""A loss of single samples that can be broken in many ways, exact in float64."""

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 12
_RNG = np.random.default_rng(11)
PARAMS = {
    "w": jnp.asarray(_RNG.normal(size=(2, 3)), jnp.float32),
    "b": jnp.float32(0.4),
}
BATCH = {
    "x": _RNG.normal(size=(SIZE, 3)).astype(np.float32),
    "target": {"y": _RNG.normal(size=(SIZE, 2)).astype(np.float32)},
    "label": np.arange(SIZE, dtype=np.int32) % 5,
    "under_root": _RNG.uniform(0.5, 2.0, size=SIZE).astype(np.float32),
    "added": np.zeros(SIZE, np.float32),
    "hidden": np.zeros(SIZE, np.float32),
    "slope": np.zeros(SIZE, np.float32),
}
# What is done to a sample: the leaf of the batch and the value it gets.
_DAMAGE = {
    "nan input": ("x", np.nan),
    "inf input": ("x", np.inf),
    "nan loss": ("added", np.nan),
    "inf loss": ("added", np.inf),
    "nan component": ("hidden", np.nan),
    "nan gradient": ("under_root", 0.0),
    "inf gradient": ("slope", 3e38),
}
KINDS = tuple(_DAMAGE)
# What most tests do to the batch, and what is then left of it.
DAMAGE = {3: "nan input", 5: "nan gradient"}
GOOD = np.setdiff1d(np.arange(SIZE), list(DAMAGE))
KEY = jax.random.key(0)


def broken(damage):
    """Return the batch with samples broken, ``{sample: kind}``."""
    batch = {name: jax.tree.map(np.copy, leaf) for name, leaf in BATCH.items()}
    for sample, kind in damage.items():
        leaf, value = _DAMAGE[kind]
        batch[leaf][sample] = value
    return jax.tree.map(jnp.asarray, batch)


def loss_fn(params, sample, key):
    """Return the loss of one sample; key is not used."""
    del key
    error = params["w"] @ sample["x"].astype(params["w"].dtype) - sample["target"]["y"]
    fit = jnp.sum(error**2) + sample["added"]
    # At zero it is finite, and its gradient is zero times infinity.
    root = jnp.sqrt(sample["under_root"] * jnp.exp(params["b"]))
    # Always zero, and so is its gradient but where a thousand slopes overflow.
    still = params["b"] - jax.lax.stop_gradient(params["b"])
    fit += sample["slope"] * still * 1000.0
    aux = {
        "raw/fit": fit + sample["hidden"],
        "weighted/fit": fit,
        "weighted/root": root,
        "label": sample["label"],
    }
    return fit + root, aux


def of_batch(params, batch, key):
    """Return the same for all samples of a batch."""
    return jax.vmap(lambda sample: loss_fn(params, sample, key))(batch)


def vector_of(tree):
    """Return parameters or a gradient as seven float64 numbers."""
    return np.append(np.float64(tree["w"]).ravel(), np.float64(tree["b"]))


def exact(params, batch, good):
    """Return mean loss and gradient over the good samples in float64."""
    w, b = np.float64(params["w"]), np.float64(params["b"])
    x, y = np.float64(batch["x"])[good], np.float64(batch["target"]["y"])[good]
    under = np.float64(batch["under_root"])[good]
    error = x @ w.T - y
    root = np.sqrt(under * np.exp(b))
    value = np.mean(np.sum(error**2, axis=1) + root)
    slope = 2 * error.T @ x / len(good)
    return value, np.append(slope.ravel(), np.mean(root / 2))


def stateful(params, sample, key, *, model_state):
    """Return the same with a running mean, which one sample loses."""
    loss, aux = loss_fn(params, sample, key)
    mean = 0.9 * model_state["mean"] + 0.1 * sample["label"]
    mean = jnp.where(sample["label"] == 4, jnp.nan, mean)
    new = {"mean": mean, "best": model_state["best"], "seen": model_state["seen"] + 1}
    return loss, {**aux, "model_state": new}


def differentiate(transformed, batch, params=PARAMS, key=KEY, **kwargs):
    """Return loss, aux and gradient, compiled."""
    grad_fn = jax.jit(jax.value_and_grad(transformed, has_aux=True, allow_int=True))
    key = key if key is None else jax.random.clone(key)
    (loss, aux), gradient = grad_fn(params, batch, key, **kwargs)
    return loss, aux, gradient
