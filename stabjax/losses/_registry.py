"""What the contract tests need to know of a loss function."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class LossEntry:
    """A loss function under its registered name, with an example of its use.

    Registering is all it takes to be held to the contract: value and gradient finite
    for finite inputs, NaN in NaN out, dtypes, one trace, `jit`, `vmap`, `grad`.

    Attributes:
        function: The loss function or transform of a loss.
        example: Keyword arguments of one call; arrays as numpy arrays.
        wrt: The argument that is differentiated, filled with huge and tiny values,
            and poisoned with NaN.
        limit: Size of ``wrt`` up to which value and gradient must be finite.
        keeps_dtype: The result has the dtype of ``wrt``; otherwise float32.
    """

    function: Callable[..., Any]
    example: Mapping[str, Any]
    wrt: str
    limit: float
    keeps_dtype: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)
