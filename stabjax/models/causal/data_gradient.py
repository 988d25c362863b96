"""How much the data pull at the graph: one number, whatever the decoder is called."""

import dataclasses
from typing import Any

from stabjax.loss_transforms import TransformedLoss, component_gradient_norms
from stabjax.types import Aux, Batch, LossFn, Params, Scalar

__all__ = ["DATA_GRADIENT", "WatchedLoss", "watch_gradients"]

DATA_GRADIENT = "data_gradient_in_graph"


@dataclasses.dataclass(frozen=True, eq=False)
class WatchedLoss:
    """A loss that reports its data gradient; build one with `watch_gradients`.

    Attributes:
        inner: The loss with the gradient norm of each component on each group.
        column: Which of these norms is the one.
    """

    inner: TransformedLoss
    column: str

    @property
    def wants_step(self) -> bool:
        """Whether the loss must be called with ``step=``."""
        return self.inner.wants_step

    def __call__(
        self, params: Params, batch: Batch, key: Any, /, **kwargs: Any
    ) -> tuple[Scalar, Aux]:
        """Return the loss and its report, with the data gradient once more."""
        loss, aux = self.inner(params, batch, key, **kwargs)
        return loss, {**aux, DATA_GRADIENT: aux[self.column]}


def watch_gradients(
    loss: LossFn,
    *,
    data: str,
    graph: str,
    groups: tuple[str, ...] = (),
    every: int = 1,
) -> WatchedLoss:
    """Report the gradient of each component on each group, the graph's among them.

    Args:
        loss: A loss of components, ``weighted/<name>``.
        data: The component that holds the data.
        graph: The group of parameters that is the graph.
        groups: The other groups.
        every: Measure in every such step.

    Returns:
        The loss, with the metrics of
        `stabjax.loss_transforms.component_gradient_norms`, and `DATA_GRADIENT`: the
        norm of the data's gradient in the graph. Zero on every step means that the
        graph was not learned from the data.

    Gradient:
        Unchanged.
    """
    inner = component_gradient_norms(loss, (graph, *groups), every=every)
    return WatchedLoss(inner, f"gradient/{data}/{graph}")
