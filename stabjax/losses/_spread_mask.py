"""A mask over leading axes, written out for whole arrays."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def spread_mask(
    function: str, mask: Bool[Array, "..."] | None, like: Float[Array, "..."]
) -> Bool[Array, "..."]:
    """Return ``mask`` in the shape of ``like``, all True if there is none.

    Raises:
        ValueError: If the mask is not over leading axes of ``like``.
    """
    if mask is None:
        return jnp.ones(like.shape, jnp.bool_)
    if mask.shape != like.shape[: mask.ndim]:
        raise ValueError(
            f"{function}: mask must have leading axes of {like.shape}, "
            f"got shape {mask.shape}."
        )
    trailing = (1,) * (like.ndim - mask.ndim)
    return jnp.broadcast_to(mask.reshape(mask.shape + trailing), like.shape)
