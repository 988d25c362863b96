"""The five numbers that steer all cells of durotaxis, squashed into their ranges."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Controls", "bound", "controls"]


class Controls(NamedTuple):
    """The action as it is carried out.

    Attributes:
        share: Share of the nodes that is deleted, from the left, [0, 0.7].
        reach: Largest distance of a child [px], [0.5, 15].
        half: Stiffness at which it is half of that, [0.5, 4].
        extra: Added to the distance [px], [0.05, 0.5].
        angle: Direction of all children [rad], within 30 degrees.
    """

    share: Float[Array, ""]
    reach: Float[Array, ""]
    half: Float[Array, ""]
    extra: Float[Array, ""]
    angle: Float[Array, ""]


def controls(action: Float[Array, "*batch 5"]) -> Controls:
    """Squash a sampled action into the ranges of `Controls`."""
    share, reach, half, extra = (
        jax.nn.sigmoid(action[..., index]) for index in range(4)
    )
    return Controls(
        share=0.7 * share,
        reach=0.5 + 14.5 * reach,
        half=0.5 + 3.5 * half,
        extra=0.05 + 0.45 * extra,
        angle=math.radians(30.0) * jnp.tanh(action[..., 4]),
    )


def bound(action: Array) -> Array:
    """Return the controls of an action as one vector."""
    return jnp.stack(controls(action), axis=-1)
