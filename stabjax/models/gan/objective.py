"""The adversarial step: each player's loss, when it moves, and what is measured."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from stabjax.losses import WeighedLoss, weigh
from stabjax.models.gan.config import Config
from stabjax.models.gan.counts import log_mse, negative_log_likelihood, predict, told
from stabjax.models.gan.critic import Scores, stuck
from stabjax.models.gan.generator import Noise, draw_noise, slots
from stabjax.models.gan.model import describe
from stabjax.models.gan.penalty import penalty
from stabjax.models.gan.players import Move, play
from stabjax.models.modules import graph_of

__all__ = ["Fakes", "Game", "GameState", "initial_state", "make_loss"]

_PLAYERS = ("critic", "generator", "count")


class GameState(NamedTuple):
    """What a step changes besides parameters; a refused step leaves it alone.

    Attributes:
        applied: Steps applied; says whose turn it is.
        average: Averaged parameters of the generator, or () without an average.
        generator_gradient: Norm of the generator's gradient at its last turn; NaN
            before the first.
    """

    applied: Int[Array, ""]
    average: Any
    generator_gradient: Float[Array, ""]


class Fakes(NamedTuple):
    """A generated batch, and what it took.

    Attributes:
        particles: Features of every slot.
        mask: Slots that are filled.
        overfull: Events that asked for more particles than there are slots.
        repaired: Numbers that were replaced because they were not finite.
    """

    particles: Float[Array, "events capacity features"]
    mask: Bool[Array, "events capacity"]
    overfull: Float[Array, ""]
    repaired: Float[Array, ""]


def initial_state(config: Config, params: Any) -> GameState:
    """Return the state before the first step; the average starts at the generator."""
    average = params["generator"] if config.average else ()
    return GameState(jnp.zeros((), jnp.int32), average, jnp.float32(jnp.nan))


def make_loss(
    config: Config, *, conditions: int, features: int, minimum: int
) -> WeighedLoss:
    """Return the stateful loss of the game.

    Its components are the losses of the players: ``critic``, mean score of fakes less
    that of real events plus the weighted penalty; ``generator``, less the mean score
    of fakes; ``count``. Their sum is logged and nothing descends it: each player's
    parameters get the gradient of its own loss (see `players.play`). The critic and,
    with a rate of its own, the count head move in every step, the generator in every
    ``critic_steps``-th applied one.

    Args:
        config: Which setting of every fix.
        conditions: Conditions of an event.
        features: Features of a particle.
        minimum: Smallest count in the data.
    """
    game = Game(config, conditions, features, minimum)
    return weigh(game.terms, weights=dict.fromkeys(_PLAYERS, 1.0))


class Game:
    """The losses of one step; see `make_loss`."""

    def __init__(self, config: Config, conditions: int, features: int, minimum: int):
        self.config, self.minimum = config, minimum
        self.graph = graph_of(describe(config, conditions, features))

    def terms(
        self, params: Any, batch: Any, key: jax.Array, *, model_state: GameState
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the loss of every player and what was measured."""
        config = self.config
        steps = config.critic_steps
        turn = model_state.applied % steps == steps - 1
        key_noise, key_count, key_penalty = jax.random.split(key, 3)
        noise = draw_noise(config, len(batch.mask), key_noise)
        held = jax.lax.stop_gradient(params)
        fakes = self.generate(held, batch, noise, key_count)
        critic = self._critic_moves(params, batch, fakes, key_penalty)
        scores = critic.metrics.pop("scores")
        again = jax.random.clone(key_count)  # the same fakes, once more
        generator = self._generator_moves(
            params, batch, noise, again, turn, -jnp.mean(scores.score)
        )
        count = self._count_moves(params, batch, turn)
        values = {
            "critic": critic.value,
            "generator": generator.value,
            "count": count.value,
        }
        aux: dict[str, Any] = critic.metrics | self._measured(fakes, scores)
        aux |= _gradients(config, critic, generator, count)
        moved = self._next_state(model_state, held, turn, generator.gradient_norm)
        aux |= {
            "gradient/generator": moved.generator_gradient,
            "generator_turn": turn.astype(jnp.float32),
            "model_state": moved,
        }
        return values, jax.lax.stop_gradient(aux)

    def generate(self, params: Any, batch: Any, noise: Noise, key: jax.Array) -> Fakes:
        """Return fake events for the conditions of a batch.

        Gradient:
            In the generator through the particles; in the seed's count head through
            the count that the generator is told. None through the mask.
        """
        config, players = self.config, nnx.merge(self.graph, params)
        if config.fake_counts == "predicted":
            outputs = players.count(batch.condition)
            number = predict(config, outputs, key, minimum=self.minimum)
        else:
            number = told(jnp.sum(batch.mask, axis=1, dtype=jnp.int32))
        particles = players.generator(batch.condition, number.log_count, noise)
        mask = slots(number.count, config.capacity)
        return Fakes(particles, mask, number.overfull, number.repaired)

    def _critic_moves(
        self, params: Any, batch: Any, fakes: Fakes, key: jax.Array
    ) -> Move:
        config = self.config
        others = _without(params, "critic")
        both = batch.mask & fakes.mask

        def loss_of(critic: Any) -> tuple[Array, dict[str, Any]]:
            judge = nnx.merge(self.graph, others | {"critic": critic}).critic
            real = judge(batch.particles, batch.mask, batch.condition)
            fake = judge(fakes.particles, fakes.mask, batch.condition)
            score = lambda x: judge(x, both, batch.condition).score
            slope = penalty(config, score, batch.particles, fakes.particles, both, key)
            gap = jnp.mean(real.score) - jnp.mean(fake.score)
            loss = -gap
            if config.gradient_penalty != "none":
                loss += config.penalty_weight * slope
            return loss, {
                "scores": fake,
                "score_real": jnp.mean(real.score),
                "score_fake": jnp.mean(fake.score),
                "score_gap": gap,
                "gradient_penalty": slope,
                "pooled_min": jnp.minimum(real.pooled_min, fake.pooled_min),
                "repaired": real.repaired + fake.repaired + fakes.repaired,
            }

        return play(loss_of, params["critic"])

    def _generator_moves(
        self,
        params: Any,
        batch: Any,
        noise: Noise,
        key: jax.Array,
        turn: Array,
        value: Array,
    ) -> Move:
        mine = {"generator": params["generator"]}
        if self.config.fake_counts == "predicted":
            mine["count"] = params["count"]  # the generator is told its output
        others = _without(params, *mine)

        def loss_of(own: Any) -> tuple[Array, None]:
            everyone = others | own
            fakes = self.generate(everyone, batch, noise, key)
            judge = nnx.merge(self.graph, everyone).critic
            scores = judge(fakes.particles, fakes.mask, batch.condition)
            return -jnp.mean(scores.score), None

        return play(loss_of, mine, turn=turn, otherwise=(value, None))

    def _count_moves(self, params: Any, batch: Any, turn: Array) -> Move:
        config, others = self.config, _without(params, "count")
        count = jnp.sum(batch.mask, axis=1, dtype=jnp.int32)

        def loss_of(own: Any) -> tuple[Array, None]:
            head = nnx.merge(self.graph, others | {"count": own}).count
            outputs = head(batch.condition)
            if config.count_head == "log_mse":
                return log_mse(outputs, count), None
            loss = negative_log_likelihood(
                outputs, count, minimum=self.minimum, capacity=config.capacity
            )
            return loss, None

        if config.count_rate is not None:
            return play(loss_of, params["count"])
        value, _ = loss_of(jax.lax.stop_gradient(params["count"]))
        return play(loss_of, params["count"], turn=turn, otherwise=(value, None))

    def _measured(self, fakes: Fakes, scores: Scores) -> dict[str, Array]:
        at_bound, flat = stuck(self.config, scores)
        counts = jnp.sum(fakes.mask, axis=1, dtype=jnp.float32)
        return {
            "fakes_at_bound": at_bound,
            "fakes_without_slope": flat,
            "fake_particles": jnp.sum(counts),
            "empty_fakes": jnp.mean((counts == 0).astype(jnp.float32)),
            "all_fakes_empty": jnp.all(counts == 0).astype(jnp.float32),
            "overfull_fakes": fakes.overfull,
        }

    def _next_state(
        self, state: GameState, params: Any, turn: Array, gradient: Array
    ) -> GameState:
        average = state.average
        if self.config.average:
            moves = (state.applied // self.config.critic_steps).astype(jnp.float32)
            # Shorter at first, so that the untrained generator is forgotten.
            memory = jnp.minimum(self.config.average, (1.0 + moves) / (10.0 + moves))
            average = jax.tree.map(
                lambda old, new: jnp.where(
                    turn, memory * old + (1 - memory) * new, old
                ),
                average,
                params["generator"],
            )
        last = jnp.where(turn, gradient, state.generator_gradient)
        return GameState(state.applied + 1, average, last)


def _without(params: Any, *players: str) -> dict[str, Any]:
    """Return the parameters of all others, without gradient."""
    others = {name: tree for name, tree in params.items() if name not in players}
    return jax.lax.stop_gradient(others)


def _gradients(
    config: Config, critic: Move, generator: Move, count: Move
) -> dict[str, Array]:
    """Name the norm of each player's gradient, and what the seed's monitor counts."""
    named = {
        "gradient/critic": critic.gradient_norm,
        "gradient/count": count.gradient_norm,
    }
    nothing = generator.gradient_norm == 0.0  # False for NaN: it sat out
    named["generator_without_gradient"] = nothing.astype(jnp.float32)
    if config.gradient_monitor:
        warnings = critic.warnings + generator.warnings + count.warnings
        named["gradient_warnings"] = warnings
    return named
