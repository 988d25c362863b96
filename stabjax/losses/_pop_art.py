"""Running normalization of returns under which the predictions stay what they are."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from stabjax.losses._return_normalization import (
    ReturnNormalizer,
    ReturnStatistics,
    return_normalizer,
)
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import saturate, widen


class PopArt(NamedTuple):
    """Pure functions for a value head with PopArt; build one with `pop_art`.

    Attributes:
        init: ``() -> statistics``.
        update: ``(statistics, returns, kernel, bias, mask=None) -> (statistics,
            kernel, bias)``.
        normalize: ``(statistics, returns) -> values``, the targets of the head.
        denormalize: ``(statistics, values) -> returns``, the predictions.
    """

    init: Callable[[], ReturnStatistics]
    update: Callable[..., tuple[ReturnStatistics, Array, Array]]
    normalize: Callable[[ReturnStatistics, Array], Array]
    denormalize: Callable[[ReturnStatistics, Array], Array]


def _rescale(
    kernel: Array,
    bias: Array,
    before: tuple[Array, Array],
    after: tuple[Array, Array],
    scale: float,
) -> tuple[Array, Array]:
    """Return the layer that predicts in the units after what it did before."""
    ratio = before[1] / after[1]
    shift = scale * ((before[0] - after[0]) / after[1])
    columns = jnp.broadcast_to(ratio[None, :], kernel.shape)
    return (
        saturate(widen(kernel) * columns, kernel.dtype),
        saturate(widen(bias) * ratio + shift, bias.dtype),
    )


def pop_art(
    outputs: int, *, decay: float = 0.9, scale: float = 1.0, min_std: float = 1e-2
) -> PopArt:
    """Build a running normalization that rescales the last layer along with it.

    A linear layer gives ``h = x kernel + bias`` and the prediction is ``mean +
    s h / scale``. When the statistics move from (m, s) to (m', s'), so does the
    layer: ``kernel s / s'`` and ``bias s / s' + scale (m - m') / s'``. The
    predictions are those of before, exactly but for rounding.

    The moments of an optimizer are not rescaled: those of kernel and bias stay in
    the old unit and need some steps to follow. A kernel in bfloat16 is rounded anew
    at each update; keep this layer in float32.

    Args:
        outputs: Number of value heads, at least 1.
        decay: Memory per update, [0, 1]; as for `return_normalizer`.
        scale: Deviation of the normalized returns, [1.2e-38, 1e30].
        min_std: Least deviation [return], [1e-30, 1e30].

    Returns:
        Pure functions. ``update`` takes returns ``[*batch, outputs]``, ``kernel``
        ``[features, outputs]`` and ``bias`` ``[outputs]``, and keeps their dtypes.
        Keep or refuse its three results together, and give the two of the layer to
        the parameters before the next gradient.

    Raises:
        ValueError: If an option is outside its range; when called, if kernel or bias
            do not have ``outputs`` columns.

    Gradient:
        None through the statistics.

    Source:
        van Hasselt et al. (2016), arXiv:1602.07714; several heads, Hessel et al.
        (2019), arXiv:1809.04474.

    Example:
        >>> head = pop_art(1)
        >>> kernel, bias = jnp.ones((2, 1)), jnp.zeros(1)
        >>> returns = jnp.array([[100.0], [300.0]])
        >>> statistics, kernel, bias = head.update(head.init(), returns, kernel, bias)
        >>> x = jnp.array([3.0, 4.0])
        >>> round(float(head.denormalize(statistics, x @ kernel + bias)[0]), 3)
        7.0
    """
    check_range("pop_art", "outputs", outputs, low=1)
    normalizer: ReturnNormalizer = return_normalizer(
        components=(outputs,), decay=decay, scale=scale, min_std=min_std
    )

    def update(
        statistics: ReturnStatistics,
        returns: Array,
        kernel: Array,
        bias: Array,
        mask: Array | None = None,
    ) -> tuple[ReturnStatistics, Array, Array]:
        if kernel.shape[1:] != (outputs,) or bias.shape != (outputs,):
            raise ValueError(
                f"pop_art: kernel and bias must have {outputs} columns, "
                f"got shapes {kernel.shape} and {bias.shape}."
            )
        moved = normalizer.update(statistics, returns, mask)
        before, after = normalizer.units(statistics), normalizer.units(moved)
        return moved, *_rescale(kernel, bias, before, after, scale)

    return PopArt(normalizer.init, update, normalizer.normalize, normalizer.denormalize)
