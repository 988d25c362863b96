"""The loss of a step: one pass over queries, held-out pairs and turned tasks.

    total = task + k (w_loo loo + w_eq equivariance) + regularizers of the clues

All rows go through the solver together, so it is compiled once. A held-out row asks
for one of its task's demonstrations and is shown the others.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from stabjax.losses import cap_contribution
from stabjax.models.arc import PAD
from stabjax.models.modules import graph_of
from stabjax.models.rlan.cell_loss import Answers, row_losses
from stabjax.models.rlan.clue_losses import clue_terms
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.contexts import context_equivariance, output_equivariance
from stabjax.models.rlan.metrics import step_metrics
from stabjax.models.rlan.model import Answer, Solver, Support
from stabjax.models.rlan.turns import back, turn_cells
from stabjax.numerics import masked_mean

__all__ = ["Objective", "describe", "hold_out", "temperature_at", "weigh_terms"]

META = ("loo", "equivariance")


def describe(config: Config) -> Callable[[], Solver]:
    """Return a function that describes the solver, with parameters of seed 0."""
    return lambda: Solver(config, nnx.Rngs(0))


def temperature_at(config: Config, step: Array) -> Float[Array, ""]:
    """Return the temperature of the clue attention: linear, then constant."""
    done = jnp.minimum(step.astype(jnp.float32) / config.anneal_steps, 1.0)
    start, end = config.temperature_start, config.temperature_end
    return start + (end - start) * done


class Rows(NamedTuple):
    """Everything the solver is asked in one step."""

    query: Int[Array, "rows cells"]
    support: Support


class Objective:
    """The loss of a configuration; a `stabjax.types.LossFn` that follows a schedule.

    Components: ``task``, ``loo``, ``equivariance``, ``entropy``, ``ponder``,
    ``minimum_clues`` (with the seed's count), ``clue_variance`` and
    ``clue_saturation``. What is computed but connected to nothing, as in the seed, is
    reported as ``inactive/<name>``.
    """

    wants_step = True

    def __init__(self, config: Config):
        self.config = config
        self.graph = graph_of(describe(config))

    def __call__(
        self, params: Any, batch: Mapping[str, Array], key: Any, /, **kwargs: Any
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return the total and its parts at ``step=``; ``key`` is not used."""
        del key
        config, step = self.config, kwargs["step"]
        solver = nnx.merge(self.graph, params)
        pairs = _flat_pairs(batch["support"])
        query, target = _flat(batch["query"]), _flat(batch["target"])
        support, asked = self._rows(solver, query, pairs, batch["turn"])
        parts = _ask(solver, asked, temperature_at(config, step))
        main = parts[0]
        rows = row_losses(
            config,
            Answers(main.logits, target, target != PAD),
            _held_out(config, pairs, parts[1]),
        )
        use = jnp.sum(main.use, axis=1)
        terms = clue_terms(config, main.clues.raw, main.clues.stop, use)
        values = {
            "task": jnp.mean(rows.task),
            "loo": masked_mean(rows.held_out, _usable(config, pairs)),
            "equivariance": self._equivariance(support, parts, query, batch["turn"]),
            "entropy": jnp.mean(main.clues.entropy),
            "ponder": terms.ponder,
            "minimum_clues": terms.minimum,
            "clue_variance": terms.variance,
            "clue_saturation": terms.saturation,
        }
        total, aux = weigh_terms(config, values)
        aux |= step_metrics(config, main, target, use)
        aux["logits_clamped"] = rows.clamped
        return total, jax.tree.map(jax.lax.stop_gradient, aux)

    def _rows(
        self,
        solver: Solver,
        query: Int[Array, "batch cells"],
        pairs: Int[Array, "batch pairs 2 cells"],
        turn: Int[Array, " batch"],
    ) -> tuple[Support, list[Rows]]:
        """Return the encoded demonstrations, and everything that is asked.

        Queries, held-out demonstrations and, for equivariance of outputs, whole tasks
        turned before they are encoded. All pairs are encoded in one call.
        """
        config, batch = self.config, len(query)
        if config.equivariance != "sound":
            support = solver.encode(pairs)
            return support, [
                Rows(query, support),
                hold_out(pairs, support, config.holdouts),
            ]
        flat = pairs.reshape(-1, pairs.shape[-1])
        turns = jnp.concatenate([turn, jnp.repeat(turn, pairs.shape[1] * 2)])
        turned = turn_cells(
            jnp.concatenate([query, flat]), turns, side=config.grid, outside=PAD
        )
        both = solver.encode(
            jnp.concatenate([pairs, turned[batch:].reshape(pairs.shape)])
        )
        support = Support(both.features[:batch], both.real[:batch])
        return support, [
            Rows(query, support),
            hold_out(pairs, support, config.holdouts),
            Rows(turned[:batch], Support(both.features[batch:], both.real[batch:])),
        ]

    def _equivariance(
        self,
        support: Support,
        parts: list[Answer],
        query: Int[Array, "batch cells"],
        turn: Int[Array, " batch"],
    ) -> Float[Array, ""]:
        """Return the equivariance loss in its setting."""
        config = self.config
        if config.equivariance != "sound":
            return context_equivariance(*support, config.equivariance)
        real = query != PAD
        returned = back(parts[2].logits, real, turn, side=config.grid)
        return output_equivariance(parts[0].logits, returned, real)


def hold_out(
    pairs: Int[Array, "batch pairs 2 cells"], support: Support, holdouts: int
) -> Rows:
    """Ask for the first demonstrations in turn, each shown all the others.

    A pair is encoded by itself, so taking away its places takes away all of it. Rows
    stand example by example, ``holdouts`` each. The encoder gets no gradient here, as
    in the original: what is trained is how weights are written from demonstrations.
    """
    batch, shown = pairs.shape[:2]
    held = jnp.eye(holdouts, shown, dtype=bool)[None, :, :, None]
    real = support.real[:, None] & ~held
    features = jnp.broadcast_to(
        jax.lax.stop_gradient(support.features)[:, None],
        (batch, holdouts, *support.features.shape[1:]),
    )
    rows = batch * holdouts
    query = pairs[:, :holdouts, 0].reshape(rows, -1)
    return Rows(
        query,
        Support(
            features.reshape(rows, *features.shape[2:]),
            real.reshape(rows, *real.shape[2:]),
        ),
    )


def weigh_terms(
    config: Config, values: Mapping[str, Float[Array, ""]]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Return the total of all connected terms, the meta losses capped as configured.

    Args:
        config: Weights and settings.
        values: Raw terms by name.

    Returns:
        The total, and ``raw/``, ``weighted/`` or ``inactive/`` of every term, the
        factor on the meta losses ``meta_factor`` and their share ``meta_share`` of
        the total, in sizes.
    """
    weights = _weights(config)
    meta = jnp.stack([values[name] for name in META])
    meta_weights = jnp.array([weights[name] for name in META], jnp.float32)
    factor = jnp.ones((), jnp.float32)
    if config.meta_cap != "before":
        _, factor = cap_contribution(
            values["task"],
            meta,
            config.meta_ratio,
            weights=meta_weights,
            compare="losses" if config.meta_cap == "sound" else "weights",
        )
    aux: dict[str, Array] = {}
    parts: dict[str, Array] = {}
    for name, weight in weights.items():
        if weight == 0.0:
            aux[f"inactive/{name}"] = values[name]
            continue
        scale = factor if name in META else jnp.ones((), jnp.float32)
        parts[name] = scale * jnp.float32(weight) * values[name]
        aux[f"raw/{name}"] = values[name]
        aux[f"weighted/{name}"] = parts[name]
    total = sum(parts.values(), start=jnp.zeros((), jnp.float32))
    size = sum((jnp.abs(x) for x in parts.values()), start=jnp.zeros((), jnp.float32))
    share = sum(
        (jnp.abs(parts[name]) for name in META if name in parts),
        start=jnp.zeros((), jnp.float32),
    )
    aux["meta_factor"] = factor
    aux["meta_share"] = share / jnp.maximum(size, 1e-30)
    return total, aux


def _weights(config: Config) -> dict[str, float]:
    """Return the weight of every term; zero where the seed left it unconnected."""
    counted = config.clue_count == "seed"
    spread = config.clue_variance == "sound"
    bounded = config.clue_saturation == "sound"
    return {
        "task": 1.0,
        "loo": config.loo_weight,
        "equivariance": config.equivariance_weight,
        "entropy": config.entropy_weight,
        "ponder": config.ponder_weight,
        "minimum_clues": config.minimum_clues_weight if counted else 0.0,
        "clue_variance": config.variance_weight if spread else 0.0,
        "clue_saturation": config.saturation_weight if bounded else 0.0,
    }


def _ask(
    solver: Solver, asked: list[Rows], temperature: Float[Array, ""]
) -> list[Answer]:
    """Answer everything in one pass and part the answers again."""
    rows = jax.tree.map(lambda *x: jnp.concatenate(x), *asked)
    answer = solver(rows.query, rows.support, temperature)
    ends, parts = 0, []
    for part in asked:
        first, ends = ends, ends + len(part.query)
        parts.append(jax.tree.map(lambda x, a=first, b=ends: x[a:b], answer))
    return parts


def _usable(
    config: Config, pairs: Int[Array, "batch pairs 2 cells"]
) -> Bool[Array, " rows"]:
    """Return which held-out pairs exist and leave another one to be shown."""
    there = jnp.any(pairs[:, :, 0] != PAD, axis=-1)
    usable = there[:, : config.holdouts] & (jnp.sum(there, axis=1) > 1)[:, None]
    return usable.reshape(-1)


def _held_out(
    config: Config, pairs: Int[Array, "batch pairs 2 cells"], answer: Answer
) -> Answers:
    """Return the answers to held-out pairs, with the cells that count."""
    target = pairs[:, : config.holdouts, 1].reshape(-1, pairs.shape[-1])
    valid = (target != PAD) & _usable(config, pairs)[:, None]
    return Answers(answer.logits, target, valid)


def _flat(grids: Int[Array, "batch side side"]) -> Int[Array, "batch cells"]:
    return grids.reshape(len(grids), -1)


def _flat_pairs(
    pairs: Int[Array, "batch pairs 2 side side"],
) -> Int[Array, "batch pairs 2 cells"]:
    return pairs.reshape(*pairs.shape[:3], -1)
