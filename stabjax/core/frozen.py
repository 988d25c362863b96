"""Which leaves an optimizer never moves, read from its program."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from stabjax.core.layout import layout_of
from stabjax.types import PyTree

Trainable = PyTree | Callable[[str], bool] | None
# Of these the result is zero if every operand is.
_KEEPS_ZERO = frozenset(
    {
        "add", "add_any", "sub", "neg", "abs", "max", "min", "copy", "copy_p",
        "convert_element_type", "reduce_precision", "reshape", "broadcast_in_dim",
        "squeeze", "transpose", "concatenate", "slice", "sharding_constraint",
    }
)  # fmt: skip


def trained(
    optimizer: optax.GradientTransformationExtraArgs,
    opt_state: PyTree,
    gradients: PyTree,
    params: PyTree | None = None,
    trainable: Trainable = None,
    extra: Mapping[str, Any] | None = None,
) -> tuple[bool, ...]:
    """Return for each leaf of the gradient whether the optimizer may ever move it.

    Read from the program of the optimizer: a leaf is frozen if its update is the
    constant zero whatever the gradient is, as from `optax.set_to_zero` behind a mask or
    in a partition. Where that is not certain it counts as trained.

    Args:
        optimizer: The inner optimizer.
        opt_state: Its state; shapes are enough.
        gradients: Gradients, or parameters of their shapes.
        params: Parameters, if the optimizer is given them.
        trainable: What is known better: a tree of booleans like ``gradients`` or a
            prefix of it, or a function of the leaf's path.
        extra: Extra arguments for the optimizer.

    Returns:
        One boolean per leaf, in the order of `jax.tree.leaves`.
    """
    if trainable is not None:
        return _as_told(trainable, gradients)
    every = (True,) * len(jax.tree.leaves(gradients))
    given = (gradients, opt_state, params)
    leaves, structure = jax.tree.flatten(given)
    arrays = [place for place, leaf in enumerate(leaves) if _is_array(leaf)]

    def updates(values: list[Any]) -> PyTree:
        # Whole models bring leaves that are no arrays.
        filled = list(leaves)
        for place, value in zip(arrays, values, strict=True):
            filled[place] = value
        now, state, known = jax.tree.unflatten(structure, filled)
        return optimizer.update(now, state, known, **dict(extra or {}))[0]

    shapes = [_shape(leaves[place]) for place in arrays]
    try:
        traced = jax.make_jaxpr(updates)(shapes)
    except Exception:  # what cannot be traced like this is not shown to be frozen
        return every
    zero = _zero_results(traced.jaxpr, traced.consts, ())
    return tuple(not frozen for frozen in zero) if len(zero) == len(every) else every


def without_frozen(gradients: PyTree, trained: Sequence[bool] | None) -> PyTree:
    """Return the gradients with zeros for the leaves that are not trained."""
    if trained is None or all(trained):
        return gradients
    leaves, structure = jax.tree.flatten(gradients)
    kept = [
        leaf if moves else jnp.zeros_like(leaf)
        for leaf, moves in zip(leaves, trained, strict=True)
    ]
    return jax.tree.unflatten(structure, kept)


def only_frozen(gradients: PyTree, trained: Sequence[bool] | None) -> list[Any]:
    """Return the leaves that are not trained."""
    if trained is None:
        return []
    leaves = jax.tree.leaves(gradients)
    return [leaf for leaf, moves in zip(leaves, trained, strict=True) if not moves]


def _as_told(trainable: Trainable, params: PyTree) -> tuple[bool, ...]:
    names = layout_of(params).leaves
    if callable(trainable):
        return tuple(bool(trainable(name)) for name in names)
    try:
        spread = jax.tree.map(
            lambda flag, part: jax.tree.map(lambda _: bool(flag), part),
            trainable,
            params,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            "trainable must be a tree of booleans like the parameters, a prefix of it, "
            f"or a function of a leaf's path, got {trainable!r}."
        ) from error
    return tuple(jax.tree.leaves(spread))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _zero_results(
    jaxpr: Jaxpr, constants: Sequence[Any], zero_inputs: Sequence[bool]
) -> list[bool]:
    """Return for each result whether it is zero whatever the inputs are."""
    zero = {
        variable: _is_zero(value)
        for variable, value in zip(jaxpr.constvars, constants, strict=True)
    }
    zero |= dict(zip(jaxpr.invars, zero_inputs, strict=False))

    def known(atom: Any) -> bool:
        if isinstance(atom, Literal):
            return _is_zero(atom.val)
        return zero.get(atom, False)

    for equation in jaxpr.eqns:
        given = [known(atom) for atom in equation.invars]
        found = _zero_equation(equation, given)
        zero.update(zip(equation.outvars, found, strict=True))
    return [known(atom) for atom in jaxpr.outvars]


def _zero_equation(equation: Any, given: list[bool]) -> list[bool]:
    name, results = equation.primitive.name, len(equation.outvars)
    if name in ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"):
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if isinstance(inner, ClosedJaxpr):
            return _zero_results(inner.jaxpr, inner.consts, given)
    if name == "cond":
        branches = equation.params["branches"]
        found = [_zero_results(b.jaxpr, b.consts, given[1:]) for b in branches]
        return [all(of_each) for of_each in zip(*found, strict=True)]
    if name == "select_n":
        return [all(given[1:])] * results
    if name in ("mul", "div"):
        return [_zero_times(equation.invars, given, divided=name == "div")]
    return [name in _KEEPS_ZERO and bool(given) and all(given)] * results


def _zero_times(atoms: Sequence[Any], given: list[bool], *, divided: bool) -> bool:
    """Return whether the product of a zero and a rate is zero.

    The zero is one that the optimizer has put in the place of a leaf. A literal zero
    times a gradient is none: the gradient may be infinite.
    """
    pairs = zip(given, atoms, strict=True)
    placed = [zero and not isinstance(atom, Literal) for zero, atom in pairs]
    rate = [math.prod(atom.aval.shape) == 1 for atom in atoms]
    if placed[0] and (rate[1] or (given[1] and not divided)):
        return True
    return placed[1] and rate[0] and not divided


def _is_zero(value: Any) -> bool:
    # An array on a device is not read: it may be a value that changes.
    fixed = isinstance(value, np.ndarray | np.generic | int | float)
    return fixed and not np.any(np.asarray(value))
