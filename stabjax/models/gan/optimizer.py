"""One optimizer per player, which rests while its player sits out."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from stabjax.models.gan.config import Config

__all__ = ["per_player", "rest_at_zero"]

_COUNT_BETAS = (0.9, 0.999)


def per_player(
    config: Config, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Give each player an optimizer of its own, clip and counters included.

    Args:
        config: ``count_rate`` gives the count head an Adam of its own.
        optimizer: Of the critic and of the generator.
    """
    count = rest_at_zero(optimizer)
    if config.count_rate is not None:
        b1, b2 = _COUNT_BETAS
        count = optax.adam(config.count_rate, b1=b1, b2=b2)
    return optax.multi_transform(
        {
            "critic": optimizer,
            "generator": rest_at_zero(optimizer),
            "count": count,
        },
        {"critic": "critic", "generator": "generator", "count": "count"},
    )


def rest_at_zero(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Leave an optimizer alone in steps whose whole gradient is exactly zero.

    A player that sits out has such a gradient. Moments would otherwise decay, momentum
    would carry on and schedules advance, once per step of the other player. Read from
    the gradient and not from a counter, it cannot fall out of step with the game after
    a refusal, a rollback or a reset of moments.
    """
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        moved = [jnp.any(leaf != 0) for leaf in jax.tree.leaves(updates)]

        def moves(now: Any) -> tuple[Any, Any]:
            return inner.update(updates, now, params, **extra)

        shapes, _ = jax.eval_shape(moves, state)

        def rests(now: Any) -> tuple[Any, Any]:
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), now

        return jax.lax.cond(jnp.any(jnp.stack(moved)), moves, rests, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)
