"""One of two processes that train one model: ``process_of_two.py PORT INDEX``.

Prints a row of telemetry per guarded run, or with INDEX ``alone`` what one process has.
"""

import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = ""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import stabjax
from stabjax import guards

SETTINGS = {
    "recommended": guards.recommended(),
    "several": [
        guards.clip_by_global_norm(1.0),
        guards.skip_spikes(),
        guards.skip_nonfinite(),
        guards.back_off(),
    ],
}
RNG = np.random.default_rng(0)
BATCH = RNG.normal(size=(8, 4)).astype(np.float32)
PARAMS = {"w": RNG.normal(size=(4, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}


def join(port, index):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))


def placed():
    """Return parameters and batch, spread over all processes."""
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))

    def place(array, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])

    params = {"w": place(PARAMS["w"], "data"), "b": place(PARAMS["b"])}
    return params, place(BATCH, "data")


def loss_fn(params, batch):
    loss = jnp.mean((batch @ params["w"] + params["b"] - 1.0) ** 2)
    return loss, {"raw/fit": loss}


def main():
    port, index = sys.argv[1:]
    if index != "alone":
        join(port, index)
    params, batch = placed()
    ends = {}
    for name, listed in SETTINGS.items():
        # Where parameters are spread, the update is not sampled.
        options = {"guards": listed, "sample_updates": False}
        train = stabjax.make_train_step(loss_fn, optax.adam(1e-2), **options)
        state = train.init(params, batch)
        for _ in range(3):
            state, row = train.step(state, batch, jax.random.key(0))
        schema = train.schema(state)
        values = [*np.asarray(row.floats).tolist(), *np.asarray(row.ints).tolist()]
        names = (*schema.floats, *schema.ints)
        ends[name] = dict(zip(names, values, strict=True))
    state = stabjax.guard(optax.adam(1e-2)).init(params)
    ends["guard"] = {"step": int(optax.tree.get(state, "step"))}
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
