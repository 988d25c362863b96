"""Faults that are put into the runs, well inside training.

A fault damages the batches, sends a signal to the loss, or damages the state between
two steps. One compiled program serves them all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from harm.run import OwnLoop, Run
from stabjax.types import LossFn

# Signals in the batch that `breakable` obeys.
LOSS, COMPONENT, GRADIENT = 1, 2, 3
_HOT = 100.0  # factor on the learning rate
_HOT_STEPS = 5
_SECOND = ("nu", "v", "v_row", "v_col")
_FIRST = ("mu", "trace", "momentum")

Mask = Callable[[int], np.ndarray]
Damage = Literal["nan", "spike", "labels", "some labels"]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is put into a run.

    Attributes:
        name: Its name in the table.
        when: ``steps -> bool [steps]``, the steps it happens in.
        damage: What happens to those batches: their inputs become NaN or a thousand
            times as large, or all, or half, of their labels those of other examples.
        signal: What is told to the loss in those steps.
        state: ``opt_state -> opt_state``, once, before the first of those steps.
    """

    name: str
    when: Mask
    damage: Damage | None = None
    signal: int = 0
    state: Callable[[PyTree], PyTree] | None = None

    def begins(self, steps: int) -> int:
        """Return the first step it happens in."""
        return int(np.argmax(self.when(steps)))

    def batches(self, run: Run, batches: Any, seed: int) -> Any:
        """Return stacked batches with the fault in them."""
        if self.damage is None:
            return batches
        mask = self.when(run.steps)
        if self.damage in ("nan", "spike"):
            broken = np.array(batches[run.inputs])
            if self.damage == "nan":
                broken[mask] = np.nan
            else:
                broken[mask] *= np.asarray(1e3, broken.dtype)
            return {**batches, run.inputs: broken}
        labels = _mislabelled(np.asarray(batches[run.labels]), mask, seed, self.damage)
        return {**batches, run.labels: labels}

    def applies(self, run: Run | OwnLoop, batches: Any, opt_state: PyTree) -> bool:
        """Return whether the run has what the fault breaks.

        Faults in inputs need floating-point inputs, those in labels need labels,
        those in second moments an optimizer that has them. A run that owns its loop
        gets only faults in inputs, which `damage_of` puts in.

        Args:
            run: The run.
            batches: Its batches; of a run that owns its loop None.
            opt_state: State of its optimizer, unguarded; None likewise.
        """
        if isinstance(run, OwnLoop):
            return self.damage in ("nan", "spike")
        if self.damage in ("nan", "spike"):
            return run.inputs in batches and _is_float(batches[run.inputs])
        if self.damage is not None:
            return run.labels in batches
        if self.state in _OF_MOMENTS:
            wanted = _SECOND if self.state is _OF_MOMENTS[-1] else _SECOND + _FIRST
            return bool(_found(opt_state, wanted))
        return True


def _mislabelled(
    labels: np.ndarray, mask: np.ndarray, seed: int, damage: Damage
) -> np.ndarray:
    """Return labels in which those of some steps are those of other examples."""
    rng = np.random.default_rng([seed, 77])
    broken = labels.copy()
    for step in np.flatnonzero(mask):
        others = labels[rng.integers(len(labels))]
        if others.ndim == 0:
            broken[step] = others
            continue
        others = others[rng.permutation(len(others))]
        share = 1.0 if damage == "labels" else 0.5
        hit = rng.random(len(others)) < share
        broken[step, hit] = others[hit]
    return broken


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


@functools.cache
def damage_of(fault: Fault | None, steps: int) -> Callable[[Any, Array], Any]:
    """Return ``damage(batch, step)`` for a run that owns its loop.

    The same object each time, so that its program is compiled once.
    """
    if fault is None:
        return lambda batch, step: batch
    # As numbers of the program: no array is kept between two compilations.
    mask = fault.when(steps)

    def damage(batch: Any, step: Array) -> Any:
        bad = jnp.asarray(mask)[step]
        x = batch["x"]
        broken = jnp.full_like(x, jnp.nan) if fault.damage == "nan" else 1e3 * x
        return {**batch, "x": jnp.where(bad, broken.astype(x.dtype), x)}

    return damage


def signals(fault: Fault | None, steps: int) -> np.ndarray:
    """Return what the loss is told in each step, int32 ``[steps]``."""
    if fault is None or not fault.signal:
        return np.zeros(steps, np.int32)
    return np.where(fault.when(steps), fault.signal, 0).astype(np.int32)


def breakable(loss_fn: LossFn) -> LossFn:
    """Return a loss that takes ``{"batch", "signal"}`` and breaks on the signal.

    `LOSS` and `COMPONENT` make the loss or its first component NaN and leave the
    gradient as it is; `GRADIENT` leaves the loss, and makes the gradient of the first
    leaf what half precision makes of one that is too large.
    """

    def broken(params: PyTree, batch: Any, key: Any, /, **kwargs: Any) -> Any:
        signal = batch["signal"]
        params = _overflowing(params, signal == GRADIENT)
        loss, aux = loss_fn(params, batch["batch"], key, **kwargs)
        aux = dict(aux)
        first = min((n for n in aux if n.startswith("raw/")), default=None)
        if first is not None:
            aux[first] = aux[first] + _nan_where(signal == COMPONENT, aux[first])
        return loss + _nan_where(signal == LOSS, loss), aux

    functools.update_wrapper(broken, loss_fn)
    return broken


def _nan_where(condition: Array, like: Array) -> Array:
    return jnp.where(condition, jnp.nan, 0.0).astype(like.dtype)


@jax.custom_vjp
def _overflowing(params: PyTree, condition: Array) -> PyTree:
    del condition
    return params


def _overflowing_backward(condition: Array, gradient: PyTree) -> tuple[PyTree, None]:
    leaves, structure = jax.tree.flatten(gradient)
    infinite = jnp.copysign(jnp.inf, leaves[0]).astype(leaves[0].dtype)
    leaves[0] = jnp.where(condition, infinite, leaves[0])
    return jax.tree.unflatten(structure, leaves), None


_overflowing.defvjp(lambda params, hot: (params, hot), _overflowing_backward)


def rate_of() -> optax.GradientTransformation:
    """Return the factor on the updates that `hot` raises for a few steps."""
    return optax.scale_by_schedule(
        lambda count: jnp.where(jnp.asarray(count) < 0, _HOT, 1.0)
    )


def hot(opt_state: PyTree) -> PyTree:
    """Return the state of ``chain(..., rate_of())`` with the next updates too large."""
    *inner, rate = opt_state
    return (*inner, rate._replace(count=jnp.full_like(rate.count, -_HOT_STEPS)))


def _found(opt_state: PyTree, names: tuple[str, ...]) -> list[int]:
    """Return the places of the moments of those names among the leaves."""
    paths = jax.tree_util.tree_flatten_with_path(opt_state)[0]
    return [
        place
        for place, (path, leaf) in enumerate(paths)
        if _is_float(leaf) and any(getattr(k, "name", None) in names for k in path)
    ]


def _poisoned(opt_state: PyTree, *, value: float) -> PyTree:
    """Return the state with its second moments, else its first, all ``value``."""
    places = _found(opt_state, _SECOND) or _found(opt_state, _FIRST)
    leaves, structure = jax.tree.flatten(opt_state)
    for place in places:
        leaf = leaves[place]
        leaves[place] = jnp.full(leaf.shape, value, leaf.dtype)
    return jax.tree.unflatten(structure, leaves)


_OF_MOMENTS = tuple(
    functools.partial(_poisoned, value=value) for value in (np.nan, np.inf, 0.0)
)


def _at(first: float, length: int = 1, stride: int = 1) -> Mask:
    """Return a mask of ``length`` steps, the first at a share of the run."""

    def mask(steps: int) -> np.ndarray:
        found = np.zeros(steps, bool)
        start = round(first * steps)
        found[start : start + length * stride : stride] = True
        return found

    return mask


def _share(first: float, last: float, stride: int = 1) -> Mask:
    """Return a mask of every ``stride``-th step between two shares of the run."""

    def mask(steps: int) -> np.ndarray:
        found = np.zeros(steps, bool)
        found[round(first * steps) : round(last * steps) : stride] = True
        return found

    return mask


def _one_percent(steps: int) -> np.ndarray:
    """Return a mask of one step in a hundred, after the first fifth of the run."""
    rng = np.random.default_rng(9)
    found = np.zeros(steps, bool)
    found[rng.choice(np.arange(steps // 5, steps), steps // 100, replace=False)] = True
    return found


FAULTS = (
    Fault("one NaN batch", _at(0.6), "nan"),
    Fault("NaN in 1 % of batches", _one_percent, "nan"),
    Fault("inputs x1000, one batch", _at(0.6), "spike"),
    Fault("inputs x1000, five batches", _at(0.6, 5), "spike"),
    Fault("random labels, five batches", _at(0.6, 5), "labels"),
    Fault("half of the labels random, 5 % of steps", _share(0.6, 0.65), "some labels"),
    Fault("eight NaN batches, late", _at(0.9, 8), "nan"),
    Fault("every second batch NaN, a fifth of the run", _share(0.6, 0.8, 2), "nan"),
    Fault("every second batch x1000, a fifth", _share(0.6, 0.8, 2), "spike"),
    Fault("NaN loss, finite gradient", _at(0.6, 3), signal=LOSS),
    Fault("NaN component, finite gradient", _at(0.6, 3), signal=COMPONENT),
    Fault("overflow in half precision", _at(0.6, 3), signal=GRADIENT),
    Fault("moments NaN", _at(0.6), state=_OF_MOMENTS[0]),
    Fault("moments infinite", _at(0.6), state=_OF_MOMENTS[1]),
    Fault("second moments zero", _at(0.6), state=_OF_MOMENTS[2]),
    Fault("learning rate x100, five steps", _at(0.6), state=hot),
)
