"""A machine small enough to compile in seconds."""

import pytest

from stabjax.models.ctm.config import Config

TINY = {
    "neurons": 8, "width": 4, "attention_heads": 1, "ticks": 2, "memory": 3,
    "pairs": 4, "neuron_hidden": 2, "readout": 4, "energy_hidden": 4,
    "denoiser_hidden": 4, "batch": 4, "synapse": "mlp", "sweeps": 2,
    "burn_in": 0, "demonstrations": 1,
}  # fmt: skip

BEFORE = {
    "trunk": "detached",
    "cross_entropy": "seed",
    "diffusion_loss": "seed",
    "mcmc_loss": "before",
    "mcmc_weight": 1.0,
    "plasticity_normalization": "before",
    "hebbian_scaling": "before",
    "plasticity_clamp": "before",
    "learning_signal": "before",
    "hebbian_step": "before",
}
SEED = {k: "seed" if v == "before" else v for k, v in BEFORE.items()}


@pytest.fixture(scope="session")
def tiny():
    """Build a tiny configuration with some settings changed."""

    def make(**changes):
        return Config(**(TINY | changes))

    return make


@pytest.fixture(scope="session")
def arms():
    """Return the settings of the failing original, the seed's fix, the sound one."""
    return {"before": BEFORE, "seed": SEED, "sound": {}}
