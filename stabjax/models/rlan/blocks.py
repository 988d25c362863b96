"""What every part is made of: convolution, normalization, positions, on flat canvases.

A canvas is (rows, cells, width); cells outside the grid are told by ``real``. They are
zero for a convolution and count in no statistic, so a grid does not feel its padding.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.models.rlan.config import Config

__all__ = ["Block", "Convolution", "GroupNorm", "sinusoids"]

_EPSILON = 1e-5


class Convolution(nnx.Module):
    """3 x 3 convolution on a square canvas, zero beyond the grid.

    ``shifts`` lays the nine neighbors side by side and multiplies once: XLA for CPU is
    slow at the gradient of a convolution, not at that of a product. ``lax`` is the
    convolution of XLA, for GPUs.
    """

    def __init__(self, config: Config, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.side = config.grid
        self.form = config.convolution
        self.linear = nnx.Linear(9 * inputs, outputs, rngs=rngs)

    def __call__(
        self, x: Float[Array, "rows cells inputs"], real: Bool[Array, "rows cells"]
    ) -> Float[Array, "rows cells outputs"]:
        """Return the convolved canvas."""
        x = jnp.where(real[:, :, None], x, 0.0)
        square = x.reshape(len(x), self.side, self.side, x.shape[-1])
        mixed = self._lax(square) if self.form == "lax" else self._shifts(square)
        return mixed.reshape(*x.shape[:2], mixed.shape[-1])

    def _shifts(self, x: Float[Array, "rows side side inputs"]) -> Array:
        wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        side = self.side
        shifted = [
            wide[:, down : down + side, right : right + side]
            for down in range(3)
            for right in range(3)
        ]
        return self.linear(jnp.concatenate(shifted, axis=-1))

    def _lax(self, x: Float[Array, "rows side side inputs"]) -> Array:
        linear: Any = self.linear
        mixed = jax.lax.conv_general_dilated(
            x,
            linear.kernel[...].reshape(3, 3, x.shape[-1], -1),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return mixed + linear.bias[...][None, None, None]


class GroupNorm(nnx.Module):
    """Zero mean and unit deviation per row and group, over the cells of the grid."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        del rngs
        self.groups = config.groups
        self.scale = nnx.Param(jnp.ones((config.width,), jnp.float32))
        self.shift = nnx.Param(jnp.zeros((config.width,), jnp.float32))

    def __call__(
        self, x: Float[Array, "rows cells width"], real: Bool[Array, "rows cells"]
    ) -> Float[Array, "rows cells width"]:
        """Return the normalized canvas; ``shift`` outside the grid."""
        rows, cells, _ = x.shape
        counted = real[:, :, None, None]
        number = jnp.sum(real, axis=1)[:, None, None, None] * (
            x.shape[-1] // self.groups
        )
        each = 1.0 / jnp.maximum(number, 1).astype(jnp.float32)
        split = x.reshape(rows, cells, self.groups, -1)
        split = jnp.where(counted, split, 0.0)
        mean = jnp.sum(split, axis=(1, 3), keepdims=True) * each
        centered = jnp.where(counted, split - mean, 0.0)
        variance = jnp.sum(centered**2, axis=(1, 3), keepdims=True) * each
        normal = centered * jax.lax.rsqrt(variance + _EPSILON)
        normal = normal.reshape(x.shape) * self.scale[...][None, None]
        return normal + self.shift[...][None, None]


class Block(nnx.Module):
    """Convolution, group normalization, GELU."""

    def __init__(self, config: Config, inputs: int, rngs: nnx.Rngs):
        self.convolution = Convolution(config, inputs, config.width, rngs)
        self.norm = GroupNorm(config, rngs)

    def __call__(
        self, x: Float[Array, "rows cells inputs"], real: Bool[Array, "rows cells"]
    ) -> Float[Array, "rows cells width"]:
        """Return new features of every cell."""
        return nnx.gelu(self.norm(self.convolution(x, real), real))


def sinusoids(side: int, width: int) -> np.ndarray:
    """Return sines and cosines of row and column of every cell, (cells, width).

    Args:
        side: Side of the canvas [cells].
        width: Features, a multiple of 4.
    """
    quarter = width // 4
    # Geometric, from one radian per cell to a quarter turn over the largest grid.
    frequency = np.geomspace(1.0, np.pi / 60, quarter)
    angle = np.arange(side)[:, None] * frequency
    line = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    rows = np.repeat(line, side, axis=0)
    columns = np.tile(line, (side, 1))
    return np.concatenate([rows, columns], axis=1).astype(np.float32)
