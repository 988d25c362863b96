"""The three players, described once."""

from collections.abc import Callable

from flax import nnx

from stabjax.models.gan.config import Config
from stabjax.models.gan.counts import CountHead
from stabjax.models.gan.critic import Critic
from stabjax.models.gan.generator import Generator

__all__ = ["Players", "describe"]


class Players(nnx.Module):
    """Generator, critic and count head; also the groups a clip may name."""

    def __init__(self, config: Config, conditions: int, features: int, rngs: nnx.Rngs):
        self.generator = Generator(config, conditions, features, rngs)
        self.critic = Critic(config, conditions, features, rngs)
        self.count = CountHead(config, conditions, rngs)


def describe(config: Config, conditions: int, features: int) -> Callable[[], Players]:
    """Return a function that describes the players, with parameters of seed 0."""
    return lambda: Players(config, conditions, features, nnx.Rngs(0))
