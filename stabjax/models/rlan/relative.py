"""Where every cell lies as seen from a clue, at several scales.

Six coordinates: the offset over the largest grid, the offset over this grid, the
logarithm of the distance, the angle; and sines and cosines of the offset at eight
frequencies.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from stabjax.models.rlan.config import Config

__all__ = ["RelativeEncoding", "coordinates"]

_LARGEST = 30.0  # side of the largest ARC grid [cells]
_FREQUENCIES = 8
_FEATURES = 6 + 4 * _FREQUENCIES


class RelativeEncoding(nnx.Module):
    """Fuses the features of every cell with its place relative to each clue."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width, relative = config.width, config.relative_width
        self.side = config.grid
        self.hidden = nnx.Linear(_FEATURES, relative, rngs=rngs)
        self.fuse_place = nnx.Linear(relative, width, rngs=rngs)
        self.fuse_cell = nnx.Linear(width, width, rngs=rngs)

    def __call__(
        self,
        features: Float[Array, "rows cells width"],
        centroid: Float[Array, "rows clues 2"],
        extent: Float[Array, "rows 2"],
    ) -> Float[Array, "rows clues cells width"]:
        """Return the features as each clue sees them.

        Args:
            features: Of every cell.
            centroid: Row and column of each clue [cells].
            extent: Rows and columns of each grid, >= 1 [cells].
        """
        where = coordinates(centroid, extent, self.side)
        seen = self.fuse_place(nnx.gelu(self.hidden(where)))
        return nnx.gelu(self.fuse_cell(features)[:, None] + seen)


def coordinates(
    centroid: Float[Array, "rows clues 2"], extent: Float[Array, "rows 2"], side: int
) -> Float[Array, "rows clues cells features"]:
    """Return the coordinates of every cell relative to every clue.

    Gradient: finite where a clue lies exactly on a cell, as it does for equal
    attention on an odd side. The plain root and arctangent give NaN there.
    """
    cell = jnp.arange(side * side)
    corners = jnp.stack([cell // side, cell % side], axis=1).astype(jnp.float32)
    offset = corners[None, None] - centroid[:, :, None]
    squared = jnp.sum(offset**2, axis=-1)
    away = squared > 0.0
    distance = jnp.sqrt(jnp.where(away, squared, 1.0))
    down, right = offset[..., 0], offset[..., 1]
    angle = jnp.arctan2(jnp.where(away, down, 0.0), jnp.where(away, right, 1.0))
    scalars = jnp.stack(
        [jnp.where(away, jnp.log1p(distance), 0.0), angle / np.pi], axis=-1
    )
    frequency = np.geomspace(np.pi, np.pi / _LARGEST, _FREQUENCIES)
    phase = (
        offset[..., None] * jnp.asarray(frequency, jnp.float32)[None, None, None, None]
    )
    phase = phase.reshape(*offset.shape[:-1], -1)
    parts = [
        offset / _LARGEST,
        offset / extent[:, None, None],
        scalars,
        jnp.sin(phase),
        jnp.cos(phase),
    ]
    return jnp.concatenate(parts, axis=-1)
