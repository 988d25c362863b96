"""Returns of reinforcement learning in units that a value function can learn."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stabjax.losses._spread_mask import spread_mask
from stabjax.numerics import masked_mean, safe_norm, safe_std, standardize
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import saturate, widen

# A deviation below this share of the mean is mostly the rounding of float32.
_RESOLUTION = 1e-6


def standardize_returns(
    returns: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"] | None = None,
    *,
    axis: int | tuple[int, ...] | None = None,
    scale: float = 1.0,
    ddof: int = 0,
    eps: float = 1e-8,
) -> Float[Array, "*shape"]:
    """Bring the returns of one batch to zero mean and deviation ``scale``.

    ``scale (returns - mean) / (std + eps)`` over the entries that count; zero
    elsewhere and for a constant.

    The numbers are in the unit of *this* batch. A value function trained on them
    predicts in that unit, which changes with every batch, so its predictions must
    not meet raw rewards, as in an advantage: `return_normalizer` converts both ways.
    A squared error on them grows with ``scale**2``: ``scale=10`` multiplies the
    weight of the value loss by 100.

    Args:
        returns: Any floats, of any unit.
        mask: The entries that count; all by default. NaN elsewhere is inert.
        axis: The axis or axes over which mean and deviation are taken; all by
            default. With components in the last axis name all the others.
        scale: Deviation of the result, [1.2e-38, 1e30].
        ddof: 0 for the population, 1 for the sample formula.
        eps: Added to the deviation, in the unit of ``returns``, [1e-30, 1e30].

    Returns:
        Dimensionless returns in the dtype of ``returns``.

    Raises:
        ValueError: If an option is outside its range.

    Gradient:
        None: returns are targets.

    Source:
        Seed 002 (``ddof=1``, ``scale=10``).

    Example:
        >>> standardize_returns(jnp.array([1000.0, 1500.0, 2000.0]), ddof=1).tolist()
        [-1.0, 0.0, 1.0]
    """
    check_range("standardize_returns", "scale", scale)
    fixed = widen(jax.lax.stop_gradient(returns))
    scores = standardize(fixed, mask, axis=axis, ddof=ddof, eps=eps)
    return saturate(scale * scores, returns.dtype)


class ReturnStatistics(NamedTuple):
    """What a `ReturnNormalizer` remembers, one entry per component.

    Attributes:
        mean: Running mean [return].
        std: Running population deviation [return], not yet floored.
        weight: How many returns that stands for, discounted.
        skipped: Returns that were not finite and left out.
    """

    mean: Float[Array, "*components"]
    std: Float[Array, "*components"]
    weight: Float[Array, "*components"]
    skipped: Int[Array, "*components"]


class ReturnNormalizer(NamedTuple):
    """Pure functions that share one unit; build one with `return_normalizer`.

    Attributes:
        init: ``() -> statistics``: mean zero and unit one, until something was seen.
        update: ``(statistics, returns, mask=None) -> statistics``.
        normalize: ``(statistics, returns) -> values``, of which the value function
            learns to predict its own.
        denormalize: ``(statistics, values) -> returns``, for advantages, reports and
            all else that meets raw rewards.
        units: ``statistics -> (mean, deviation)`` that both use [return].
    """

    init: Callable[[], ReturnStatistics]
    update: Callable[..., ReturnStatistics]
    normalize: Callable[[ReturnStatistics, Array], Array]
    denormalize: Callable[[ReturnStatistics, Array], Array]
    units: Callable[[ReturnStatistics], tuple[Array, Array]]


def _between(x: Array, one: Array, other: Array) -> Array:
    # Rounding may carry the mean of a constant past it, by much next to its std.
    return jnp.clip(x, jnp.minimum(one, other), jnp.maximum(one, other))


def _merge(
    old: ReturnStatistics, new: ReturnStatistics, decay: float
) -> ReturnStatistics:
    """Pool two groups by their weights, the old one discounted; see `update`."""
    remembered = decay * old.weight
    weight = remembered + new.weight
    share = new.weight / jnp.maximum(weight, 1.0)
    limit = float(jnp.finfo(jnp.float32).max)
    shift = jnp.clip(new.mean - old.mean, -limit, limit)
    # Not old + share * shift: what is left of a large old mean would drown the new.
    mean = (1.0 - share) * old.mean + share * new.mean
    # The three parts of the pooled deviation as a norm: no square can overflow.
    parts = [
        jnp.sqrt(1.0 - share) * old.std,
        jnp.sqrt(share) * new.std,
        jnp.sqrt(share * (1.0 - share)) * shift,
    ]
    pooled = ReturnStatistics(
        mean=_between(mean, old.mean, new.mean),
        std=safe_norm(jnp.stack(parts), axis=0),
        weight=weight,
        skipped=old.skipped,
    )
    seen = new.weight > 0.0
    kept = jax.tree.map(lambda x, y: jnp.where(seen, x, y), pooled, old)
    room = jnp.iinfo(jnp.int32).max - old.skipped
    return kept._replace(skipped=old.skipped + jnp.minimum(new.skipped, room))


def _of_batch(
    returns: Array, mask: Array | None, components: tuple[int, ...]
) -> ReturnStatistics:
    axes = tuple(range(returns.ndim - len(components)))
    wide = jax.lax.stop_gradient(returns).astype(jnp.float32)
    counted = spread_mask("return_normalizer", mask, returns)
    finite = jnp.isfinite(wide)
    used = counted & finite
    least = jnp.min(wide, axis=axes, where=used, initial=jnp.inf)
    most = jnp.max(wide, axis=axes, where=used, initial=-jnp.inf)
    return ReturnStatistics(
        mean=_between(masked_mean(wide, used, axis=axes), least, most),
        std=safe_std(wide, used, axis=axes),
        weight=jnp.sum(used, axis=axes, dtype=jnp.int32).astype(jnp.float32),
        skipped=jnp.sum(counted & ~finite, axis=axes, dtype=jnp.int32),
    )


def _check_components(components: tuple[int, ...], returns: Array) -> None:
    tail = returns.shape[returns.ndim - len(components) :]
    if returns.ndim < len(components) or tail != components:
        raise ValueError(
            f"return_normalizer: returns must end in the components {components}, "
            f"got shape {returns.shape}."
        )


def return_normalizer(
    *,
    components: tuple[int, ...] = (),
    decay: float = 0.9,
    scale: float = 1.0,
    min_std: float = 1e-2,
) -> ReturnNormalizer:
    """Build a running normalization of returns that converts both ways.

    ``normalize: scale (returns - mean) / s`` and ``denormalize: mean + s values /
    scale`` with ``s = max(std, min_std, 1e-6 |mean|)``. An update pools a batch of n
    finite returns with what is remembered: with ``a = n / (decay weight + n)``, ``m``
    and ``v`` for mean and variance and ``d`` for the difference of the means,
    ``(1 - a) m + a m_batch`` and ``(1 - a) v + a v_batch + a (1 - a) d**2``. The
    first batch sets both exactly, and no large squares are subtracted from each
    other.

    Per step of training: predict and denormalize with the statistics *before* the
    update, take advantages in raw units, update, and normalize both the returns and
    the old predictions with the statistics *after* it.

    Args:
        components: Shape of one return, such as ``(5,)`` for five reward components
            with a head each; each has its own statistics.
        decay: Memory per update, [0, 1]. 1 remembers everything with equal weight
            (Welford's algorithm), 0 only the last batch.
        scale: Deviation of the normalized returns, [1.2e-38, 1e30]. A squared error
            on them is multiplied by ``scale**2``: prefer 1.
        min_std: Least deviation that is divided by [return], [1e-30, 1e30]. With it
            constant returns normalize to zero, and with the share of the mean also
            those that are constant but for rounding stay small.

    Returns:
        Pure functions on a `ReturnStatistics`, in float32 whatever the dtype of the
        returns, ``[*batch, *components]`` up to 1e38. Non-finite returns are left
        out and counted; a batch without a finite one leaves the statistics as they
        are. Normalized and denormalized values have the dtype of the input, and NaN
        stays NaN.

    Raises:
        ValueError: If an option is outside its range; when called, if the returns do
            not end in ``components`` or the mask is not over leading axes.

    Gradient:
        ``scale / s`` of ``normalize`` and ``s / scale`` of ``denormalize``; none
        reaches the statistics.

    Source:
        Pooling, Chan, Golub & LeVeque (1983), Am. Stat. 37(3). Consistent units
        where seed 002 mixes two: own.

    Example:
        >>> normalizer = return_normalizer()
        >>> returns = jnp.array([1000.0, 1500.0, 2000.0, jnp.nan])
        >>> statistics = normalizer.update(normalizer.init(), returns)
        >>> float(statistics.mean), int(statistics.skipped)
        (1500.0, 1)
        >>> float(normalizer.denormalize(statistics, jnp.array(0.0)))
        1500.0
    """
    check_range("return_normalizer", "decay", decay, low=0.0, high=1.0)
    check_range("return_normalizer", "scale", scale)
    check_range("return_normalizer", "min_std", min_std, low=1e-30)

    def init() -> ReturnStatistics:
        return ReturnStatistics(
            mean=jnp.zeros(components, jnp.float32),
            std=jnp.zeros(components, jnp.float32),
            weight=jnp.zeros(components, jnp.float32),
            skipped=jnp.zeros(components, jnp.int32),
        )

    def update(
        statistics: ReturnStatistics, returns: Array, mask: Array | None = None
    ) -> ReturnStatistics:
        _check_components(components, returns)
        return _merge(statistics, _of_batch(returns, mask, components), decay)

    def units(statistics: ReturnStatistics) -> tuple[Array, Array]:
        fixed = jax.lax.stop_gradient(statistics)
        least = jnp.maximum(_RESOLUTION * jnp.abs(fixed.mean), min_std)
        floored = jnp.maximum(fixed.std, least)
        return fixed.mean, jnp.where(fixed.weight > 0.0, floored, 1.0)

    def normalize(statistics: ReturnStatistics, returns: Array) -> Array:
        _check_components(components, returns)
        mean, std = (jnp.broadcast_to(x, returns.shape) for x in units(statistics))
        scores = scale * ((widen(returns) - mean) / std)
        return saturate(scores, returns.dtype, keep=jnp.isinf(returns))

    def denormalize(statistics: ReturnStatistics, values: Array) -> Array:
        _check_components(components, values)
        mean, std = (jnp.broadcast_to(x, values.shape) for x in units(statistics))
        raw = mean + std * (widen(values) / scale)
        return saturate(raw, values.dtype, keep=jnp.isinf(values))

    return ReturnNormalizer(init, update, normalize, denormalize, units)
