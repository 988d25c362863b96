"""SAC in miniature: a replay buffer, two critics, and three optimizers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from harm.run import OwnLoop
from harm.runs.control import ACTIONS, HORIZON, OBSERVED, mean_cost, push, reset
from harm.runs.loops import Damage, Program, Wrap, looped
from harm.runs.models import apply_mlp, mlp

STEPS, POINTS, KEPT, SIZE = 600, 8, 2048, 64
DISCOUNT, SLOW, WANTED_ENTROPY = 0.9, 0.02, -1.0


def first(seed: int) -> dict[str, Any]:
    """Return the actor, two critics stacked, and the logarithm of the temperature."""
    critic = mlp(OBSERVED + ACTIONS, 32, 1)
    two = critic(seed + 500), critic(seed + 600)
    return {
        "actor": mlp(OBSERVED, 16, 2 * ACTIONS)(seed),
        "critics": jax.tree.map(lambda *both: jnp.stack(both), *two),
        "temperature": jnp.full((), -2.0, jnp.float32),
    }


def sample(actor: Any, x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return actions in (-1, 1) and their log-densities."""
    mean, log_scale = jnp.split(apply_mlp(actor, x), 2, axis=-1)
    log_scale = jnp.clip(log_scale, -4.0, 1.0)
    noise = jax.random.normal(key, mean.shape)
    raw = mean + jnp.exp(log_scale) * noise
    density = -0.5 * noise**2 - log_scale - 0.5 * jnp.log(2 * jnp.pi)
    # The log-derivative of tanh, which does not cancel.
    squashed = 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))
    return jnp.tanh(raw), jnp.sum(density - squashed, axis=-1)


def judged(critics: Any, x: jax.Array, action: jax.Array) -> jax.Array:
    """Return the value of actions by both critics, (2, n)."""
    seen = jnp.concatenate([x, action], axis=-1)
    return jax.vmap(lambda critic: apply_mlp(critic, seen))(critics)[..., 0]


def critic_loss(critics: Any, batch: Any, target: jax.Array) -> jax.Array:
    """Return the squared error of both critics."""
    errors = judged(critics, batch["x"], batch["action"]) - target
    return jnp.mean(jnp.sum(errors**2, axis=0))


def actor_loss(
    actor: Any, critics: Any, temperature: jax.Array, x: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return what the actor minimizes, and the mean log-density of its actions."""
    action, density = sample(actor, x, key)
    value = jnp.min(judged(critics, x, action), axis=0)
    loss = jnp.mean(jnp.exp(temperature) * density - value)
    return loss, jnp.mean(density)


def temperature_loss(temperature: jax.Array, density: jax.Array) -> jax.Array:
    """Return what moves the entropy to the wanted one."""
    return -temperature * (density + WANTED_ENTROPY)


def explored(key: jax.Array) -> dict[str, jax.Array]:
    """Return a buffer full of random actions."""
    keys = jax.random.split(key, 2 + KEPT // POINTS // HORIZON)

    def episode(key: jax.Array) -> dict[str, jax.Array]:
        start_key, key = jax.random.split(key)
        actions = jax.random.uniform(key, (HORIZON, POINTS, 1), minval=-1.0)
        return jax.lax.scan(acted, reset(start_key, POINTS), actions)[1]

    buffer = jax.vmap(episode)(keys[2:])
    return {name: a.reshape(KEPT, *a.shape[3:]) for name, a in buffer.items()}


def acted(point: Any, action: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """Return the points after an action, and the transition."""
    after, reward = push(point, action)
    transition = {"x": point.state, "y": reward, "action": action}
    return after, transition | {"after": after.state}


def sac_loop(wrap: Wrap, damage: Damage) -> Program:
    """Return the whole of SAC as one program."""
    schedule = optax.linear_schedule(5e-3, 0.0, STEPS)
    optimizers = {
        name: wrap(optax.adam(schedule)) for name in ("actor", "critics", "temperature")
    }

    def moved(name: str, loss: Any, gradients: Any, params: Any, states: Any) -> Any:
        updates, state = optimizers[name].update(
            gradients, states[name], params[name], value=loss
        )
        new = optax.apply_updates(params[name], updates)
        return params | {name: new}, states | {name: state}

    def learn(params: Any, slow: Any, states: Any, batch: Any, key: Any) -> Any:
        keys = jax.random.split(key)
        temperature = params["temperature"]
        action, density = sample(params["actor"], batch["after"], keys[0])
        after = jnp.min(judged(slow, batch["after"], action), axis=0)
        target = batch["y"] + DISCOUNT * (after - jnp.exp(temperature) * density)
        both = jax.value_and_grad(critic_loss)(params["critics"], batch, target)
        params, states = moved("critics", *both, params, states)
        (loss, density), gradients = jax.value_and_grad(actor_loss, has_aux=True)(
            params["actor"], params["critics"], temperature, batch["x"], keys[1]
        )
        params, states = moved("actor", loss, gradients, params, states)
        both = jax.value_and_grad(temperature_loss)(temperature, density)
        params, states = moved("temperature", *both, params, states)
        slow = jax.tree.map(
            lambda s, p: (1 - SLOW) * s + SLOW * p, slow, params["critics"]
        )
        return params, slow, states

    def step(carry: Any, numbered: Any) -> tuple[Any, None]:
        params, slow, states, buffer, point = carry
        key, count = numbered
        keys = jax.random.split(key, 4)
        action, _ = sample(params["actor"], point.state, keys[0])
        after, transition = acted(point, action)
        place = count * POINTS % KEPT
        buffer = {
            name: jax.lax.dynamic_update_slice_in_dim(a, transition[name], place, 0)
            for name, a in buffer.items()
        }
        fresh = reset(keys[1], POINTS)
        over = after.steps >= HORIZON
        point = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, after)
        index = jax.random.randint(keys[2], (SIZE,), 0, KEPT)
        batch = damage({name: a[index] for name, a in buffer.items()}, count)
        params, slow, states = learn(params, slow, states, batch, keys[3])
        return (params, slow, states, buffer, point), None

    def program(key: jax.Array, seed: Any, data: Any) -> tuple[Any, list]:
        del data
        keys = jax.random.split(key, 3)
        states = {name: o.init(seed[name]) for name, o in optimizers.items()}
        start = (
            seed, seed["critics"], states, explored(keys[0]), reset(keys[1], POINTS),
        )  # fmt: skip
        numbered = jax.random.split(keys[2], STEPS), jnp.arange(STEPS)
        (params, _, states, _, _), _ = jax.lax.scan(step, start, numbered)

        def policy(x: jax.Array) -> jax.Array:
            return jnp.tanh(jnp.split(apply_mlp(params["actor"], x), 2, axis=-1)[0])

        order = ("critics", "actor", "temperature")
        cost = mean_cost(policy, jax.random.key(1))
        return cost, [states[name] for name in order]

    return program


RUNS = (
    OwnLoop("sac_point_adam", "SAC", STEPS, looped(sac_loop, first, lambda _: ())),
)  # fmt: skip
