"""What a YAML may say under ``model:`` for proximal policy optimization."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

__all__ = ["Config"]

Positive = Annotated[float, Field(gt=0.0, le=1e30)]


class Config(pydantic.BaseModel, extra="forbid", frozen=True):
    """The task, the loop, and one switch for every documented fix.

    The seven keys of the original keep their names and meaning:
    ``enable_value_clipping``, ``value_clip_epsilon``, ``use_relative_value_clip``,
    ``normalize_returns``, ``return_scale``, ``value_loss_weight`` and
    ``max_grad_norm``. Two of them can be done as their authors wrote them (``seed``)
    or so that they hold: ``relative_value_clip`` and ``return_normalization``.
    """

    # What is learned.
    environment: str = Field(
        "durotaxis",
        description="durotaxis, pendulum, cartpole, or gymnax:<id> and "
        "gymnasium:<id> of the extra 'envs'",
    )
    mode: Literal["train", "single_batch"] = Field(
        "train", description="single_batch trains on the first rollout for ever"
    )
    reward_scale: Positive = Field(
        1.0, description="every reward is multiplied by it; reports are not divided"
    )
    component_weights: dict[str, float] = Field(
        default_factory=dict,
        description="weight of a reward component in the total; the environment's "
        "own where none is given",
    )

    # The loop.
    num_envs: int = Field(32, ge=1, description="environments side by side")
    rollout_steps: int = Field(128, ge=2, description="steps of each per iteration")
    update_epochs: int = Field(4, ge=1, description="passes over a rollout")
    num_minibatches: int = Field(8, ge=1, description="updates per pass")
    gamma: float = Field(0.99, ge=0.0, le=1.0, description="discount per step")
    gae_lambda: float = Field(
        0.95, ge=0.0, le=1.0, description="decay of the advantage estimate"
    )
    clip_epsilon: Positive = Field(0.2, description="largest change of the ratio")
    entropy_coef: float = Field(0.0, ge=0.0, description="weight of the entropy")
    entropy_bonus: float = Field(
        0.0,
        ge=0.0,
        description="weight of the entropy once more, as the original counts it twice",
    )
    target_kl: Positive | None = Field(
        None, description="an iteration ends early above this KL [nat]; null: never"
    )
    advantages: Literal["sum", "component_standardized"] = Field(
        "sum", description="weighted sum in raw units, or each component z-scored first"
    )
    stored_actions: Literal["sampled", "seed"] = Field(
        "sampled",
        description="the sample that is scored, or, as the original, its squashed "
        "form under the density of the sample",
    )

    # The network.
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (64, 64), min_length=1, description="widths of the tanh trunk"
    )
    shared_encoder: bool = Field(
        True, description="policy and values share the trunk, or each has one"
    )

    # The fixes.
    enable_value_clipping: bool = Field(
        False, description="bound how far values move per rollout"
    )
    value_clip_epsilon: Positive = Field(
        0.2, description="that bound; 200 is the original's way back"
    )
    use_relative_value_clip: bool = Field(
        False, description="as a share of the old value instead of absolute"
    )
    relative_value_clip: Literal["seed", "sound"] = Field(
        "sound", description="of |old| + 1e-8, or of no less than one deviation"
    )
    normalize_returns: bool = Field(True, description="targets in a unit of their own")
    return_normalization: Literal[
        "seed", "batch", "running", "pop_art", "symlog_two_hot"
    ] = Field(
        "running",
        description="z-scores that meet raw rewards (seed); the batch's unit, a "
        "running one, PopArt or two-hot symlog, converted both ways",
    )
    return_scale: Positive = Field(1.0, description="deviation of normalized returns")
    normalization_decay: float = Field(
        0.9, ge=0.0, le=1.0, description="memory of the running unit per iteration"
    )
    value_loss_weight: Positive = Field(0.5, description="of the value loss")
    max_grad_norm: Positive | None = Field(
        0.5, description="bound on the gradient norm; null: none"
    )

    # What is measured and shown.
    trunk_gradients: bool = Field(
        True,
        description="measure per iteration what policy and values pull at the trunk "
        "with; costs two backward passes of one minibatch",
    )
    evaluation_episodes: int = Field(64, ge=1, description="episodes of an evaluation")

    @pydantic.model_validator(mode="after")
    def _check_ranges(self) -> "Config":
        if self.rows % self.num_minibatches:
            raise ValueError(
                f"Config: num_minibatches must divide num_envs * rollout_steps "
                f"({self.rows}), got {self.num_minibatches}."
            )
        return self

    @property
    def rows(self) -> int:
        """Transitions per iteration."""
        return self.num_envs * self.rollout_steps

    @property
    def updates(self) -> int:
        """Most minibatch updates per iteration."""
        return self.update_epochs * self.num_minibatches

    @property
    def normalization(self) -> str:
        """How targets are made: ``raw`` or a ``return_normalization``."""
        return self.return_normalization if self.normalize_returns else "raw"

    @property
    def value_clip(self) -> str:
        """The bound in force: ``none``, ``absolute``, ``seed`` or ``sound``."""
        if not self.enable_value_clipping:
            return "none"
        return self.relative_value_clip if self.use_relative_value_clip else "absolute"
