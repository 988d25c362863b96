"""Loops small enough to compile in seconds."""

import pytest

from stabjax.models.ppo.config import Config

TINY = {
    "environment": "pendulum", "num_envs": 4, "rollout_steps": 16, "update_epochs": 2,
    "num_minibatches": 2, "hidden": (8,), "evaluation_episodes": 3,
}  # fmt: skip

BEFORE = {"normalize_returns": False, "enable_value_clipping": True}
SEED = {
    "enable_value_clipping": True,
    "use_relative_value_clip": True,
    "relative_value_clip": "seed",
    "return_normalization": "seed",
    "return_scale": 10.0,
    "value_loss_weight": 0.25,
}


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
