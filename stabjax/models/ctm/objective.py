"""The loss of a step: five components over one thought, and the next model state."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.losses import WeighedLoss, weigh
from stabjax.models.ctm import plasticity
from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import PAD
from stabjax.models.ctm.diffusion import squash_like_seed
from stabjax.models.ctm.fenchel_young import (
    Outcome,
    clamp_like_seed,
    one_hot_loss,
    ordinal_loss,
)
from stabjax.models.ctm.metropolis import (
    Chains,
    FrozenEnergy,
    frozen_energy,
    start_chains,
)
from stabjax.models.ctm.model import Answer, Machine
from stabjax.models.ctm.ticks import TickLosses, tick_losses
from stabjax.models.modules import graph_of
from stabjax.numerics import safe_norm

__all__ = ["MachineState", "describe", "initial_state", "make_loss"]

_SATURATED = 0.95  # |learning signal| that counts as saturated


class MachineState(NamedTuple):
    """What a step changes besides parameters; a refused step leaves it alone."""

    plastic: plasticity.PlasticState
    chains: Chains | tuple[()]  # () unless the seed's sampler runs
    frozen: FrozenEnergy | tuple[()]


def initial_state(config: Config, key: jax.Array) -> MachineState:
    """Return unconnected plasticity and, for the seed's sampler, random chains."""
    plastic = plasticity.start(config.neurons)
    if config.mcmc_loss in ("none", "sound"):
        return MachineState(plastic, (), ())
    key_chains, key_energy = jax.random.split(key)
    return MachineState(
        plastic,
        start_chains(config.batch, config.cells, key_chains),
        frozen_energy(config.cells, key_energy),
    )


def describe(config: Config, puzzles: int) -> Callable[[], Machine]:
    """Return a function that describes the machine, with parameters of seed 0."""
    return lambda: Machine(config, puzzles, nnx.Rngs(0))


def make_loss(config: Config, puzzles: int) -> WeighedLoss:
    """Return the stateful loss of the machine.

    The total is the weighted sum of cross-entropy ``ce``, ``diffusion``, ``mcmc``
    (unless there is none), predictive coding ``predictive`` and ``hebbian``.
    ``raw/mcmc`` is the surrogate before the seed's clamp.

    Args:
        config: Which setting of every fix.
        puzzles: Size of the table of puzzle names.
    """
    weights = {
        "ce": 1.0,
        "diffusion": config.diffusion_weight,
        "mcmc": config.mcmc_weight,
        "predictive": config.predictive_weight,
        "hebbian": 1.0,  # its scale is part of it
    }
    caps: dict[str, Callable[..., Any]] = {}
    if config.diffusion_loss == "seed":
        caps["diffusion"] = squash_like_seed
    if config.mcmc_loss == "seed":
        caps["mcmc"] = functools.partial(clamp_like_seed, bound=config.mcmc_bound)
    if config.mcmc_loss == "none":
        del weights["mcmc"]
    return weigh(_make_terms(config, puzzles), weights=weights, caps=caps)


def _make_terms(config: Config, puzzles: int) -> Callable[..., Any]:
    """Return the function that thinks once and measures every term."""
    graph = graph_of(describe(config, puzzles))

    def terms(
        params: Any, batch: Any, key: jax.Array, *, model_state: MachineState
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        key_noise, key_sampler = jax.random.split(key)
        machine = nnx.merge(graph, params)
        plastic = jax.lax.stop_gradient(model_state.plastic)
        answer = machine(
            batch["query"], batch["demos"], batch["puzzle"], plastic.weights
        )
        target = batch["target"]
        valid = target != PAD
        ticks = tick_losses(answer.logits, target, valid, config.cross_entropy)
        error = machine.denoiser.error(target, valid, answer.thought, key_noise)
        hebbian, c = _hebbian(config, answer)
        values = {
            "ce": ticks.loss,
            "diffusion": error,
            "predictive": machine.predictive(answer.z),
            "hebbian": hebbian.value,
        }
        aux: dict[str, Any] = _tick_metrics(ticks) | {
            "hebbian_scale": hebbian.scale,
            "hebbian_bound_hit": hebbian.floored,
            "mean_correlation": jnp.mean(jnp.abs(c)),
            "decay_bound_hit": machine.core.clipped_share(),
        }
        chains, energy_gap = model_state.chains, jnp.zeros((), jnp.float32)
        if config.mcmc_loss != "none":
            mcmc = _mcmc(
                config, machine, answer, target, valid, model_state, key_sampler
            )
            chains, energy_gap = mcmc.chains, mcmc.loss
            values["mcmc"] = mcmc.loss
            aux |= _mcmc_metrics(config, mcmc)
        moved, metrics = _plasticity(config, plastic, c, error, ticks.loss, energy_gap)
        aux |= metrics
        aux["model_state"] = MachineState(moved, chains, model_state.frozen)
        return values, jax.lax.stop_gradient(aux)

    return terms


def _hebbian(
    config: Config, answer: Answer
) -> tuple[plasticity.HebbianLoss, Float[Array, "neurons neurons"]]:
    """Return the Hebbian loss and the correlation it was made from."""
    trace = answer.trace
    if config.hebbian_scaling != "sound":
        trace = jax.lax.stop_gradient(trace)  # as the original: no gradient at all
    c = plasticity.correlation(trace)
    weight = config.hebbian_weight
    return plasticity.hebbian_loss(c, config.hebbian_scaling, weight=weight), c


def _mcmc(
    config: Config,
    machine: Machine,
    answer: Answer,
    target: Array,
    valid: Bool[Array, "batch cells"],
    state: MachineState,
    key: jax.Array,
) -> Outcome:
    """Return the Fenchel-Young loss in its setting."""
    prediction = answer.prediction
    if config.trunk == "detached":
        prediction = jax.lax.stop_gradient(prediction)
    theta = machine.mcmc(prediction)
    if config.mcmc_loss == "sound":
        return one_hot_loss(
            theta,
            machine.mcmc.symmetric_coupling(),
            target,
            valid,
            key,
            sweeps=config.sweeps,
            burn_in=config.burn_in,
        )
    chains, frozen = state.chains, state.frozen
    if isinstance(chains, tuple) or not isinstance(frozen, FrozenEnergy):
        raise TypeError(
            f"ctm: model_state must hold chains for mcmc_loss={config.mcmc_loss!r}; "
            "make it by initial_state of the same configuration."
        )
    return ordinal_loss(theta, target, valid, chains, frozen, key)


def _plasticity(
    config: Config,
    plastic: plasticity.PlasticState,
    c: Float[Array, "neurons neurons"],
    error: Float[Array, ""],
    entropy: Float[Array, ""],
    energy_gap: Float[Array, ""],
) -> tuple[plasticity.PlasticState, dict[str, Array]]:
    """Return the next plastic state, its learning signal and its norms."""
    c, error, entropy, energy_gap = jax.lax.stop_gradient(
        (c, error, entropy, energy_gap)
    )
    # The seed's plasticity saw its squashed diffusion loss, in (-0.77, 1).
    handed = plasticity.bounded_losses(
        squash_like_seed(error),
        entropy,
        config.plasticity_clamp,
        bound=config.plasticity_bound,
    )
    signal = plasticity.learning_signal(
        plastic,
        handed.diffusion,
        handed.entropy,
        plasticity.normalized_mcmc(energy_gap, config.plasticity_normalization),
        config.learning_signal,
        bound=config.signal_bound,
    )
    signal = jnp.where(handed.usable, signal, 0.0)
    moved = plastic
    if config.hebbian_step != "none":
        moved = plasticity.hebbian_step(
            plastic,
            c,
            signal,
            entropy,
            config.hebbian_step,
            rate=config.hebbian_rate,
            decay=config.plastic_decay,
            cap=config.plastic_cap,
        )
    return moved, {
        "learning_signal": signal,
        "learning_signal_saturated": (jnp.abs(signal) > _SATURATED).astype(jnp.float32),
        "plasticity_clamp_hit": handed.hit,
        "plastic_norm": safe_norm(moved.weights),
        "plastic_spectral_norm": plasticity.spectral_norm(moved.weights),
    }


def _mcmc_metrics(config: Config, mcmc: Outcome) -> dict[str, Array]:
    """Name what the table and the curves read."""
    slope = mcmc.slope
    if config.mcmc_loss == "seed":
        _, hits = clamp_like_seed(mcmc.loss, config.mcmc_bound)
        # A clamped loss has no slope: nothing reaches the head.
        slope = jnp.where(hits > 0, 0.0, slope)
    return {
        "mcmc_asinh": jnp.arcsinh(mcmc.loss),
        "mcmc_head_gradient": config.mcmc_weight * slope,
        "mcmc_head_frozen": (slope == 0.0).astype(jnp.float32),
        "mcmc_likelihood": mcmc.likelihood,
        "mcmc_moment_gap": mcmc.moment_gap,
        "mcmc_outside_hull": mcmc.outside_hull,
        "mcmc_theta_max": mcmc.theta_max,
        "mcmc_accepted": mcmc.accepted,
    }


def _tick_metrics(ticks: TickLosses) -> dict[str, Array]:
    """Say when rows are most certain, counted in ticks from 0."""
    certain = ticks.certain.astype(jnp.float32)
    return {
        "certain_tick_mean": jnp.mean(certain),
        "certain_tick_std": jnp.sqrt(jnp.mean((certain - jnp.mean(certain)) ** 2)),
        "best_tick_mean": jnp.mean(ticks.best.astype(jnp.float32)),
    }
