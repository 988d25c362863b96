"""Equations as losses: a Poisson problem, and an ordinary differential equation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, loss_on, scored
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


def swings(seed: int, steps: int = STEPS, size: int = 16) -> Data:
    """Return starts of a damped pendulum, and where it is 1 and 2 time units later."""
    rng = np.random.default_rng([seed, 35])
    state = rng.uniform(-1.5, 1.5, (steps, size, 2))
    path = [state]
    for _ in range(200):
        angle, speed = state[..., 0], state[..., 1]
        speed = speed + 0.01 * (-2 * np.sin(angle) - 0.2 * speed)
        state = np.stack([angle + 0.01 * speed, speed], axis=-1)
        path.append(state)
    y = np.stack([path[100], path[200]], axis=-2)
    return {"x": path[0].astype(np.float32), "y": y.astype(np.float32)}


def follow(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the squared error of the paths of a learned field, in 16 Heun steps."""
    del key

    def field(state: jax.Array) -> jax.Array:
        return apply_mlp(params, state, jnp.tanh)

    def heun(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        first = field(state)
        second = field(state + 0.125 * first)
        state = state + 0.0625 * (first + second)
        return state, state

    _, path = jax.lax.scan(heun, batch["x"], None, length=16)
    errors = jnp.stack([path[7], path[15]], axis=1) - batch["y"]
    aux = {
        "raw/early": jnp.mean(errors[:, 0] ** 2),
        "raw/late": jnp.mean(errors[:, 1] ** 2),
    }
    return aux["raw/early"] + aux["raw/late"], aux


@functools.cache
def fresh_swings() -> Data:
    """Return 256 starts that were not trained on."""
    return {name: array[0] for name, array in swings(10_000, 1, 256).items()}


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
    Run(
        name="neural_ode_pendulum_adamw",
        kind="recurrent",
        steps=STEPS,
        init=mlp(2, 16, 2),
        loss=follow,
        optimizer=lambda: optax.adamw(optax.cosine_decay_schedule(1e-2, STEPS)),
        batches=swings,
        score=loss_on(follow, fresh_swings),
        clip=1.0,
    ),
)
