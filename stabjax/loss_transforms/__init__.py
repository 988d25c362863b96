"""Transforms of losses: what they add up to, and how their gradients meet.

Each takes a `stabjax.types.LossFn` that reports its components as
``weighted/<name>`` and returns a `TransformedLoss`, which is one again; they nest.
`drop_bad_samples` alone takes the loss of one sample, which may name none.
`LOSS_TRANSFORMS` maps a name to its factory; the contract tests run over it.
"""

from collections.abc import Callable

from stabjax.loss_transforms._bound_component import bound_component as bound_component
from stabjax.loss_transforms._component_cosines import (
    component_cosines as component_cosines,
)
from stabjax.loss_transforms._component_gradient_norms import (
    component_gradient_norms as component_gradient_norms,
)
from stabjax.loss_transforms._drop_bad_samples import (
    drop_bad_samples as drop_bad_samples,
)
from stabjax.loss_transforms._drop_nonfinite_component import (
    drop_nonfinite_component as drop_nonfinite_component,
)
from stabjax.loss_transforms._grad_norm import GradNormState as GradNormState
from stabjax.loss_transforms._grad_norm import grad_norm as grad_norm
from stabjax.loss_transforms._name_components import name_components as name_components
from stabjax.loss_transforms._pcgrad import pcgrad as pcgrad
from stabjax.loss_transforms._scale_by_magnitude import MagnitudeState as MagnitudeState
from stabjax.loss_transforms._scale_by_magnitude import (
    scale_by_magnitude as scale_by_magnitude,
)
from stabjax.loss_transforms._structure import disconnected as disconnected
from stabjax.loss_transforms._transformed import TransformedLoss as TransformedLoss
from stabjax.loss_transforms._transformed import WithTransform as WithTransform
from stabjax.loss_transforms._uncertainty_weighting import (
    uncertainty_weighting as uncertainty_weighting,
)

LOSS_TRANSFORMS: dict[str, Callable[..., TransformedLoss]] = {
    transform.__name__: transform
    for transform in (
        bound_component,
        component_cosines,
        component_gradient_norms,
        drop_bad_samples,
        drop_nonfinite_component,
        grad_norm,
        name_components,
        pcgrad,
        scale_by_magnitude,
        uncertainty_weighting,
    )
}
