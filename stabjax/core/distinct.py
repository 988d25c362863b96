"""Evaluate a function in which many leaves meet the same fate, once for all of them."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jax.extend.core.primitives import jit_p

from stabjax.core.haste import hasty_options


def distinct_results(function: Callable[..., Any], *values: Any) -> list[Any]:
    """Return the leaves of ``function(*values)``, equal ones once.

    The function is traced, and of equations that are equal and have equal inputs one
    is kept; a tree of a hundred equal leaves becomes one leaf. What is left is compiled
    and run. Inputs are equal where they are the same object.

    Args:
        function: Of trees of arrays, traceable.
        *values: Its arguments, trees of concrete arrays.

    Returns:
        The distinct leaves of the result.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones(4)
        >>> len(distinct_results(lambda tree: [2 * leaf for leaf in tree], [one] * 99))
        1
    """
    traced = jax.make_jaxpr(function)(*values)
    leaves = jax.tree.leaves(values)
    given = {id(leaf): leaf for leaf in leaves}

    def run(given: dict[int, Any], constants: list[Any]) -> list[Any]:
        inputs = [given[id(leaf)] for leaf in leaves]
        found = _run(traced.jaxpr, [*constants, *inputs], {})
        return list({id(value): value for value in found}.values())

    # Traced before anything is evaluated: inside, what depends on no input would be run
    # at once, each equation in a program of its own.
    lowered = jax.jit(run).lower(given, traced.consts)
    # Run once, on a handful of numbers: not worth optimizing.
    compiled = lowered.compile(hasty_options())
    # While another function is traced, too.
    with jax.ensure_compile_time_eval():
        return compiled(given, traced.consts)


def _run(
    jaxpr: Jaxpr, inputs: list[Any], known: dict[Hashable, list[Any]]
) -> list[Any]:
    """Evaluate a program, each equation that is not yet known once."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    values: dict[Any, Any] = dict(zip(variables, inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        key = _key(equation, given)
        if key not in known:
            known[key] = _apply(equation, given, known)
        values.update(zip(equation.outvars, known[key], strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _key(equation: JaxprEqn, given: list[Any]) -> Hashable:
    names = [
        _bits(value) if isinstance(atom, Literal) else id(value)
        for atom, value in zip(equation.invars, given, strict=True)
    ]
    try:
        parameters = tuple(sorted(equation.params.items()))
        hash(parameters)
    except TypeError:
        return id(equation)
    return equation.primitive, parameters, tuple(names)


def _bits(value: Any) -> Hashable:
    # Not by value: zero equals minus zero.
    array = np.asarray(value)
    return type(value), array.dtype, array.tobytes()


def _apply(
    equation: JaxprEqn, given: list[Any], known: dict[Hashable, list[Any]]
) -> list[Any]:
    if equation.primitive is jit_p:
        inner = equation.params["jaxpr"]
        return _run(inner.jaxpr, [*inner.consts, *given], known)
    parameters = equation.primitive.get_bind_params(equation.params)
    with equation.ctx.manager:
        found = equation.primitive.bind(*given, **parameters)
    return list(found) if equation.primitive.multiple_results else [found]
