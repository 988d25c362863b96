"""Proximal policy optimization as most JAX users have it: one file, no guard.

The loop of purejaxrl's ppo.py, written anew from its description: two networks of
their own for policy and value, raw returns, values clipped by the epsilon of the
policy, half of the squared error, an episode that is cut off counted as ended, a new
permutation per epoch, keys split at every step. Only the environments are ours, so
that all loops play the same.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax.models.ppo.environment import VectorEnvironment


class Settings(NamedTuple):
    """Constants of the loop; the defaults are those of purejaxrl."""

    num_envs: int = 4
    num_steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    max_norm: float = 0.5
    rate: float = 2.5e-4
    hidden: tuple[int, ...] = (64, 64)


class Runner(NamedTuple):
    """What the loop carries."""

    params: Any
    opt_state: Any
    environments: Any
    key: Any


class Seen(NamedTuple):
    """What is kept of a step."""

    observation: Any
    action: Any
    log_prob: Any
    value: Any
    reward: Any
    done: Any
    total: Any


def network(key, sizes, gain):
    """Return the layers of a tanh network with an orthogonal start."""
    keys = jax.random.split(key, len(sizes) - 1)
    gains = [2.0**0.5] * (len(sizes) - 2) + [gain]
    make = jax.nn.initializers.orthogonal
    return [
        (make(g)(k, (a, b), jnp.float32), jnp.zeros((b,), jnp.float32))
        for k, g, a, b in zip(keys, gains, sizes[:-1], sizes[1:], strict=True)
    ]


def forward(layers, x):
    """Return the outputs of a tanh network."""
    for kernel, bias in layers[:-1]:
        x = jnp.tanh(x @ kernel + bias[None])
    kernel, bias = layers[-1]
    return x @ kernel + bias[None]


class Plain:
    """The loop for one environment and one choice of settings."""

    def __init__(self, environment: VectorEnvironment, settings: Settings):
        self.environment, self.settings = environment, settings
        self.discrete = environment.of.actions.kind == "discrete"
        clip = optax.clip_by_global_norm(settings.max_norm)
        self.optimizer = optax.chain(clip, optax.adam(settings.rate, eps=1e-5))
        self.weights = jnp.asarray(environment.of.weights, jnp.float32)

    def init(self, key) -> Runner:
        """Return networks and environments at their start."""
        of, hidden = self.environment.of, self.settings.hidden
        key, key_actor, key_critic, key_reset = jax.random.split(key, 4)
        params = {
            "actor": network(key_actor, (of.features, *hidden, of.actions.size), 0.01),
            "critic": network(key_critic, (of.features, *hidden, 1), 1.0),
        }
        if not self.discrete:
            params["log_std"] = jnp.zeros((of.actions.size,), jnp.float32)
        keys = jax.random.split(key_reset, self.settings.num_envs)
        start = self.environment.reset(keys)
        return Runner(params, self.optimizer.init(params), start, key)

    def policy(self, params, observation):
        """Return means or logits, and values."""
        value = forward(params["critic"], observation)[..., 0]
        return forward(params["actor"], observation), value

    def log_prob(self, params, out, action):
        """Return the log-density of actions and the mean entropy."""
        if self.discrete:
            chances = jax.nn.log_softmax(out)
            taken = jnp.take_along_axis(chances, action[..., None], -1)[..., 0]
            entropy = -jnp.sum(jnp.exp(chances) * chances, -1)
            return taken, jnp.mean(entropy)
        log_std = jnp.broadcast_to(params["log_std"], out.shape)
        scores = (action - out) * jnp.exp(-log_std)
        constant = jnp.log(2.0 * jnp.pi)
        density = -0.5 * jnp.sum(scores**2 + 2.0 * log_std + constant, -1)
        return density, jnp.sum(params["log_std"] + 0.5 * (1.0 + constant))

    def iterate(self, runner: Runner, _=None):
        """Take one iteration; return the mean return of the episodes that ended."""
        runner, seen = jax.lax.scan(
            self.step, runner, None, length=self.settings.num_steps
        )
        _, last = self.policy(runner.params, runner.environments.observation)
        advantages = self.advantages(seen, last)
        batch = (seen, advantages, advantages + seen.value)
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        runner, _ = jax.lax.scan(
            functools.partial(self.epoch, batch),
            runner,
            None,
            length=self.settings.epochs,
        )
        ended = jnp.sum(seen.done)
        return runner, jnp.sum(seen.total * seen.done) / ended

    def step(self, runner: Runner, _):
        """Act once in every environment."""
        key, key_act, key_env = jax.random.split(runner.key, 3)
        observation = runner.environments.observation
        out, value = self.policy(runner.params, observation)
        if self.discrete:
            action = jax.random.categorical(key_act, out).astype(jnp.int32)
        else:
            noise = jax.random.normal(key_act, out.shape)
            deviation = jnp.broadcast_to(jnp.exp(runner.params["log_std"]), noise.shape)
            action = out + deviation * noise
        log_prob, _ = self.log_prob(runner.params, out, action)
        keys = jax.random.split(key_env, (2, self.settings.num_envs))
        after, taken = self.environment.step(keys, runner.environments, action)
        reward = taken.step.rewards @ self.weights
        done = (taken.step.terminated | taken.step.truncated).astype(jnp.float32)
        seen = Seen(observation, action, log_prob, value, reward, done, taken.total)
        return runner._replace(environments=after, key=key), seen

    def advantages(self, seen: Seen, last):
        """Return generalized advantage estimates."""
        gamma, decay = self.settings.gamma, self.settings.gae_lambda

        def back(carry, now):
            advantage, following = carry
            go_on = 1.0 - now.done
            surprise = now.reward + gamma * following * go_on - now.value
            advantage = surprise + gamma * decay * go_on * advantage
            return (advantage, now.value), advantage

        start = (jnp.zeros_like(last), last)
        return jax.lax.scan(back, start, seen, reverse=True, unroll=16)[1]

    def epoch(self, batch, runner: Runner, _):
        """Make one pass over a rollout in a new order."""
        rows = batch[1].shape[0]
        key, key_order = jax.random.split(runner.key)
        order = jax.random.permutation(key_order, rows)
        shape = (self.settings.minibatches, rows // self.settings.minibatches)
        parts = jax.tree.map(
            lambda x: jnp.take(x, order, axis=0).reshape(*shape, *x.shape[1:]), batch
        )
        return jax.lax.scan(self.update, runner._replace(key=key), parts)

    def update(self, runner: Runner, part):
        """Make one update."""
        loss, slopes = jax.value_and_grad(self.loss)(runner.params, *part)
        updates, opt_state = self.optimizer.update(slopes, runner.opt_state)
        params = optax.apply_updates(runner.params, updates)
        return runner._replace(params=params, opt_state=opt_state), loss

    def loss(self, params, seen: Seen, advantage, target):
        """Return the clipped surrogate, the clipped value loss and the entropy."""
        s = self.settings
        out, value = self.policy(params, seen.observation)
        log_prob, entropy = self.log_prob(params, out, seen.action)
        near = seen.value + jnp.clip(value - seen.value, -s.clip, s.clip)
        error = jnp.maximum((value - target) ** 2, (near - target) ** 2)
        ratio = jnp.exp(log_prob - seen.log_prob)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        bounded = jnp.clip(ratio, 1.0 - s.clip, 1.0 + s.clip)
        gain = jnp.minimum(ratio * advantage, bounded * advantage)
        value_loss = 0.5 * jnp.mean(error)
        return -jnp.mean(gain) + s.value * value_loss - s.entropy * entropy
