"""Events drawn once, and the gradient of a first step."""

import jax
import pytest
from gan_players import BEFORE, HASTY, initial_players

from stabjax.models.gan.config import Config
from stabjax.models.gan.events import batch_at
from stabjax.models.gan.muon_bundles import sample_muon_bundles
from stabjax.models.gan.objective import initial_state, make_loss


@pytest.fixture(scope="session")
def bundles():
    """Return muon bundles, drawn once."""
    return sample_muon_bundles(0, 3000)


@pytest.fixture(scope="session")
def before():
    """Return a function that makes the original's configuration, changed."""
    return lambda **changes: Config(**(BEFORE | changes))


@pytest.fixture(scope="session")
def first_step(bundles):
    """Return a function that takes gradient and metrics of a first step.

    It is the step in which the generator has its turn, for a random seed.
    """
    compiled = {}

    def take(config, seed=0):
        loss = make_loss(config, conditions=4, features=3, minimum=1)

        def gradient(params, batch, key):
            state = initial_state(config, params)
            state = state._replace(applied=state.applied + config.critic_steps - 1)
            value = lambda p: loss(p, batch, key, model_state=state)
            return jax.grad(value, has_aux=True)(params)

        if config not in compiled:
            compiled[config] = jax.jit(gradient, compiler_options=HASTY)
        batch = batch_at(bundles, config.batch, seed=seed, position=0)
        params = initial_players(config, seed)
        key = jax.random.key(seed + 100)
        return jax.device_get(compiled[config](params, batch, key))

    return take
