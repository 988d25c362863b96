"""How many clues a query uses, and what keeps that number alive."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.losses import saturation_penalty, variance_hinge
from stabjax.models.rlan.config import Config, Setting

__all__ = [
    "ClueTerms",
    "clue_std",
    "clue_terms",
    "clue_use",
    "saturation_loss",
    "variance_loss",
]


class ClueTerms(NamedTuple):
    """Losses on the clues before any weight; not all are connected in every arm."""

    ponder: Float[Array, ""]
    minimum: Float[Array, ""]
    variance: Float[Array, ""]
    saturation: Float[Array, ""]


def clue_use(
    stop: Float[Array, "rows clues"], setting: str
) -> Float[Array, "rows clues"]:
    """Return how much each clue is used, given its bounded stop logits.

    With ``p = sigmoid(stop)``: ``seed`` takes ``1 - p_k``, whatever the clues before
    said, ``sound`` the probability ``prod_(j<k) (1 - p_j)`` that nothing stopped
    before. Its sum is the expected number of clues of a sequence that stops, at
    least one; the sum of the other is not.

    Args:
        stop: Stop logits.
        setting: "seed" or "sound".
    """
    going = jax.nn.sigmoid(-stop)
    if setting == "seed":
        return going
    reached = jnp.cumprod(going, axis=1)[:, :-1]
    return jnp.concatenate([jnp.ones_like(going[:, :1]), reached], axis=1)


def clue_terms(
    config: Config,
    raw: Float[Array, "rows clues"],
    stop: Float[Array, "rows clues"],
    clues: Float[Array, " rows"],
) -> ClueTerms:
    """Return every loss on the number of clues, in the settings of ``config``."""
    return ClueTerms(
        ponder=jnp.mean(clues),
        minimum=jnp.mean(jax.nn.relu(1.0 - clues)),
        variance=variance_loss(
            clues, config.clue_variance, target=config.clue_std_target
        ),
        saturation=saturation_loss(
            raw, stop, config.clue_saturation, limit=config.saturation_limit
        ),
    )


def variance_loss(
    clues: Float[Array, " rows"], setting: Setting, *, target: float
) -> Float[Array, ""]:
    """Charge for a number of clues that is the same for every query.

    ``max(target - std, 0)``, by the sample formula (n - 1).

    Gradient: ``seed`` takes the plain root: NaN where all queries use the same
    number, which is where it is needed. ``sound`` pushes them apart there.

    Args:
        clues: Number of clues of each query.
        setting: "before" is as "seed", and is not to be connected.
        target: Deviation that is enough [clues].
    """
    if setting == "sound":
        return variance_hinge(clues, target=target)
    return jax.nn.relu(target - jnp.std(clues, ddof=1))


def saturation_loss(
    raw: Float[Array, "rows clues"],
    stop: Float[Array, "rows clues"],
    setting: Setting,
    *,
    limit: float,
) -> Float[Array, ""]:
    """Charge for stop logits so large that the sigmoid has no slope.

    ``mean(max(|logit| - limit, 0))``. ``seed`` looks at ``stop``, which 6 tanh(raw / 6)
    has already bounded: it is at most 6 - limit, and its slope fades where raw is
    large. ``sound`` looks at ``raw``.

    Args:
        raw: Stop logits before they are bounded.
        stop: The bounded ones.
        setting: "before" is as "seed", and is not to be connected.
        limit: Size that is free.
    """
    if setting == "sound":
        return saturation_penalty(raw, limit=limit)
    return jnp.mean(jax.nn.relu(jnp.abs(stop) - limit))


def clue_std(clues: Float[Array, " rows"]) -> Float[Array, ""]:
    """Return the deviation of the number of clues over a batch, to be looked at."""
    deviation = clues - jnp.mean(clues)
    return jnp.sqrt(jnp.sum(deviation**2) / max(len(clues) - 1, 1))
