"""Many structural fits at once: data sets, starts and sparsities in one program.

Every fit is the guarded step of the task, under ``vmap`` and inside ``lax.scan``; the
host gets control back once per stage of the path, to show progress.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from stabjax.core.haste import jit_once
from stabjax.guards import back_off
from stabjax.models.causal.data_gradient import watch_gradients
from stabjax.models.causal.domain import carry_verified, return_to_domain
from stabjax.models.causal.regression import covariance
from stabjax.models.causal.structural import make_structural_loss
from stabjax.models.causal.structural_config import Structural
from stabjax.train_step import TrainStep, make_train_step

__all__ = ["Fits", "fit_many", "structural_step"]


class Fits(NamedTuple):
    """What many fits found; the axes are data sets, sparsities and starts.

    Attributes:
        weights: [data, sparsities, starts, nodes, nodes].
        losses: The last loss of each [data, sparsities, starts].
        refused: Steps refused in each, of ``steps``.
        sparsities: The grid.
        steps: Steps attempted by each.
    """

    weights: np.ndarray
    losses: np.ndarray
    refused: np.ndarray
    sparsities: tuple[float, ...]
    steps: int


def structural_step(
    config: Structural,
    optimizer: optax.GradientTransformation,
    *,
    guards: Sequence[Any] | None = None,
    watch_every: int = 0,
    **options: Any,
) -> TrainStep:
    """Return the guarded step of a structural fit, for one fit or many.

    Args:
        config: Score, path and constraint.
        optimizer: An optax transformation.
        guards: Guards of the step; None for the plain, unguarded one. With
            ``domain="sound"`` a `stabjax.guards.back_off` is added if none is there:
            returning to the domain without it would repeat the step that left it.
        watch_every: Steps between measurements of the components' gradients, see
            `watch_gradients`; 0: never.
        **options: As of `stabjax.train_step.make_train_step`.
    """
    loss = make_structural_loss(config)
    if watch_every:
        loss = watch_gradients(loss, data="score", graph="weights", every=watch_every)
    if guards is None or config.domain == "before":
        return make_train_step(loss, optimizer, guards=guards, **options)
    if not any(guard.name == "back_off" for guard in guards):
        guards = [*guards, back_off(factor=0.5, after=1, recovery=100, min_scale=1e-6)]
    step = make_train_step(carry_verified(loss), optimizer, guards=guards, **options)
    return return_to_domain(step, optimizer)


def fit_many(
    data: np.ndarray,
    config: Structural,
    *,
    sparsities: Sequence[float] | None = None,
    starts: int = 1,
    seed: int = 0,
    optimizer: optax.GradientTransformation | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fits:
    """Fit a structural model to every data set, sparsity and start, all at once.

    Args:
        data: [data sets, rows, nodes], finite; columns are centered here. For the
            score ``evlog`` each data set is divided by one number, which changes
            nothing but rounding. Lags and missing values are the task's.
        config: Score, path and constraint; ``sparsity`` is the grid if none is given.
        sparsities: The grid of the weight of ``|W|_1``.
        starts: Initial weights per fit: the empty graph, then small random ones.
        seed: Draws the random starts.
        optimizer: By default Adam, 0.01, with ``b1=0.99`` as DAGMA uses it.
        progress: Called with (steps done, steps) after every stage.

    Returns:
        The weights of all fits, and how they were come by.

    Raises:
        ValueError: If the data are not three-dimensional and finite, the
            configuration has lags, or a number is out of range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> cause = rng.normal(size=(1, 500, 1))
        >>> x = np.concatenate([cause, 1.5 * cause + rng.normal(size=(1, 500, 1))], 2)
        >>> fits = fit_many(x, Structural(score="evlog", stage_steps=100))
        >>> np.argwhere(np.abs(fits.weights[0, 0, 0]) > 0.3).tolist()  # 0 -> 1
        [[0, 1]]
    """
    grid = (config.sparsity,) if sparsities is None else tuple(sparsities)
    rows = _check(data, config, grid, starts)
    optimizer = optimizer or optax.adam(0.01, b1=0.99)
    batches = _batches(rows, config, grid, starts)
    first = _first(rows.shape[-1], starts, seed)
    train = structural_step(
        config,
        optimizer,
        guards=(),
        window=1,
        form="select",  # what a branch becomes under vmap
        finite_check="outcome",  # holds for any optimizer, without a trial run
        sample_updates=False,
    )
    state = _initial(train, batches, first, len(rows) * len(grid))
    advance = jax.jit(
        functools.partial(_advance, train, config.stage_steps), donate_argnums=0
    )
    stages, report = len(config.mu), None
    for stage in range(stages):
        state, report = advance(state, batches)
        if progress is not None:
            jax.block_until_ready(report)
            progress((stage + 1) * config.stage_steps, stages * config.stage_steps)
    weights, (losses, refused) = jax.device_get((state.params["weights"], report))
    shape, nodes = (len(rows), len(grid), starts), rows.shape[-1]
    loops = np.eye(nodes, dtype=bool)
    return Fits(
        weights=np.where(loops, 0.0, weights).reshape(*shape, nodes, nodes),
        losses=losses.reshape(shape),
        refused=refused.reshape(shape),
        sparsities=grid,
        steps=stages * config.stage_steps,
    )


def _advance(
    train: TrainStep, steps: int, state: Any, batches: Any
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """Take ``steps`` steps of every fit; return the last loss and all refusals."""
    step = train.step.__wrapped__  # type: ignore[attr-defined] # before its jit
    key = jax.random.key(0)  # the loss draws nothing

    def one_fit(state: Any, batch: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        def body(state: Any, _: None) -> tuple[Any, None]:
            return step(state, batch, key)[0], None

        state, _ = jax.lax.scan(body, state, None, length=steps)
        place = train.schema(state).floats.index("loss")
        core = train.guard_states(state)
        return state, (state.telemetry.floats[0, place], core.step - core.applied)

    return jax.vmap(one_fit)(state, batches)


def _initial(train: TrainStep, batches: Any, first: np.ndarray, repeats: int) -> Any:
    """Return the state of every fit at its start; compiled in haste, to run once."""

    def one_fit(start: jax.Array, batch: Any) -> Any:
        return train.init({"weights": start}, batch)

    starts = np.tile(first, (repeats, 1, 1)).astype(np.float32)
    return jit_once(jax.vmap(one_fit))(starts, batches)


def _first(nodes: int, starts: int, seed: int) -> np.ndarray:
    """Return the starts: nothing, then weights of variance 0.01 / nodes."""
    rng = np.random.default_rng(seed)
    first = rng.normal(scale=0.1 / np.sqrt(nodes), size=(starts, nodes, nodes))
    first[0] = 0.0
    return first * (1.0 - np.eye(nodes))


def _batches(
    rows: np.ndarray, config: Structural, grid: tuple[float, ...], starts: int
) -> dict[str, np.ndarray]:
    fits = len(grid) * starts
    sparsity = np.tile(np.repeat(np.asarray(grid, np.float32), starts), len(rows))
    if config.needs_rows:
        values = np.repeat(rows.astype(np.float32), fits, axis=0)
        return {
            "values": values,
            "observed": np.ones_like(values),
            "sparsity": sparsity,
        }
    moments = np.stack([covariance(each) for each in rows])
    if config.score == "evlog":
        moments /= np.trace(moments, axis1=1, axis2=2)[:, None, None] / len(moments[0])
    moments = np.repeat(moments.astype(np.float32), fits, axis=0)
    return {"moments": moments, "sparsity": sparsity}


def _check(
    data: np.ndarray, config: Structural, grid: tuple[float, ...], starts: int
) -> np.ndarray:
    rows = np.asarray(data, float)
    if rows.ndim != 3 or not rows.size or not np.all(np.isfinite(rows)):
        raise ValueError(
            "fit_many: data must be finite, [data sets, rows, nodes], "
            f"got shape {rows.shape}."
        )
    if config.lags:
        raise ValueError(f"fit_many: config.lags must be 0, got {config.lags}.")
    if isinstance(starts, bool) or not isinstance(starts, int) or starts < 1:
        raise ValueError(
            f"fit_many: starts must be a whole number >= 1, got {starts!r}."
        )
    if not grid or not all(np.isfinite(value) and value >= 0.0 for value in grid):
        raise ValueError(f"fit_many: sparsities must be numbers >= 0, got {grid!r}.")
    return rows - rows.mean(axis=1, keepdims=True)
