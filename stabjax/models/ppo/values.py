"""The unit in which values are learned, and the way back to that of the rewards.

The contract of a sound unit: predictions are converted to the unit of the rewards
before they meet one, with the statistics they were made under; targets and old
predictions are converted with the statistics after the update.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stabjax.losses import (
    PopArt,
    ReturnNormalizer,
    pop_art,
    return_normalizer,
    standardize_returns,
    two_hot_bins,
    two_hot_decode,
)
from stabjax.models.ppo.config import Config

__all__ = ["BINS", "ValueUnit", "value_unit"]

BINS = two_hot_bins()
# Rewards may be of any size; what the deviation of their returns is divided by is not
# bounded from below by a number of their unit.
_LEAST_DEVIATION = 1e-12


@dataclasses.dataclass(frozen=True)
class ValueUnit:
    """Pure functions around the outputs of the value heads.

    Attributes:
        outputs: Outputs of the heads together.
        init: ``() -> statistics``.
        predict: ``(statistics, heads) -> values`` in the unit that meets rewards,
            ``[*batch, components]``.
        update: ``(statistics, returns, params) -> (statistics, params)``; PopArt
            rescales the value head along with its unit, all others keep it.
        targets: ``(statistics, returns) -> targets`` of the heads.
        carried: ``(before, after, heads) -> heads`` in the unit after the update.
        gain: Of the value heads at the start.
    """

    outputs: int
    init: Callable[[], Any]
    predict: Callable[[Any, Array], Array]
    update: Callable[[Any, Array, Any], tuple[Any, Any]]
    targets: Callable[[Any, Array], Array]
    carried: Callable[[Any, Any, Array], Array]
    gain: float = 1.0


def value_unit(config: Config, components: int) -> ValueUnit:
    """Return the unit a configuration asks for, one head per reward component.

    ``raw``: values are returns. ``seed``: targets are z-scores of the batch, and
    predictions in that unit meet raw rewards, as the original has it. ``batch`` and
    ``running``: `return_normalizer`, with the memory of one rollout or of many.
    ``pop_art`` and ``symlog_two_hot``: see `stabjax.losses`.
    """
    kind = config.normalization
    if kind == "symlog_two_hot":
        return _two_hot(components)
    if kind == "pop_art":
        return _pop_art(config, components)
    if kind in ("batch", "running"):
        return _normalized(config, components)
    return _raw(config, components)


def _raw(config: Config, components: int) -> ValueUnit:
    def targets(statistics: Any, returns: Array) -> Array:
        if config.normalization == "raw":
            return returns
        scale = config.return_scale
        return standardize_returns(returns, axis=0, scale=scale, ddof=1)

    return ValueUnit(
        outputs=components,
        init=lambda: (),
        predict=lambda statistics, heads: heads,
        update=lambda statistics, returns, params: (statistics, params),
        targets=targets,
        carried=lambda before, after, heads: heads,
    )


def _normalized(config: Config, components: int) -> ValueUnit:
    forgets = config.normalization == "batch"
    normalizer = return_normalizer(
        components=(components,),
        decay=0.0 if forgets else config.normalization_decay,
        scale=config.return_scale,
        min_std=_LEAST_DEVIATION,
    )

    def update(statistics: Any, returns: Array, params: Any) -> tuple[Any, Any]:
        return normalizer.update(statistics, returns), params

    return _converting(normalizer, components, update)


def _pop_art(config: Config, components: int) -> ValueUnit:
    head = pop_art(
        components,
        decay=config.normalization_decay,
        scale=config.return_scale,
        min_std=_LEAST_DEVIATION,
    )

    def update(statistics: Any, returns: Array, params: Any) -> tuple[Any, Any]:
        layer = params["value_head"]
        after, kernel, bias = head.update(
            statistics, returns, layer["kernel"], layer["bias"]
        )
        # A head that has predicted nothing yet has nothing to preserve; rescaled to
        # returns in the thousands it would pass no gradient on to the trunk.
        known = statistics.weight > 0.0
        moved = {
            **layer,
            "kernel": _where(known, kernel, layer["kernel"]),
            "bias": _where(known, bias, layer["bias"]),
        }
        return after, {**params, "value_head": moved}

    return _converting(head, components, update)


def _converting(
    normalizer: ReturnNormalizer | PopArt,
    components: int,
    update: Callable[[Any, Array, Any], tuple[Any, Any]],
) -> ValueUnit:
    """Return a unit that is converted both ways, and is none before the first rollout.

    Until a unit is known every prediction is zero, whatever the heads say: otherwise
    fresh heads would speak in the unit one, and drown rewards that are small.
    """

    def predict(statistics: Any, heads: Array) -> Array:
        values = normalizer.denormalize(statistics, heads)
        return _where(statistics.weight > 0.0, values, jnp.zeros_like(values))

    def carried(before: Any, after: Any, heads: Array) -> Array:
        moved = normalizer.normalize(after, normalizer.denormalize(before, heads))
        return _where(before.weight > 0.0, moved, heads)

    return ValueUnit(
        outputs=components,
        init=normalizer.init,
        predict=predict,
        update=update,
        targets=normalizer.normalize,
        carried=carried,
    )


def _where(known: Array, new: Array, old: Array) -> Array:
    return jnp.where(jnp.broadcast_to(known, new.shape), new, old)


def _two_hot(components: int) -> ValueUnit:
    def predict(statistics: Any, heads: Array) -> Array:
        logits = heads.reshape(*heads.shape[:-1], components, BINS.size)
        return two_hot_decode(jax.nn.softmax(logits), BINS)

    return ValueUnit(
        outputs=components * BINS.size,
        init=lambda: (),
        predict=predict,
        update=lambda statistics, returns, params: (statistics, params),
        targets=lambda statistics, returns: returns,
        carried=lambda before, after, heads: jnp.zeros_like(heads),  # nothing reads it
        # The outer bins stand for 5e8: logits that differ by chance predict millions.
        gain=0.0,
    )
