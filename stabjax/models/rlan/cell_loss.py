"""The loss of a cell: focal stablemax, as it was written and as it is finite."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stabjax.losses import cross_entropy_per_example, focal_loss_per_example, hard_clamp
from stabjax.models.arc import COLORS
from stabjax.models.rlan.config import Config
from stabjax.numerics import masked_mean

__all__ = [
    "CLAMP",
    "Answers",
    "RowLosses",
    "color_weights",
    "naive_log_stablemax",
    "row_losses",
    "squash_logits",
]

CLAMP = 50.0  # of the logits, in the seed's fix
_KNEE, _CEILING = 50.0, 100.0  # of the bound inside the original's head
_ABSENT = 1e-6  # the original's frequency of a color that is not there


class Answers(NamedTuple):
    """Answered cells."""

    logits: Array  # (rows, cells, colors), in the dtype of the configuration
    target: Int[Array, "rows cells"]
    valid: Bool[Array, "rows cells"]  # cells that count

    @property
    def labels(self) -> Int[Array, "rows cells"]:
        """The targets, black where a cell does not count."""
        return jnp.where(self.valid, self.target, 0)


def naive_log_stablemax(
    logits: Float[Array, "*cells colors"],
) -> Float[Array, "*cells colors"]:
    """Return the logarithm of stablemax in the usual form: both branches, one select.

    Gradient: NaN at a logit of exactly one. There the branch that is not taken is
    ``1 / (1 - x + 1e-30)``, its slope 1e60 is infinite in float32, and 0 * inf is
    NaN. `stabjax.losses.log_stablemax` has the same values.
    """
    x = logits.astype(jnp.float32)
    s = jnp.where(x < 0.0, 1.0 / (1.0 - x + 1e-30), x + 1.0)
    return jnp.log(s) - jnp.log(jnp.sum(s, axis=-1, keepdims=True))


def squash_logits(logits: Float[Array, "*cells colors"]) -> Array:
    """Bound logits above 50 smoothly to 100, as the original's head does.

    Gradient: jumps from one to two at 50: the bound is not smooth there.
    """
    size = jnp.abs(logits)
    room = _CEILING - _KNEE
    bounded = _KNEE + room * jnp.tanh(2.0 * (size - _KNEE) / room)
    return jnp.where(size > _KNEE, jnp.sign(logits) * bounded, logits)


def color_weights(
    target: Int[Array, "*cells"],
    valid: Bool[Array, "*cells"],
    setting: str,
    *,
    cap: float,
) -> Float[Array, " colors"]:
    """Return the weight of each color: black 1, others more the rarer they are.

    ``seed``: ``1 + (cap - 1) (1/f - min) / (max - min)`` over all nine colors, with
    f = 1e-6 for one that is absent: then that one's 1/f is the maximum, and every
    color that is there weighs 1.0 however rare. ``sound``: ``1 + (cap - 1) min f / f``
    over the colors that are there: the rarest of them weighs ``cap``, and two that
    are nearly as frequent nearly the same.

    Args:
        target: Colors.
        valid: The cells that count.
        setting: "seed" or "sound".
        cap: Largest weight, >= 1.
    """
    hot = jax.nn.one_hot(target, COLORS, dtype=jnp.float32)
    counts = jnp.sum(
        jnp.where(valid[..., None], hot, 0.0), axis=tuple(range(target.ndim))
    )
    share = counts[1:] / jnp.maximum(jnp.sum(counts), 1.0)
    present = counts[1:] > 0.0
    if setting == "seed":
        rarity = 1.0 / jnp.maximum(share, _ABSENT)
        low, high = jnp.min(rarity), jnp.max(rarity)
        degree = (rarity - low) / jnp.maximum(high - low, _ABSENT)
    else:
        rarest = jnp.min(jnp.where(present, share, jnp.inf))
        degree = jnp.where(present, rarest / jnp.where(present, share, 1.0), 0.0)
    weights = 1.0 + (cap - 1.0) * degree
    return jnp.concatenate([jnp.ones((1,), jnp.float32), weights])


class RowLosses(NamedTuple):
    """Losses of every row and how many logits were clamped."""

    task: Float[Array, " rows"]
    held_out: Float[Array, " held_out"]
    clamped: Float[Array, ""]


def row_losses(config: Config, task: Answers, held_out: Answers) -> RowLosses:
    """Return the loss of every query and of every held-out demonstration.

    Queries get the focal loss in its setting, with the weights of the colors in their
    targets. Held-out rows get the same (``sound``), or (``seed``) the softmax
    cross-entropy of logits that stablemax has made large: an error at (+80, -90) costs
    170 nats there and 8.9 under stablemax.
    """
    weights = color_weights(
        task.target, task.valid, config.cell_weights, cap=config.foreground_cap
    )
    if config.loo_loss == "sound":
        every = Answers(*(jnp.concatenate(x) for x in zip(task, held_out, strict=True)))
        losses, hits = _focal(config, every, weights)
        rows = _row_mean(config, losses, every.valid)
        return RowLosses(rows[: len(task.valid)], rows[len(task.valid) :], hits)
    losses, hits = _focal(config, task, weights)
    apart = cross_entropy_per_example(
        held_out.logits, held_out.labels, mask=held_out.valid
    )
    return RowLosses(
        _row_mean(config, losses, task.valid),
        masked_mean(apart, held_out.valid, axis=-1),
        hits,
    )


def _focal(
    config: Config, answers: Answers, weights: Float[Array, " colors"]
) -> tuple[Float[Array, "rows cells"], Float[Array, ""]]:
    """Return the focal loss of every cell in its setting."""
    logits, labels, valid = answers.logits, answers.labels, answers.valid
    if config.logit_guard == "sound":
        losses = focal_loss_per_example(
            logits,
            labels,
            gamma=config.focal_gamma,
            link="stablemax",
            mask=valid,
            class_weights=weights,
        )
        return losses, jnp.zeros((), jnp.float32)
    hits = jnp.zeros((), jnp.int32)
    logits = jnp.where(valid[:, :, None], logits, 0)
    if config.logit_guard == "seed":
        logits, hits = hard_clamp(logits, low=-CLAMP, high=CLAMP)
    pick = functools.partial(jnp.take_along_axis, indices=labels[:, :, None], axis=-1)
    entropy = -pick(naive_log_stablemax(logits))[:, :, 0]
    focus = (1.0 - jnp.exp(-entropy)) ** config.focal_gamma
    losses = weights[labels] * focus * entropy
    return jnp.where(valid, losses, 0.0), hits.astype(jnp.float32)


def _row_mean(
    config: Config,
    losses: Float[Array, "rows cells"],
    valid: Bool[Array, "rows cells"],
) -> Float[Array, " rows"]:
    """Average the cells of each row; ``seed`` divides by the whole canvas."""
    if config.cell_weights == "sound":
        return masked_mean(losses, valid, axis=-1)
    return jnp.mean(losses, axis=-1)
