"""Say why a step is compiled anew: a batch of another shape, dtype or structure."""

import logging
from typing import Any

import jax
from jaxtyping import PyTree

from stabjax.core.layout import leaf_name

_LOG = logging.getLogger("stabjax")
_SHOWN = 3


class Traces:
    """Remembers for what one jitted function was traced last, and tells a change.

    Its `note` runs in the body of that function, and so when it is traced alone: a
    step that is compiled already pays nothing, and each new form is told once.

    Args:
        function: What to call the function.
    """

    def __init__(self, function: str) -> None:
        self._function = function
        self._state: Any = None
        self._batch: tuple[Any, dict[str, str]] | None = None

    def note(self, state: PyTree, batch: PyTree) -> None:
        """Take in the arguments of a trace; warn if the batch alone has changed."""
        seen = (_structure(state), _types(state))
        before, same_run = self._batch, seen == self._state
        self._state = seen
        self._batch = (_structure(batch), _types(batch))
        if before is None or not same_run or before == self._batch:
            return
        _LOG.warning(
            "%s is compiled anew, because the batch has changed: %s. Give every batch "
            "one shape and dtype: pad the last one with a mask, or drop it.",
            self._function,
            _difference(before[1], self._batch[1]),
        )


def _structure(tree: PyTree) -> Any:
    return jax.tree.structure(tree)


def _types(tree: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): str(jax.typeof(leaf)) for path, leaf in leaves}


def _difference(before: dict[str, str], now: dict[str, str]) -> str:
    """Return what changed from one batch to another.

    Example:
        >>> _difference({"x": "float32[8,3]"}, {"x": "float32[5,3]", "y": "int32[5]"})
        'x from float32[8,3] to float32[5,3], y is new'
    """
    changed = [
        f"{name} from {before[name]} to {now[name]}"
        for name in now
        if name in before and before[name] != now[name]
    ]
    changed += [f"{name} is new" for name in now if name not in before]
    changed += [f"{name} is gone" for name in before if name not in now]
    more = [f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
    return ", ".join(changed[:_SHOWN] + more) or "the structure of its tree"
