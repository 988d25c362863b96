"""Learning from reward and from own predictions, as far as a loss alone can."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, scored
from harm.runs.models import Aux, Params, apply_mlp, mlp, named

STEPS = 600
ARMS = 5
STATES = 8
DISCOUNT = 0.9


def contexts(seed: int, steps: int = STEPS, size: int = 32) -> Data:
    """Return contexts, and the mean reward, 1 to 2, of every arm in each."""
    rng = np.random.default_rng([seed, 31])
    weights = np.random.default_rng(31).normal(size=(6, ARMS))
    x = rng.normal(size=(steps, size, 6))
    y = 1 + 1 / (1 + np.exp(-2 * x @ weights))
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def policy_gradient(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return minus the mean reward of sampled arms, with its score-function gradient.

    Its value is ``-mean r`` and its gradient ``-mean r grad log p``, without baseline.
    """
    arm_key, noise_key = jax.random.split(key)
    logits = apply_mlp(params, batch["x"], jnp.tanh)
    arm = jax.random.categorical(arm_key, logits)[:, None]
    reward = jnp.take_along_axis(batch["y"], arm, axis=1)
    reward = reward + 0.3 * jax.random.normal(noise_key, reward.shape)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), arm, axis=1)
    ratio = jnp.exp(log_p - jax.lax.stop_gradient(log_p))
    return named("reward", -jnp.mean(ratio * reward))


def expected(params: Params, model_state: Any, data: Data) -> jax.Array:
    """Return minus the reward that the policy expects."""
    del model_state
    chances = jax.nn.softmax(apply_mlp(params, jnp.asarray(data["x"]), jnp.tanh))
    return -jnp.mean(jnp.sum(chances * data["y"], axis=1))


@functools.cache
def fresh_contexts() -> Data:
    """Return 1024 contexts that were not trained on."""
    return {name: array[0] for name, array in contexts(10_000, 1, 1024).items()}


@functools.cache
def chain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features and true action values of a walk with a reward at its end.

    Action 1 goes right, 0 left, and one in ten goes the other way.
    """
    features = np.random.default_rng(32).normal(size=(STATES, 6))
    right = np.minimum(np.arange(STATES) + 1, STATES - 1)
    left = np.maximum(np.arange(STATES) - 1, 0)
    reward = (np.arange(STATES) == STATES - 1).astype(float)
    values = np.zeros((STATES, 2))
    for _ in range(300):
        after = reward + DISCOUNT * values.max(-1)
        values = np.stack(
            [0.9 * after[left] + 0.1 * after[right],
             0.9 * after[right] + 0.1 * after[left]], axis=-1,
        )  # fmt: skip
    return features.astype(np.float32), values.astype(np.float32), reward


def transitions(seed: int) -> Data:
    """Return states, random actions, rewards and next states of the walk."""
    rng = np.random.default_rng([seed, 33])
    features, _, reward = chain()
    state = rng.integers(0, STATES, (STEPS, 32))
    action = rng.integers(0, 2, state.shape)
    goes_right = (action == 1) ^ (rng.random(state.shape) < 0.1)
    after = np.clip(np.where(goes_right, state + 1, state - 1), 0, STATES - 1)
    return {
        "x": features[state],
        "y": reward[after].astype(np.float32),
        "action": action.astype(np.int32),
        "after": features[after],
    }


def td_error(
    params: Params, batch: Any, key: Any, *, model_state: Any
) -> tuple[jax.Array, Aux]:
    """Return the squared temporal difference against a slow copy of the network."""
    del key
    after = jnp.max(apply_mlp(model_state, batch["after"]), axis=1)
    target = batch["y"] + DISCOUNT * after
    values = apply_mlp(params, batch["x"])
    taken = jnp.take_along_axis(values, batch["action"][:, None], axis=1)[:, 0]
    loss, aux = named("temporal_difference", jnp.mean((taken - target) ** 2))
    slow = jax.tree.map(lambda s, p: 0.95 * s + 0.05 * p, model_state, params)
    return loss, aux | {"model_state": jax.lax.stop_gradient(slow)}


def value_error(params: Params, model_state: Any, data: Any) -> jax.Array:
    """Return the squared error of the action values, over their variance."""
    del model_state
    features, values = data
    errors = apply_mlp(params, jnp.asarray(features)) - values
    return jnp.mean(errors**2) / jnp.var(jnp.asarray(values))


RUNS = (
    Run(
        name="bandit_policy_gradient_negative",
        kind="negative loss",
        steps=STEPS,
        init=mlp(6, 16, ARMS),
        loss=policy_gradient,
        optimizer=lambda: optax.adam(1e-2),
        batches=contexts,
        score=scored(expected, fresh_contexts),
    ),
    Run(
        name="td_target_network_adam",
        kind="moving targets",
        steps=STEPS,
        init=mlp(6, 32, 2),
        loss=td_error,
        optimizer=lambda: optax.adam(optax.cosine_decay_schedule(5e-3, STEPS)),
        batches=transitions,
        score=scored(value_error, lambda: chain()[:2]),
        clip=10.0,
        model_state=mlp(6, 32, 2),
    ),
)
