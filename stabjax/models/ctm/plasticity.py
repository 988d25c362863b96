"""Hebbian plasticity as a pure function of an explicit state.

The fast weights P live in the model state, so a refused step does not move them. Each
of the four documented fixes is a function with three settings: ``before`` (the
failing original), ``seed`` (the fix as written), ``sound`` (what removes the cause).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.ctm.config import Setting

__all__ = [
    "HandedLosses",
    "HebbianLoss",
    "PlasticState",
    "bounded_losses",
    "correlation",
    "hebbian_loss",
    "hebbian_step",
    "learning_signal",
    "normalized_mcmc",
    "spectral_norm",
    "start",
]

Scalar = Float[Array, ""]

_SURPRISE = 2.0  # deviations of surprise at which the sound signal is tanh(1) = 0.76
_MEMORY = 0.99  # of the reward baseline: about 100 steps
_WARMUP = 20  # losses seen before the deviation means anything [steps]


class PlasticState(NamedTuple):
    """Fast weights, and the running moments of the reward they are driven by."""

    weights: Float[Array, "neurons neurons"]
    baseline: Scalar  # running mean of the cross-entropy [nats]
    variance: Scalar  # its running variance [nats^2]
    seen: Int[Array, ""]  # finite losses taken in [steps]


class HebbianLoss(NamedTuple):
    """The Hebbian loss and the scale it was made with."""

    value: Scalar
    scale: Scalar  # dyn_lambda [dimensionless]
    floored: Scalar  # 1 where mean |C| or lambda sat on a bound, else 0


class HandedLosses(NamedTuple):
    """The losses as plasticity sees them."""

    diffusion: Scalar
    entropy: Scalar
    hit: Scalar  # 1 where a bound changed one or a step was refused, else 0
    usable: Bool[Array, ""]  # False: the signal of this step is 0


def start(neurons: int) -> PlasticState:
    """Return unconnected neurons and an empty baseline."""
    return PlasticState(
        weights=jnp.zeros((neurons, neurons), jnp.float32),
        baseline=jnp.zeros((), jnp.float32),
        variance=jnp.zeros((), jnp.float32),
        seen=jnp.zeros((), jnp.int32),
    )


def correlation(
    trace: Float[Array, "batch neurons memory"],
) -> Float[Array, "neurons neurons"]:
    """Return the correlation of the neurons' batch-mean pre-activations over ticks.

    Symmetric, unit diagonal (unless a trace is constant), rank < memory.

    Gradient: finite everywhere, also for a constant trace; the seed's clip to
    [-1, 1] is not applied, since ``|C| <= 1`` already (Cauchy-Schwarz).
    """
    mean = jnp.mean(trace.astype(jnp.float32), axis=0)
    centered = mean - jnp.mean(mean, axis=1, keepdims=True)
    variance = jnp.sum(centered**2, axis=1, keepdims=True)
    # The floor is inside the root: a std has no slope at zero.
    rows = centered * jax.lax.rsqrt(variance + 1e-12)
    return rows @ rows.T


def normalized_mcmc(loss: Scalar, setting: Setting) -> Scalar:
    """Return what the MCMC loss adds to the learning signal.

    ``before`` is ``1e-5 log1p(relu(L))``, ``seed`` ``1e-3 tanh(clip(L, +-10) / 10)``.
    ``sound`` is 0: an energy gap is no reward. Both others are too small to matter
    beside a cross-entropy of 2.
    """
    if setting == "before":
        return 1e-5 * jnp.log1p(jax.nn.relu(loss))
    if setting == "seed":
        return 1e-3 * jnp.tanh(jnp.clip(loss, -10.0, 10.0) / 10.0)
    return jnp.zeros((), jnp.float32)


def hebbian_loss(
    c: Float[Array, "neurons neurons"], setting: Setting, *, weight: float
) -> HebbianLoss:
    """Return the Hebbian loss of a correlation matrix, ``m = mean |C|``.

    ``before``: ``weight / (m + 1e-8) * m``, which is ``weight`` for every m.
    ``seed``: ``m`` in [1e-4, 10], lambda in [0.01, 10], which is ``weight`` too
    unless ``m < weight / 10``. ``sound``: ``weight * mean(off-diagonal C^2)``.

    Gradient: ``before`` and ``seed`` none at all, since C is detached as in the
    original; ``sound`` is attached and drives neurons apart.
    """
    if setting == "sound":
        size = c.shape[0]
        off = jnp.where(jnp.eye(size, dtype=bool), 0.0, c)
        value = weight * jnp.sum(off**2) / (size * (size - 1))
        return HebbianLoss(value, jnp.float32(weight), jnp.zeros((), jnp.float32))
    m = jax.lax.stop_gradient(jnp.mean(jnp.abs(c)))
    if setting == "before":
        scale = weight / (m + 1e-8)
        return HebbianLoss(scale * m, scale, jnp.zeros((), jnp.float32))
    bounded = jnp.clip(m, 1e-4, 10.0)
    scale = jnp.clip(weight / bounded, 0.01, 10.0)
    floored = (m != bounded) | (scale != weight / bounded)
    return HebbianLoss(scale * bounded, scale, floored.astype(jnp.float32))


def bounded_losses(
    diffusion: Scalar, entropy: Scalar, setting: Setting, *, bound: float = 10.0
) -> HandedLosses:
    """Return the losses as plasticity sees them.

    ``before`` passes them on. ``seed`` clips both to +-``bound``: never hit by a
    diffusion loss in (-0.77, 1). ``sound`` leaves them alone, whatever their size,
    and declares a step with a non-finite loss unusable: its signal is 0.
    """
    usable = jnp.ones((), bool)
    if setting == "before":
        return HandedLosses(diffusion, entropy, jnp.zeros((), jnp.float32), usable)
    if setting == "seed":
        first, second = (jnp.clip(x, -bound, bound) for x in (diffusion, entropy))
        hit = (first != diffusion) | (second != entropy)
        return HandedLosses(first, second, hit.astype(jnp.float32), usable)
    usable = jnp.isfinite(diffusion) & jnp.isfinite(entropy)
    return HandedLosses(diffusion, entropy, (~usable).astype(jnp.float32), usable)


def learning_signal(
    state: PlasticState,
    diffusion: Scalar,
    entropy: Scalar,
    mcmc: Scalar,
    setting: Setting,
    *,
    bound: float = 5.0,
) -> Scalar:
    """Return the sign and strength of the Hebbian step, in [-1, 1].

    With ``x = L_diffusion - L_entropy - mcmc``: ``before`` is ``clip(-x, +-1)``,
    ``seed`` is ``tanh(x / 2)`` of terms clipped to +-``bound``, which flips the sign.
    ``sound`` is a reward prediction error, ``tanh((b - L) / (2 (sigma + 1e-3)))`` with
    baseline b and deviation sigma of the cross-entropy: strengthen what went better
    than expected. It is 0 for the first 20 steps and for a loss that is not finite.
    """
    if setting == "before":
        return jnp.clip(-(diffusion - entropy - mcmc), -1.0, 1.0)
    if setting == "seed":
        parts = [jnp.clip(x, -bound, bound) for x in (diffusion, entropy, mcmc)]
        return jnp.tanh((parts[0] - parts[1] - parts[2]) / 2.0)
    spread = jnp.sqrt(state.variance) + 1e-3
    surprise = jnp.tanh((state.baseline - entropy) / (_SURPRISE * spread))
    usable = jnp.isfinite(entropy) & (state.seen >= _WARMUP)
    return jnp.where(usable, surprise, 0.0)


def hebbian_step(
    state: PlasticState,
    c: Float[Array, "neurons neurons"],
    signal: Scalar,
    entropy: Scalar,
    setting: Setting,
    *,
    rate: float,
    decay: float,
    cap: float,
) -> PlasticState:
    """Return the next fast weights and reward baseline.

    ``before`` and ``seed``: ``P + rate * signal * C``. C is positive semidefinite with
    a unit diagonal, so a signal of constant sign grows P without end. ``sound``:
    ``(1 - decay) P + rate * signal * offdiag(C)``, then scaled to a Frobenius norm of
    at most ``cap``; a non-finite loss moves nothing.

    Args:
        state: What came before.
        c: Correlation of the neurons.
        signal: From `learning_signal`.
        entropy: Cross-entropy of this step [nats].
        setting: Which step.
        rate: Size of the step.
        decay: Share of P forgotten (sound).
        cap: Largest Frobenius norm (sound).
    """
    if setting != "sound":
        return _learned(state, entropy, state.weights + rate * signal * c)
    off = jnp.where(jnp.eye(c.shape[0], dtype=bool), 0.0, c)
    weights = (1.0 - decay) * state.weights + rate * signal * off
    norm = jnp.sqrt(jnp.sum(weights**2))
    weights = weights * jnp.minimum(1.0, cap / jnp.maximum(norm, cap))
    usable = jnp.isfinite(norm) & jnp.isfinite(entropy)
    return _learned(state, entropy, jnp.where(usable, weights, state.weights))


def _learned(state: PlasticState, entropy: Scalar, weights: Array) -> PlasticState:
    """Take a finite loss into the running mean and variance."""
    # A plain mean at first: a short history must not look like a small deviation.
    weight = jnp.maximum(1.0 - _MEMORY, 1.0 / (state.seen + 1))
    gap = entropy - state.baseline
    baseline = state.baseline + weight * gap
    variance = (1.0 - weight) * (state.variance + weight * gap**2)
    finite = jnp.isfinite(entropy) & jnp.isfinite(variance)
    return PlasticState(
        weights=weights,
        baseline=jnp.where(finite, baseline, state.baseline),
        variance=jnp.where(finite, variance, state.variance),
        seen=state.seen + finite.astype(jnp.int32),
    )


def spectral_norm(
    weights: Float[Array, "neurons neurons"], *, iterations: int = 12
) -> Scalar:
    """Return the largest singular value, from below, by power iteration."""
    size = weights.shape[0]
    # A fixed start without symmetry: a constant vector may be orthogonal to it.
    start = jnp.cos(jnp.arange(size, dtype=jnp.float32))

    def turn(_: Any, v: Float[Array, " neurons"]) -> Float[Array, " neurons"]:
        v = weights.T @ (weights @ v)
        return v / jnp.maximum(jnp.sqrt(jnp.sum(v**2)), 1e-30)

    v = jax.lax.fori_loop(0, iterations, turn, start)
    norm = jnp.sqrt(jnp.sum((weights @ v) ** 2))
    return norm / jnp.maximum(jnp.sqrt(jnp.sum(v**2)), 1e-30)
