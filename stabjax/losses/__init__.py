"""Loss functions, bounds on losses, and totals that report their parts.

`LOSSES` maps a name to its `LossEntry`. An entry added there is tested: the contract
tests run over it.
"""

import numpy as np

from stabjax.losses._asinh_compress import asinh_compress as asinh_compress
from stabjax.losses._combine import combine as combine
from stabjax.losses._cross_entropy import cross_entropy as cross_entropy
from stabjax.losses._cross_entropy import (
    cross_entropy_per_example as cross_entropy_per_example,
)
from stabjax.losses._fenchel_young import fenchel_young as fenchel_young
from stabjax.losses._fenchel_young import fenchel_young_bound as fenchel_young_bound
from stabjax.losses._fenchel_young import (
    fenchel_young_bound_any_potential as fenchel_young_bound_any_potential,
)
from stabjax.losses._hard_clamp import hard_clamp as hard_clamp
from stabjax.losses._hull import check_in_hull as check_in_hull
from stabjax.losses._hull import hull_violation as hull_violation
from stabjax.losses._registry import LossEntry as LossEntry
from stabjax.losses._soft_clamp import soft_clamp as soft_clamp
from stabjax.losses._weigh import WeighedLoss as WeighedLoss
from stabjax.losses._weigh import weigh as weigh

_X = np.array([0.5, -3.0, 20.0], np.float32)
_LOGITS = np.array([[0.5, -3.0, 2.0], [1.0, 0.0, -1.0]], np.float32)
_CLASSES = {"logits": _LOGITS, "labels": np.array([2, 1], np.int32)}
_CELLS = {
    "theta": _LOGITS,
    "mu": np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], np.float32),
    "target": np.eye(3, dtype=np.float32)[:2],
}

LOSSES = {
    "asinh_compress": LossEntry(
        asinh_compress, {"x": _X, "scale": 10.0}, "x", 3e38, keeps_dtype=True
    ),
    "cross_entropy": LossEntry(cross_entropy, _CLASSES, "logits", 1e38),
    "cross_entropy_per_example": LossEntry(
        cross_entropy_per_example, _CLASSES, "logits", 1e38
    ),
    "fenchel_young": LossEntry(fenchel_young, _CELLS, "theta", 1e37),
    "hard_clamp": LossEntry(
        hard_clamp, {"x": _X, "low": -5.0, "high": 5.0}, "x", 3e38, keeps_dtype=True
    ),
    "hull_violation": LossEntry(hull_violation, {"target": _LOGITS}, "target", 1e37),
    "soft_clamp": LossEntry(
        soft_clamp, {"x": _X, "scale": 10.0}, "x", 3e38, keeps_dtype=True
    ),
}

__all__ = [
    "LOSSES",
    "LossEntry",
    "WeighedLoss",
    "asinh_compress",
    "check_in_hull",
    "combine",
    "cross_entropy",
    "cross_entropy_per_example",
    "fenchel_young",
    "fenchel_young_bound",
    "fenchel_young_bound_any_potential",
    "hard_clamp",
    "hull_violation",
    "soft_clamp",
    "weigh",
]
