"""The loss of a step: five components over one thought, and the next model state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.models.ctm import plasticity
from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import PAD
from stabjax.models.ctm.diffusion import squash_like_seed
from stabjax.models.ctm.fenchel_young import Outcome, one_hot_loss, ordinal_loss
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

ALERT = 5.0  # |MCMC loss| at which the seed prints a warning
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


def make_loss(config: Config, puzzles: int) -> Callable[..., Any]:
    """Return the stateful loss of the machine.

    The total is the sum of the components' weighted values: cross-entropy ``ce``,
    ``diffusion``, ``mcmc``, predictive coding ``predictive`` and ``hebbian``. Under
    ``raw/mcmc`` stands the surrogate before any clamp.

    Args:
        config: Which setting of every fix.
        puzzles: Size of the table of puzzle names.
    """
    graph = graph_of(describe(config, puzzles))

    def loss(
        params: Any, batch: Any, key: jax.Array, *, model_state: MachineState
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
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
        mcmc = _mcmc(config, machine, answer, target, valid, model_state, key_sampler)
        trace = answer.trace
        if config.hebbian_scaling != "sound":
            trace = jax.lax.stop_gradient(trace)
        c = plasticity.correlation(trace)
        hebbian = plasticity.hebbian_loss(
            c, config.hebbian_scaling, weight=config.hebbian_weight
        )
        squashed = squash_like_seed(error)
        raw = {
            "ce": ticks.loss,
            "diffusion": error,
            "mcmc": mcmc.raw,
            "predictive": machine.predictive(answer.z),
            "hebbian": hebbian.value,
        }
        weighted = {
            "ce": ticks.loss,
            "diffusion": config.diffusion_weight
            * (squashed if config.diffusion_loss == "seed" else error),
            "mcmc": config.mcmc_weight * mcmc.loss,
            "predictive": config.predictive_weight * raw["predictive"],
            "hebbian": hebbian.value,
        }
        # Plasticity sees the squashed diffusion loss, as the seed's did.
        moved, signal = _plasticity(config, plastic, c, squashed, ticks.loss, mcmc)
        aux: dict[str, Any] = {f"raw/{name}": value for name, value in raw.items()}
        aux |= {f"weighted/{name}": value for name, value in weighted.items()}
        aux["model_state"] = MachineState(moved, mcmc.chains, model_state.frozen)
        aux |= _mcmc_metrics(mcmc) | _tick_metrics(ticks)
        aux |= signal | {
            "hebbian_scale": hebbian.scale,
            "hebbian_bound_hit": hebbian.floored,
            "mean_correlation": jnp.mean(jnp.abs(c)),
            "plastic_norm": safe_norm(moved.weights),
            "plastic_spectral_norm": plasticity.spectral_norm(moved.weights),
            "decay_bound_hit": 0.5
            * (
                machine.core.action.clipped_share()
                + machine.core.output.clipped_share()
            ),
        }
        metrics = {name: jax.lax.stop_gradient(value) for name, value in aux.items()}
        return sum(weighted.values(), jnp.zeros((), jnp.float32)), metrics

    return loss


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
    if config.mcmc_loss == "none":
        nothing, unknown = jnp.zeros((), jnp.float32), jnp.float32(jnp.nan)
        return Outcome(nothing, nothing, (), *([unknown] * 7))
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
    assert isinstance(state.frozen, FrozenEnergy)
    return ordinal_loss(
        theta,
        target,
        valid,
        state.chains,
        state.frozen,
        key,
        clamp=config.mcmc_loss == "seed",
    )


def _plasticity(
    config: Config,
    plastic: plasticity.PlasticState,
    c: Float[Array, "neurons neurons"],
    diffusion: Float[Array, ""],
    entropy: Float[Array, ""],
    mcmc: Outcome,
) -> tuple[plasticity.PlasticState, dict[str, Array]]:
    """Return the next plastic state and what its learning signal was."""
    c, diffusion, entropy, gap = jax.lax.stop_gradient(
        (c, diffusion, entropy, mcmc.loss)
    )
    handed = plasticity.bounded_losses(diffusion, entropy, config.plasticity_clamp)
    signal = plasticity.learning_signal(
        plastic,
        handed.diffusion,
        handed.entropy,
        plasticity.normalized_mcmc(gap, config.plasticity_normalization),
        config.learning_signal,
    )
    signal = jnp.where(handed.usable, signal, 0.0)
    metrics = {
        "learning_signal": signal,
        "learning_signal_saturated": (jnp.abs(signal) > _SATURATED).astype(jnp.float32),
        "plasticity_clamp_hit": handed.hit,
    }
    if config.hebbian_step == "none":
        return plastic, metrics
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
    return moved, metrics


def _mcmc_metrics(mcmc: Outcome) -> dict[str, Array]:
    """Name what the table and the curves read."""
    return {
        "mcmc_asinh": jnp.arcsinh(mcmc.raw),
        "mcmc_alert": (jnp.abs(mcmc.loss) > ALERT).astype(jnp.float32),
        "mcmc_clamped": mcmc.clamped,
        "mcmc_head_gradient": mcmc.head_gradient,
        "mcmc_head_frozen": (mcmc.head_gradient == 0.0).astype(jnp.float32),
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
