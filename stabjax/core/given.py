"""What a caller hands over, said in words: for errors that tell what to write."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from stabjax.core.layout import leaf_name
from stabjax.types import Guard

# Kinds of `flax.nnx.Variable` that no optimizer should move.
_NOT_TRAINED = ("BatchStat", "Cache", "Intermediate", "Perturbation", "RngState")


def shown(value: Any) -> str:
    """Return a value as it reads in an error, on one line.

    Example:
        >>> import optax
        >>> shown(1.5), shown(optax.sgd), shown(optax.sgd(0.1))
        ('1.5', 'the function sgd', 'an optax transformation')
    """
    if isinstance(value, Guard):
        return f"the guard {value.name}"
    if is_optimizer(value):
        return "an optax transformation"
    if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        return f"an array of shape {value.shape} of {value.dtype}"
    if callable(value):
        name = getattr(value, "__name__", None)
        if isinstance(value, type):
            return f"the class {name}"
        return f"the function {name}" if name else f"a {type(value).__name__}"
    text = repr(value)
    fits = len(text) <= 80 and "\n" not in text
    return text if fits else f"a {type(value).__name__}"


def is_optimizer(value: Any) -> bool:
    """Return whether a value has the two functions of an optax transformation."""
    return callable(getattr(value, "init", None)) and callable(
        getattr(value, "update", None)
    )


def check_optimizer(function: str, name: str, value: Any, write: str) -> None:
    """Raise TypeError unless a value is an optax transformation.

    Args:
        function: Name of the function that was called.
        name: Name of the argument.
        value: What was given.
        write: A call that is right.
    """
    if is_optimizer(value) and not isinstance(value, Guard | type):
        return
    raise TypeError(
        f"{function}: {name} must be an optax optimizer, got {shown(value)}; "
        f"write {write}."
    )


def check_params(function: str, params: PyTree, write: str) -> None:
    """Raise TypeError unless every leaf of a parameter tree is an array of numbers.

    Args:
        function: Name of the function that was called.
        params: What was given.
        write: What is right for a whole equinox model.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if _is_array(leaf):
            continue
        raise TypeError(
            f"{function}: params must hold nothing but arrays, but {leaf_name(path)!r} "
            f"is {shown(leaf)}.{_advice(params, write)}"
        )


def check_trained(function: str, params: PyTree) -> None:
    """Raise TypeError if a tree holds what cannot be, or is not, a parameter."""
    is_state = lambda node: _class_in(node, "flax.nnx", _NOT_TRAINED) is not None
    split = "graph, params, model_state = nnx.split(model, nnx.Param, ...)"
    nodes = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_state)
    for path, node in nodes:
        if is_state(node):
            raise TypeError(
                f"{function}: params must hold parameters alone, but "
                f"{leaf_name(path)!r} is a {type(node).__name__}; write {split} and "
                f"give init both: (params, batch, model_state=model_state)."
            )
        if jnp.issubdtype(jnp.result_type(node), jax.dtypes.prng_key):
            raise TypeError(
                f"{function}: params must hold parameters alone, but "
                f"{leaf_name(path)!r} is a random key; give it in model_state=."
            )


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, bool | int | float | complex):
        return True
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not hasattr(leaf, "shape"):
        return False
    try:
        known = jnp.issubdtype(dtype, np.number)
        known |= jnp.issubdtype(dtype, np.bool_)
        return known or jnp.issubdtype(dtype, jax.dtypes.extended)
    except TypeError:  # a dtype of another library
        return False


def _class_in(node: Any, module: str, names: tuple[str, ...]) -> str | None:
    """Return the first of the names that a class of ``node`` in ``module`` has."""
    for kind in type(node).__mro__:
        if kind.__module__.startswith(module) and kind.__name__ in names:
            return kind.__name__
    return None


def _advice(params: PyTree, write: str) -> str:
    """Return what to do about a model that was handed over whole."""

    def library(node: Any) -> str | None:
        modules = ("equinox", "flax.nnx", "flax.linen")
        found = [m for m in modules if _class_in(node, m, ("Module",))]
        return found[0] if found else None

    nodes = jax.tree.leaves(params, is_leaf=lambda node: library(node) is not None)
    found = {library(node) for node in nodes}
    if "equinox" in found:
        return f" For a whole equinox model write {write}."
    if "flax.nnx" in found:
        return (
            " For a whole nnx model write "
            "graph, params, model_state = nnx.split(model, nnx.Param, ...)."
        )
    if "flax.linen" in found:
        return " A linen module holds no parameters: give model.init(key, x)['params']."
    return " Take it out of the tree, or set it in a closure."
