"""The loss of one minibatch: policy, values and entropy, and what they report."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from stabjax.losses import WeighedLoss, weigh
from stabjax.models.ppo import policy
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import Environment
from stabjax.models.ppo.network import Answer
from stabjax.models.ppo.value_loss import value_losses

__all__ = ["Minibatch", "Rows", "Shared", "make_loss"]


class Rows(NamedTuple):
    """One transition per row.

    Attributes:
        observation: What was seen.
        action: What is scored under the policy.
        log_prob: Log-density under the policy that acted [nat].
        advantage: Standardized weighted advantage.
        target: Targets of the value heads, in their unit.
        old: Outputs of the value heads before the first update, in that unit.
    """

    observation: Float[Array, "rows features"]
    action: Num[Array, "rows *action"]
    log_prob: Float[Array, " rows"]
    advantage: Float[Array, " rows"]
    target: Float[Array, "rows components"]
    old: Float[Array, "rows outputs"]


class Shared(NamedTuple):
    """What is the same for all minibatches of an iteration.

    Attributes:
        deviation: Of the targets, per component.
        metrics: Scalars of the iteration, for guards and telemetry.
        model_state: What becomes of environments and statistics if an update is
            applied.
    """

    deviation: Float[Array, " components"]
    metrics: dict[str, Float[Array, ""]]
    model_state: Any


class Minibatch(NamedTuple):
    """What one update sees.

    Attributes:
        rows: Its transitions.
        shared: What all updates of the iteration share.
        first: Whether it is the first of them, when the ratio must be one.
    """

    rows: Rows
    shared: Shared
    first: Bool[Array, ""]


def make_loss(
    config: Config,
    environment: Environment,
    apply: Callable[[Any, Array], Answer],
) -> WeighedLoss:
    """Return the stateful loss ``policy + w value + c entropy + b entropy_bonus``.

    ``policy`` is the clipped surrogate of Schulman et al. (2017), ``value`` the sum of
    the components' losses, and ``entropy`` the negative entropy; so is
    ``entropy_bonus``: the original adds it twice.

    Args:
        config: Which setting of every fix.
        environment: Whose actions are scored, and whose components are named.
        apply: ``(parameters, observations) -> Answer``.
    """
    actions = environment.actions

    def terms(
        params: Any, batch: Minibatch, key: Any, *, model_state: Any
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        del key, model_state  # what follows the rollout is decided in the iteration
        rows, shared = batch.rows, batch.shared
        answer = apply(params, rows.observation)
        change = policy.log_density(actions, answer, rows.action) - rows.log_prob
        surrogate, aux = _surrogate(change, rows.advantage, config.clip_epsilon)
        value = value_losses(
            answer.values, rows.old, rows.target, shared.deviation, config
        )
        spread = policy.entropy(actions, answer)
        aux |= {
            f"value_loss_{name}": value.losses[index]
            for index, name in enumerate(environment.components)
        }
        aux["value_loss_largest"] = jnp.max(value.losses)
        aux["entropy"] = spread
        largest = jnp.max(jnp.abs(change))
        aux["first_log_ratio"] = jnp.where(batch.first, largest, jnp.nan)
        if config.value_clip != "none":
            aux["value_clip_fraction"] = value.outside
            aux["value_clip_dead_fraction"] = value.dead
        aux |= shared.metrics
        aux = jax.lax.stop_gradient(aux) | {"model_state": shared.model_state}
        losses = {"policy": surrogate, "value": jnp.sum(value.losses)}
        return losses | {"entropy": -spread, "entropy_bonus": -spread}, aux

    weights = {
        "policy": 1.0,
        "value": config.value_loss_weight,
        "entropy": config.entropy_coef,
        "entropy_bonus": config.entropy_bonus,
    }
    return weigh(terms, weights=weights)


def _surrogate(
    change: Float[Array, " rows"], advantage: Float[Array, " rows"], epsilon: float
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Return the clipped surrogate loss, and how far the policy has moved."""
    ratio = jnp.exp(change)
    bounded = jnp.clip(ratio, 1.0 - epsilon, 1.0 + epsilon)
    gain = jnp.minimum(ratio * advantage, bounded * advantage)
    return -jnp.mean(gain), {
        # An estimate that is never negative, of lower variance than -change.
        "approx_kl": jnp.mean(jnp.expm1(change) - change),
        "clip_fraction": jnp.mean((bounded != ratio).astype(jnp.float32)),
    }
