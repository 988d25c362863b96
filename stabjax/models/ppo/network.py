"""A tanh trunk with a policy head and one value head per reward component."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stabjax.models.modules import graph_of
from stabjax.models.ppo.environment import Actions, Environment

__all__ = ["ActorCritic", "Answer", "applied", "describe"]


class Answer(NamedTuple):
    """What the network says about observations.

    Attributes:
        policy: Means of a continuous action, or logits of a discrete one.
        log_std: Logarithm of the deviations of a continuous action; empty else.
        values: Outputs of the value heads, in their own unit.
    """

    policy: Float[Array, "*batch actions"]
    log_std: Float[Array, " stds"]
    values: Float[Array, "*batch outputs"]


class Trunk(nnx.Module):
    """Dense layers with tanh, orthogonal at the start."""

    def __init__(self, features: int, hidden: tuple[int, ...], rngs: nnx.Rngs):
        sizes = (features, *hidden)
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([_dense(a, b, 2.0**0.5, rngs) for a, b in pairs])

    def __call__(self, x: Float[Array, "*batch features"]) -> Array:
        """Return the features of the last layer."""
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


class ActorCritic(nnx.Module):
    """Policy and values over one trunk, or over one each.

    Parameters are named ``trunk``, ``critic`` (unless shared), ``policy_head``,
    ``log_std`` (of continuous actions) and ``value_head``.
    """

    def __init__(
        self,
        features: int,
        actions: Actions,
        outputs: int,
        hidden: tuple[int, ...],
        shared: bool,
        value_gain: float,
        rngs: nnx.Rngs,
    ):
        self.trunk = Trunk(features, hidden, rngs)
        self.critic = nnx.data(None if shared else Trunk(features, hidden, rngs))
        self.policy_head = _dense(hidden[-1], actions.size, 0.01, rngs)
        self.value_head = _dense(hidden[-1], outputs, value_gain, rngs)
        wide = actions.kind == "continuous"
        start = jnp.zeros((actions.size,), jnp.float32)
        self.log_std = nnx.data(nnx.Param(start) if wide else None)

    def __call__(self, observation: Float[Array, "*batch features"]) -> Answer:
        """Return policy and values of a batch of observations."""
        seen = self.trunk(observation)
        judged = seen if self.critic is None else self.critic(observation)
        empty = jnp.zeros((0,), jnp.float32)
        log_std = empty if self.log_std is None else self.log_std[...]
        return Answer(self.policy_head(seen), log_std, self.value_head(judged))


def describe(
    environment: Environment,
    outputs: int,
    hidden: tuple[int, ...],
    *,
    shared: bool,
    value_gain: float = 1.0,
) -> Callable[[Any], ActorCritic]:
    """Return the function from a key to a network with fresh parameters.

    Args:
        environment: What is seen and done.
        outputs: Outputs of the value heads together.
        hidden: Widths of the trunk.
        shared: Policy and values share the trunk, or each has one.
        value_gain: Of the value heads at the start.
    """

    def build(key: Any) -> ActorCritic:
        return ActorCritic(
            environment.features,
            environment.actions,
            outputs,
            hidden,
            shared,
            value_gain,
            nnx.Rngs(params=key),
        )

    return build


def applied(build: Callable[[Any], ActorCritic]) -> Callable[[Any, Array], Answer]:
    """Return the pure function ``(parameters, observations) -> Answer``."""
    graph = graph_of(lambda: build(jax.random.key(0)))
    return lambda params, observation: nnx.merge(graph, params)(observation)


def _dense(inputs: int, outputs: int, gain: float, rngs: nnx.Rngs) -> nnx.Linear:
    start = nnx.initializers.orthogonal(gain)
    return nnx.Linear(inputs, outputs, kernel_init=start, rngs=rngs)
