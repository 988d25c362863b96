"""An equation as a loss: a Poisson problem in one dimension."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, scored
from harm.runs.models import Aux, Params, apply_mlp, mlp

STEPS = 600


def collocation(seed: int) -> Data:
    """Return random points in (0, 1)."""
    rng = np.random.default_rng([seed, 34])
    return {"x": rng.random((STEPS, 32)).astype(np.float32)}


def poisson(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return residuals of ``u'' = -4 pi^2 sin(2 pi x)`` with ``u(0) = u(1) = 0``.

    The solution is ``sin(2 pi x)``.
    """
    del key

    def u(x: jax.Array) -> jax.Array:
        return apply_mlp(params, jnp.reshape(2 * x - 1, (1,)), jnp.tanh)[0]

    def slope(x: jax.Array) -> jax.Array:
        return jax.jvp(u, (x,), (jnp.ones_like(x),))[1]

    def bend(x: jax.Array) -> jax.Array:
        return jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]

    x = batch["x"]
    residual = jax.vmap(bend)(x) + 4 * jnp.pi**2 * jnp.sin(2 * jnp.pi * x)
    edges = jax.vmap(u)(jnp.asarray([0.0, 1.0]))
    aux = {
        "raw/residual": jnp.mean(residual**2),
        "raw/boundary": jnp.mean(edges**2),
    }
    return aux["raw/residual"] + 100 * aux["raw/boundary"], aux


def solution_error(params: Params, model_state: Any, data: Any) -> jax.Array:
    """Return the mean squared error of the solution."""
    del model_state
    u = apply_mlp(params, jnp.asarray(2 * data[:, None] - 1), jnp.tanh)[:, 0]
    return jnp.mean((u - jnp.sin(2 * jnp.pi * data)) ** 2)


RUNS = (
    Run(
        name="pinn_poisson_adam",
        kind="PINN",
        steps=STEPS,
        init=mlp(1, 32, 32, 1, gain=1.5),
        loss=poisson,
        optimizer=lambda: optax.adam(optax.exponential_decay(1e-2, 200, 0.5)),
        batches=collocation,
        score=scored(solution_error, lambda: np.linspace(0, 1, 101, dtype=np.float32)),
        labels=None,
    ),
)
