"""Advantages against a loop, and what can be said of a critic."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from ppo_haste import in_haste

from stabjax.models.ppo.advantages import component_advantages, explained_variance

GAMMA, LAMBDA = 0.97, 0.9


@pytest.fixture(scope="module")
def rollout():
    rng = np.random.default_rng(0)
    shape = (30, 4, 3)
    rewards, values, later = (rng.normal(size=shape) for _ in range(3))
    terminated = rng.random(shape[:2]) < 0.1
    truncated = (rng.random(shape[:2]) < 0.1) & ~terminated
    return rewards, values, later, terminated, terminated | truncated


def by_hand(rewards, values, later, terminated, over):
    advantages = np.zeros_like(rewards)
    running = np.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        follows = np.where(terminated[t][:, None], 0.0, later[t])
        running = np.where(over[t][:, None], 0.0, running)
        running = rewards[t] + GAMMA * follows - values[t] + GAMMA * LAMBDA * running
        advantages[t] = running
    return advantages


compiled = in_haste(
    functools.partial(component_advantages, gamma=GAMMA, gae_lambda=LAMBDA)
)
explained = in_haste(explained_variance)


def estimate(*parts):
    real = [np.asarray(x, np.float32) for x in parts[:3]]
    return np.asarray(compiled(*real, *parts[3:]))


def test_advantages_equal_the_recursion_by_hand(rollout):
    np.testing.assert_allclose(
        estimate(*rollout), by_hand(*rollout), rtol=1e-4, atol=1e-5
    )


def test_a_cut_off_episode_goes_on_in_its_value_and_a_terminated_one_does_not():
    one = np.ones((1, 2, 1))
    ended = np.array([[True, False]])
    found = estimate(one, 0 * one, 10.0 * one, ended, np.ones_like(ended))
    np.testing.assert_allclose(found[0, :, 0], [1.0, 1.0 + GAMMA * 10.0], rtol=1e-6)


def test_the_weighted_sum_is_the_advantage_of_the_weighted_reward(rollout):
    weights = np.array([1.0, 0.75, -2.0])
    summed = [(x @ weights)[..., None] for x in rollout[:3]]
    whole = estimate(*summed, *rollout[3:])[..., 0]
    parts = estimate(*rollout) @ weights
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-4)


def test_a_critic_that_knows_the_means_alone_explains_nothing():
    """Pooled over components of unlike means, as the original has it, it seems to."""
    rng = np.random.default_rng(1)
    returns = rng.normal((1500.0, 0.0), 30.0, (500, 2)).astype(np.float32)
    values = np.broadcast_to(returns.mean(0), returns.shape)
    each = explained(values, returns)
    np.testing.assert_allclose(each, 0.0, atol=1e-3)
    pooled = explained(values.reshape(-1), returns.reshape(-1))
    assert float(pooled) > 0.99


def test_of_constant_returns_nothing_can_be_explained():
    assert np.isnan(float(explained(jnp.zeros(4), jnp.ones(4))))
