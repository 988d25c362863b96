"""PPO in miniature: episodes, advantages, epochs of minibatches, one optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from harm.run import OwnLoop
from harm.runs.control import ACTIONS, HORIZON, OBSERVED, mean_cost, push, reset
from harm.runs.loops import Damage, Program, Wrap, looped
from harm.runs.models import apply_mlp, mlp

ITERATIONS, EPOCHS, MINIBATCHES, POINTS = 40, 4, 4, 16
STEPS = ITERATIONS * EPOCHS * MINIBATCHES
DISCOUNT, TRACE, CLIP = 0.95, 0.95, 0.2


def first(seed: int) -> dict[str, Any]:
    """Return policy, its spread, and value function."""
    return {
        "policy": mlp(OBSERVED, 16, ACTIONS)(seed),
        "spread": jnp.full((ACTIONS,), -0.5, jnp.float32),
        "value": mlp(OBSERVED, 32, 1)(seed + 500),
    }


def log_density(params: Any, x: jax.Array, action: jax.Array) -> jax.Array:
    """Return the log-density of actions under the policy."""
    mean = apply_mlp(params["policy"], x, jnp.tanh)
    errors = (action - mean) * jnp.exp(-params["spread"])
    return -jnp.sum(0.5 * errors**2 + params["spread"], axis=-1)


def value_of(params: Any, x: jax.Array) -> jax.Array:
    """Return the values of states."""
    return apply_mlp(params["value"], x, jnp.tanh)[..., 0]


def play(params: Any, key: jax.Array) -> dict[str, jax.Array]:
    """Return an episode of every point: (time * points, ...), with advantages."""
    start_key, key = jax.random.split(key)

    def step(point: Any, key: jax.Array) -> tuple[Any, Any]:
        mean = apply_mlp(params["policy"], point.state, jnp.tanh)
        noise = jax.random.normal(key, mean.shape)
        action = mean + jnp.exp(params["spread"]) * noise
        after, reward = push(point, action)
        return after, (point.state, action, reward)

    last, (x, action, reward) = jax.lax.scan(
        step, reset(start_key, POINTS), jax.random.split(key, HORIZON)
    )
    values = value_of(params, x)
    after = jnp.concatenate([values[1:], value_of(params, last.state)[None]])
    surprise = reward + DISCOUNT * after - values

    def back(sum_: jax.Array, one: jax.Array) -> tuple[jax.Array, jax.Array]:
        sum_ = one + DISCOUNT * TRACE * sum_
        return sum_, sum_

    _, advantage = jax.lax.scan(back, jnp.zeros(POINTS), surprise, reverse=True)
    batch = {
        "x": x,
        "y": advantage + values,
        "action": action,
        "advantage": advantage,
        "log_density": log_density(params, x, action),
    }
    return {name: a.reshape(-1, *a.shape[2:]) for name, a in batch.items()}


def clipped(params: Any, batch: Any) -> jax.Array:
    """Return the clipped objective, the value error, and a bonus for entropy."""
    ratio = jnp.exp(
        log_density(params, batch["x"], batch["action"]) - batch["log_density"]
    )
    gain = batch["advantage"]
    gain = (gain - jnp.mean(gain)) / (jnp.std(gain) + 1e-8)
    bounded = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
    policy = -jnp.mean(jnp.minimum(ratio * gain, bounded * gain))
    value = jnp.mean((value_of(params, batch["x"]) - batch["y"]) ** 2)
    return policy + 0.5 * value - 1e-3 * jnp.sum(params["spread"])


def ppo_loop(wrap: Wrap, damage: Damage) -> Program:
    """Return the whole of PPO as one program."""
    optimizer = wrap(optax.adam(optax.linear_schedule(5e-3, 0.0, STEPS), eps=1e-5))

    def minibatch(carry: Any, numbered: Any) -> tuple[Any, None]:
        params, state = carry
        loss, gradients = jax.value_and_grad(clipped)(params, damage(*numbered))
        updates, state = optimizer.update(gradients, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), None

    def iteration(carry: Any, numbered: Any) -> tuple[Any, None]:
        key, steps = numbered
        keys = jax.random.split(key)
        episode = play(carry[0], keys[0])
        rows = POINTS * HORIZON
        order = jax.vmap(lambda key: jax.random.permutation(key, rows))(
            jax.random.split(keys[1], EPOCHS)
        ).reshape(EPOCHS * MINIBATCHES, -1)
        batches = {name: array[order] for name, array in episode.items()}
        return jax.lax.scan(minibatch, carry, (batches, steps))

    def program(key: jax.Array, seed: Any, data: Any) -> tuple[Any, list]:
        del data
        keys = jax.random.split(key, ITERATIONS)
        steps = jnp.arange(STEPS).reshape(ITERATIONS, -1)
        start = seed, optimizer.init(seed)
        (params, state), _ = jax.lax.scan(iteration, start, (keys, steps))

        def policy(x: jax.Array) -> jax.Array:
            return apply_mlp(params["policy"], x, jnp.tanh)

        return mean_cost(policy, jax.random.key(1)), [state]

    return program


RUNS = (
    OwnLoop("ppo_point_adam", "PPO", STEPS, looped(ppo_loop, first, lambda _: ())),
)  # fmt: skip
