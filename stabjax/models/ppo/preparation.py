"""From a rollout to what is learned from it: targets, advantages, and its metrics."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.loss_transforms import component_gradient_norms
from stabjax.losses import WeighedLoss
from stabjax.models.ppo.advantages import component_advantages, explained_variance
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import Step, VectorEnvironment, VectorState
from stabjax.models.ppo.episodes import EpisodeLog, episode_metrics, logged
from stabjax.models.ppo.objective import Minibatch, Rows, Shared
from stabjax.models.ppo.rollout import Apply, Experience, View, view
from stabjax.models.ppo.values import ValueUnit
from stabjax.numerics import safe_std, standardize

__all__ = ["ModelState", "Preparation", "Prepared"]


class ModelState(NamedTuple):
    """What an iteration changes besides parameters; rolled back with them.

    Attributes:
        environments: Where they are, and their running episodes.
        statistics: Of the unit in which values are learned.
        log: What the last episodes were worth.
        frozen: The one experience of single-batch mode, else ().
    """

    environments: VectorState
    statistics: Any
    log: EpisodeLog
    frozen: Experience | tuple[()]


class Prepared(NamedTuple):
    """A rollout, ready to be learned from.

    Attributes:
        params: Parameters, the value head rescaled if PopArt moved its unit.
        rows: All transitions.
        shared: What is the same for all updates.
    """

    params: Any
    rows: Rows
    shared: Shared


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What turns an experience into rows, in consistent units.

    Attributes:
        config: The model's configuration.
        environment: Many environments side by side.
        apply: ``(parameters, observations) -> Answer``.
        unit: The unit in which values are learned.
        loss: The loss of a minibatch.
    """

    config: Config
    environment: VectorEnvironment
    apply: Apply
    unit: ValueUnit
    loss: WeighedLoss

    def __call__(
        self,
        params: Any,
        before: ModelState,
        environments: VectorState,
        experience: Experience,
    ) -> Prepared:
        """Return targets and advantages of an experience, in consistent units.

        Predictions become rewards' units under the statistics before the update,
        targets and old predictions are expressed under those after it.
        """
        seen = view(self.environment, self.apply, params, experience)
        values = self.unit.predict(before.statistics, seen.heads)
        step = experience.taken.step
        advantages = component_advantages(
            step.rewards,
            values,
            self.unit.predict(before.statistics, seen.next_heads),
            step.terminated,
            step.terminated | step.truncated,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
        )
        returns = _flat(advantages + values)
        statistics, moved = self.unit.update(before.statistics, returns, params)
        old = self.unit.carried(before.statistics, statistics, _flat(seen.heads))
        target = self.unit.targets(statistics, returns)
        rows = self._rows(experience, seen, _flat(advantages), target, old)
        log = logged(before.log, experience.taken)
        metrics = episode_metrics(log, self.environment.of)
        metrics |= self._rewards(step) | self._critic(_flat(values), returns, rows)
        after = ModelState(environments, statistics, log, before.frozen)
        shared = Shared(safe_std(target, axis=0), metrics, after)
        if self.config.trunk_gradients:
            pulls = self._trunk_gradients(moved, rows, shared, before)
            shared = shared._replace(metrics=metrics | pulls)
        return Prepared(moved, rows, shared)

    def _rows(
        self,
        experience: Experience,
        seen: View,
        advantages: Float[Array, "rows components"],
        target: Float[Array, "rows components"],
        old: Float[Array, "rows outputs"],
    ) -> Rows:
        action = experience.action
        if self.config.stored_actions == "seed":
            action = self.environment.of.bound(action)
        return Rows(
            observation=_flat(experience.observation[:-1]),
            action=_flat(action),
            log_prob=_flat(seen.log_prob),
            advantage=self._advantage(advantages),
            target=target,
            old=old,
        )

    def _advantage(self, advantages: Float[Array, "rows components"]) -> Array:
        if self.config.advantages == "component_standardized":
            advantages = standardize(advantages, axis=0)
        return standardize(advantages @ self._weights)

    @property
    def _weights(self) -> Float[Array, " components"]:
        return jnp.asarray(self.environment.of.weights, jnp.float32)

    def _rewards(self, step: Step) -> dict[str, Array]:
        """Return the mean reward of each component per step, before its weight."""
        means = jnp.mean(step.rewards, axis=(0, 1))
        names = self.environment.of.components
        return {f"reward_{name}": means[index] for index, name in enumerate(names)}

    def _critic(
        self,
        values: Float[Array, "rows components"],
        returns: Float[Array, "rows components"],
        rows: Rows,
    ) -> dict[str, Array]:
        """Say how much of the returns the critic knows, in the unit of the rewards."""
        total, predicted = returns @ self._weights, values @ self._weights
        each = explained_variance(values, returns)
        metrics = {
            "explained_variance": explained_variance(predicted, total),
            "return_mean": jnp.mean(total),
            "return_std": jnp.std(total),
        }
        if rows.old.shape == rows.target.shape:  # two-hot heads are no values
            own = explained_variance(rows.old, rows.target)
            # Weighted like the total; a component that is constant has no part.
            metrics["explained_variance_own_unit"] = jnp.nanmean(own)
        names = self.environment.of.components
        return metrics | {
            f"explained_variance_{name}": each[index]
            for index, name in enumerate(names)
        }

    def _trunk_gradients(
        self, params: Any, rows: Rows, shared: Shared, before: ModelState
    ) -> dict[str, Array]:
        """Return what policy and values pull at the trunk with, on one minibatch."""
        size = self.config.rows // self.config.num_minibatches
        part = jax.tree.map(lambda x: x[:size], rows)
        # The metrics of an update are not wanted here, and must not meet themselves.
        bare = Minibatch(part, shared._replace(metrics={}), jnp.zeros((), jnp.bool_))
        measured = component_gradient_norms(self.loss, groups=("trunk",))
        key = jax.random.key(0)  # the loss draws nothing
        _, aux = measured(params, bare, key, model_state=before)
        policy, value = (aux[f"gradient/{name}/trunk"] for name in ("policy", "value"))
        total = policy + value
        share = jnp.where(total > 0.0, value / jnp.where(total > 0.0, total, 1.0), 0.0)
        return {
            "gradient/policy/trunk": policy,
            "gradient/value/trunk": value,
            "value_gradient_share": share,
        }


def _flat(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])
