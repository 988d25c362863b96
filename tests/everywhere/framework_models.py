"""One small regression in each model library, as parameters, state and a loss."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx


class Model(NamedTuple):
    """What a framework hands to a train step.

    Attributes:
        params: The trained parameters, in the framework's own kind of tree.
        state: What changes without being trained, or None.
        loss_fn: The loss, see `stabjax.types.LossFn`.
    """

    params: Any
    state: Any
    loss_fn: Callable[..., Any]


def batch(step: int, *, bad: bool = False) -> dict[str, np.ndarray]:
    """Return eight examples of a plane; a bad batch holds one NaN."""
    x = np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)
    y = x.sum(axis=1, keepdims=True)
    if bad:
        x[5, 1] = np.nan
    return {"x": x, "y": y}


def _error(predicted: jax.Array, batch: dict[str, Any]) -> jax.Array:
    return jnp.mean(jnp.square(predicted - batch["y"]))


class _Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.dropout(nnx.tanh(self.norm(self.hidden(x)))))


def flax_nnx() -> Model:
    """Return a module split in parameters, and statistics with random keys."""
    graph, params, state = nnx.split(_Net(nnx.Rngs(0)), nnx.Param, ...)

    def loss_fn(params, batch, key, *, model_state):
        del key
        # Without a copy flax would change the caller's state in place.
        net = nnx.merge(graph, params, model_state, copy=True)
        error = _error(net(batch["x"]), batch)
        new = nnx.state(net, nnx.Not(nnx.Param))
        return error, {"raw/error": error, "model_state": new}

    return Model(params, state, loss_fn)


class _Linen(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.BatchNorm(use_running_average=False)(linen.Dense(4)(x))
        return linen.Dense(1)(linen.tanh(x))


def flax_linen() -> Model:
    """Return a module whose ``batch_stats`` are the model state."""
    net = _Linen()
    variables = net.init(jax.random.key(0), jnp.ones((8, 3)))

    def loss_fn(params, batch, key, *, model_state):
        del key
        variables = {"params": params, "batch_stats": model_state}
        predicted, new = net.apply(variables, batch["x"], mutable=["batch_stats"])
        error = _error(predicted, batch)
        return error, {"raw/error": error, "model_state": new["batch_stats"]}

    return Model(variables["params"], variables["batch_stats"], loss_fn)


def equinox() -> Model:
    """Return a module split by `partition`: the parameters hold None for the rest."""
    import equinox as eqx

    net = eqx.nn.MLP(3, "scalar", 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_inexact_array)

    def loss_fn(params, batch, key):
        del key
        predicted = jax.vmap(eqx.combine(params, static))(batch["x"])
        error = _error(predicted[:, None], batch)
        return error, {"raw/error": error}

    return Model(params, None, loss_fn)


def equinox_with_state() -> Model:
    """Return a module with a normalization whose statistics are an `eqx.nn.State`."""
    import equinox as eqx

    def build():
        hidden = eqx.nn.Linear(3, 4, key=jax.random.key(0))
        norm = eqx.nn.BatchNorm(4, axis_name="examples", mode="ema")
        out = eqx.nn.Linear(4, 1, key=jax.random.key(1))
        return eqx.nn.Sequential([hidden, norm, out])

    net, state = eqx.nn.make_with_state(build)()
    params, static = eqx.partition(net, eqx.is_inexact_array)

    def loss_fn(params, batch, key, *, model_state):
        del key
        each = jax.vmap(
            eqx.combine(params, static),
            axis_name="examples",
            in_axes=(0, None),
            out_axes=(0, None),
        )
        predicted, new = each(batch["x"], model_state)
        error = _error(predicted, batch)
        return error, {"raw/error": error, "model_state": new}

    return Model(params, state, loss_fn)


def haiku_style() -> Model:
    """Return nested dictionaries with names of haiku, ``/`` and ``~`` in them."""
    random = np.random.default_rng(0)
    weights = lambda *shape: jnp.asarray(random.normal(size=shape).astype(np.float32))
    params = {
        "mlp/~/linear_0": {"w": weights(3, 4), "b": jnp.zeros((4,), jnp.float32)},
        "mlp/~/linear_1": {"w": weights(4, 1), "b": jnp.zeros((1,), jnp.float32)},
    }
    state = {"mlp/~/ema": {"average": jnp.zeros((3,), jnp.float32)}}

    def loss_fn(params, batch, key, *, model_state):
        del key
        first, second = params["mlp/~/linear_0"], params["mlp/~/linear_1"]
        hidden = jnp.tanh(batch["x"] @ first["w"] + first["b"][None])
        error = _error(hidden @ second["w"] + second["b"][None], batch)
        old = model_state["mlp/~/ema"]["average"]
        new = {"mlp/~/ema": {"average": 0.9 * old + 0.1 * jnp.mean(batch["x"], 0)}}
        return error, {"raw/error": error, "model_state": new}

    return Model(params, state, loss_fn)


def counting_in_nnx() -> Model:
    """Return a module that counts its calls by changing its state in place."""

    class Net(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.zeros((3,), jnp.float32))
            self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))

        def __call__(self, x):
            self.calls[...] += 1
            return x @ self.w[...]

    graph, params, state = nnx.split(Net(), nnx.Param, ...)

    def loss_fn(params, batch, key, *, model_state):
        del key
        net = nnx.merge(graph, params, model_state)
        error = _error(net(batch["x"])[:, None], batch)
        return error, {"model_state": nnx.state(net, nnx.BatchStat)}

    return Model(params, state, loss_fn)


def counting_in_equinox() -> Model:
    """Return a module that counts its calls in a state that may be used once."""
    import equinox as eqx

    class Net(eqx.Module):
        w: jax.Array
        calls: eqx.nn.StateIndex

        def __init__(self):
            self.w = jnp.zeros((3,), jnp.float32)
            self.calls = eqx.nn.StateIndex(jnp.zeros((), jnp.int32))

        def __call__(self, x, state):
            return x @ self.w, state.set(self.calls, state.get(self.calls) + 1)

    net, state = eqx.nn.make_with_state(Net)()
    params, static = eqx.partition(net, eqx.is_inexact_array)

    def loss_fn(params, batch, key, *, model_state):
        del key
        predicted, new = eqx.combine(params, static)(batch["x"], model_state)
        return _error(predicted[:, None], batch), {"model_state": new}

    return Model(params, state, loss_fn)


MODELS: dict[str, Callable[[], Model]] = {
    "equinox": equinox,
    "equinox with state": equinox_with_state,
    "flax.linen": flax_linen,
    "flax.nnx": flax_nnx,
    "haiku style": haiku_style,
}


@functools.cache
def model(name: str) -> Model:
    """Return the model of a framework, made once."""
    return MODELS[name]()
