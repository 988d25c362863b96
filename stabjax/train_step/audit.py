"""Look for elements that are no longer finite in everything a run carries.

A gradient that is bounded keeps the optimizer state finite, so that a step need not
read it to check. What is damaged from outside, by a faulty chip, a bad restore, a
hand-written update, is then not seen: a second moment that is infinite makes every
update of its parameter zero, and nothing else happens. The audit reads it all, once
in a while, in a program of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from stabjax.core.elementwise import nonfinite_elements
from stabjax.core.layout import layout_of
from stabjax.train_step.state import TrainState


def audited(state: TrainState) -> dict[str, PyTree]:
    """Return the parts of a state that are audited, by name."""
    return {
        "params": state.params,
        "opt_state": state.opt_state,
        "model_state": state.model_state,
    }


@jax.jit
def _counts(parts: dict[str, PyTree]) -> Int[Array, " leaves"]:
    leaves = jax.tree.leaves(parts)
    counts = [nonfinite_elements(leaf) for leaf in leaves]
    return jnp.stack(counts) if counts else jnp.zeros((0,), jnp.int32)


def audit(state: TrainState) -> dict[str, int]:
    """Count the elements that are not finite, per leaf of the whole state.

    Reads parameters, optimizer state and model state once, and waits for the result:
    call it between steps, every few hundred. Some states hold an infinity on purpose,
    such as the best loss so far; compare with the audit of the first state.

    Args:
        state: From `TrainStep.init` or a step.

    Returns:
        Path of each damaged leaf, as ``opt_state/0/nu/w``, to the number of elements;
        empty where everything is finite.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from stabjax.train_step import make_train_step
        >>> train = make_train_step(lambda p, b, k: (p["w"].sum(), {}), optax.adam(0.1))
        >>> state = train.init({"w": jnp.ones(3)}, None)
        >>> train.audit(state)
        {}
    """
    parts = audited(state)
    counts: np.ndarray = jax.device_get(_counts(parts))
    named = zip(layout_of(parts).leaves, counts.tolist(), strict=True)
    return {name: count for name, count in named if count}


def new_damage(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Return the leaves with more damage than before.

    Example:
        >>> new_damage({"params/w": 2, "model_state/best": 1}, {"model_state/best": 1})
        {'params/w': 2}
    """
    return {name: count for name, count in now.items() if count > before.get(name, 0)}


def describe(damage: dict[str, int]) -> str:
    """Return the damage as text for an error or a log, worst leaf first.

    Example:
        >>> describe({"opt_state/0/nu/w": 1, "params/w": 3})
        'params/w: 3 elements, opt_state/0/nu/w: 1 element'
    """
    worst = sorted(damage.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{name}: {n} element{'s' if n > 1 else ''}" for name, n in worst[:5]]
    more = [f"and {len(worst) - 5} more leaves"] if len(worst) > 5 else []
    return ", ".join(parts + more)
