"""Loss functions, bounds on losses, and totals that report their parts.

`LOSSES` maps a name to its `LossEntry`. An entry added there is tested: the contract
tests run over it.
"""

import numpy as np

from stabjax.losses._acyclicity import acyclicity as acyclicity
from stabjax.losses._acyclicity import in_acyclicity_domain as in_acyclicity_domain
from stabjax.losses._asinh_compress import asinh_compress as asinh_compress
from stabjax.losses._cap_contribution import cap_contribution as cap_contribution
from stabjax.losses._cap_contribution import cap_gradient_share as cap_gradient_share
from stabjax.losses._combine import combine as combine
from stabjax.losses._cross_block_correlation import (
    cross_block_correlation as cross_block_correlation,
)
from stabjax.losses._cross_entropy import cross_entropy as cross_entropy
from stabjax.losses._cross_entropy import (
    cross_entropy_per_example as cross_entropy_per_example,
)
from stabjax.losses._equivariance import dihedral as dihedral
from stabjax.losses._equivariance import dihedral_inverse as dihedral_inverse
from stabjax.losses._equivariance import equivariance_loss as equivariance_loss
from stabjax.losses._fenchel_young import fenchel_young as fenchel_young
from stabjax.losses._fenchel_young import fenchel_young_bound as fenchel_young_bound
from stabjax.losses._fenchel_young import (
    fenchel_young_bound_any_potential as fenchel_young_bound_any_potential,
)
from stabjax.losses._focal_loss import focal_loss as focal_loss
from stabjax.losses._focal_loss import focal_loss_per_example as focal_loss_per_example
from stabjax.losses._gradient_penalty import gradient_penalty as gradient_penalty
from stabjax.losses._gradient_penalty import r1_penalty as r1_penalty
from stabjax.losses._hard_clamp import hard_clamp as hard_clamp
from stabjax.losses._hull import check_in_hull as check_in_hull
from stabjax.losses._hull import hull_violation as hull_violation
from stabjax.losses._orthogonal_gradient import (
    orthogonal_gradient as orthogonal_gradient,
)
from stabjax.losses._orthogonal_gradient import orthogonal_logits as orthogonal_logits
from stabjax.losses._pop_art import PopArt as PopArt
from stabjax.losses._pop_art import pop_art as pop_art
from stabjax.losses._registry import LossEntry as LossEntry
from stabjax.losses._relative_clip import relative_clip as relative_clip
from stabjax.losses._return_normalization import ReturnNormalizer as ReturnNormalizer
from stabjax.losses._return_normalization import ReturnStatistics as ReturnStatistics
from stabjax.losses._return_normalization import return_normalizer as return_normalizer
from stabjax.losses._return_normalization import (
    standardize_returns as standardize_returns,
)
from stabjax.losses._saturation import Saturation as Saturation
from stabjax.losses._saturation import saturation as saturation
from stabjax.losses._saturation import saturation_penalty as saturation_penalty
from stabjax.losses._soft_clamp import soft_clamp as soft_clamp
from stabjax.losses._stablemax import log_stablemax as log_stablemax
from stabjax.losses._stablemax import stablemax as stablemax
from stabjax.losses._stablemax import stablemax_cross_entropy as stablemax_cross_entropy
from stabjax.losses._stablemax import (
    stablemax_cross_entropy_per_example as stablemax_cross_entropy_per_example,
)
from stabjax.losses._symlog import symexp as symexp
from stabjax.losses._symlog import symlog as symlog
from stabjax.losses._tanh_signal import tanh_signal as tanh_signal
from stabjax.losses._two_hot import two_hot as two_hot
from stabjax.losses._two_hot import two_hot_bins as two_hot_bins
from stabjax.losses._two_hot import two_hot_cross_entropy as two_hot_cross_entropy
from stabjax.losses._two_hot import two_hot_decode as two_hot_decode
from stabjax.losses._variance_hinge import variance_hinge as variance_hinge
from stabjax.losses._weigh import WeighedLoss as WeighedLoss
from stabjax.losses._weigh import weigh as weigh

_X = np.array([0.5, -3.0, 20.0], np.float32)
_LOGITS = np.array([[0.5, -3.0, 2.0], [1.0, 0.0, -1.0]], np.float32)
_BINS = np.array([-9.0, -1.5, 2.5, 30.0], np.float32)
_CLASSES = {"logits": _LOGITS, "labels": np.array([2, 1], np.int32)}
_CELLS = {
    "theta": _LOGITS,
    "mu": np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], np.float32),
    "target": np.eye(3, dtype=np.float32)[:2],
}
_GRAPH = np.array([[0.1, 0.8, 0.0], [0.3, 0.2, -0.9], [0.5, 0.4, 0.0]], np.float32)
_CODES = np.array(
    [
        [0.5, -1.0, 2.0, 0.1],
        [1.5, 0.3, -0.5, 0.9],
        [-0.7, 0.6, 0.4, -1.2],
        [0.2, -0.4, 1.1, 0.3],
        [-1.1, 0.8, 0.0, -0.6],
    ],
    np.float32,
)

LOSSES = {
    "acyclicity": LossEntry(acyclicity, {"weights": _GRAPH}, "weights", 3e38),
    "asinh_compress": LossEntry(
        asinh_compress, {"x": _X, "scale": 10.0}, "x", 3e38, keeps_dtype=True
    ),
    "cap_contribution": LossEntry(
        cap_contribution,
        {"main": np.array(100.0, np.float32), "auxiliary": _X, "ratio": 0.5},
        "auxiliary",
        1e37,
    ),
    "cross_block_correlation": LossEntry(
        cross_block_correlation, {"codes": _CODES, "sizes": (2, 2)}, "codes", 1e30
    ),
    "cross_entropy": LossEntry(cross_entropy, _CLASSES, "logits", 1e38),
    "cross_entropy_per_example": LossEntry(
        cross_entropy_per_example, _CLASSES, "logits", 1e38
    ),
    "equivariance_loss": LossEntry(
        equivariance_loss,
        {"outputs": _LOGITS, "expected": _LOGITS[::-1].copy()},
        "outputs",
        1e18,
    ),
    "fenchel_young": LossEntry(fenchel_young, _CELLS, "theta", 1e37),
    "focal_loss": LossEntry(focal_loss, _CLASSES, "logits", 1e38),
    "focal_loss_per_example": LossEntry(
        focal_loss_per_example, _CLASSES | {"gamma": 0.5}, "logits", 1e38
    ),
    "hard_clamp": LossEntry(
        hard_clamp, {"x": _X, "low": -5.0, "high": 5.0}, "x", 3e38, keeps_dtype=True
    ),
    "hull_violation": LossEntry(hull_violation, {"target": _LOGITS}, "target", 1e37),
    "log_stablemax": LossEntry(
        log_stablemax, {"logits": _LOGITS}, "logits", 3e38, keeps_dtype=True
    ),
    "relative_clip": LossEntry(
        relative_clip,
        {"new": _X, "old": np.array([0.4, 2.0, 19.0], np.float32), "ratio": 0.5},
        "new",
        3e38,
        keeps_dtype=True,
    ),
    "saturation": LossEntry(saturation, {"x": _X, "bound": 5.0}, "x", 3e38),
    "saturation_penalty": LossEntry(
        saturation_penalty, {"x": _X, "limit": 2.0}, "x", 3e38
    ),
    "soft_clamp": LossEntry(
        soft_clamp, {"x": _X, "scale": 10.0}, "x", 3e38, keeps_dtype=True
    ),
    "stablemax": LossEntry(
        stablemax, {"logits": _LOGITS}, "logits", 3e38, keeps_dtype=True
    ),
    "stablemax_cross_entropy": LossEntry(
        stablemax_cross_entropy, _CLASSES, "logits", 3e38
    ),
    "stablemax_cross_entropy_per_example": LossEntry(
        stablemax_cross_entropy_per_example, _CLASSES, "logits", 3e38
    ),
    "standardize_returns": LossEntry(
        standardize_returns, {"returns": _X}, "returns", 3e38, keeps_dtype=True
    ),
    "symexp": LossEntry(symexp, {"x": _X / 4}, "x", 3e38, keeps_dtype=True),
    "symlog": LossEntry(symlog, {"x": _X}, "x", 3e38, keeps_dtype=True),
    "tanh_signal": LossEntry(
        tanh_signal,
        {"terms": _LOGITS, "weights": (1.0, -1.0, -0.5)},
        "terms",
        3e38,
    ),
    "two_hot": LossEntry(two_hot, {"x": _X, "bins": _BINS}, "x", 3e38),
    "two_hot_cross_entropy": LossEntry(
        two_hot_cross_entropy,
        {"logits": _LOGITS, "target": _X[:2], "bins": _BINS[:3]},
        "logits",
        1e38,
    ),
    "two_hot_decode": LossEntry(
        two_hot_decode,
        {"probabilities": _LOGITS, "bins": _BINS[:3]},
        "probabilities",
        1e36,
    ),
    "variance_hinge": LossEntry(
        variance_hinge, {"x": _LOGITS, "target": 3.0}, "x", 3e38
    ),
}

__all__ = [
    "LOSSES",
    "LossEntry",
    "PopArt",
    "ReturnNormalizer",
    "ReturnStatistics",
    "Saturation",
    "WeighedLoss",
    "acyclicity",
    "asinh_compress",
    "cap_contribution",
    "cap_gradient_share",
    "check_in_hull",
    "combine",
    "cross_block_correlation",
    "cross_entropy",
    "cross_entropy_per_example",
    "dihedral",
    "dihedral_inverse",
    "equivariance_loss",
    "fenchel_young",
    "fenchel_young_bound",
    "fenchel_young_bound_any_potential",
    "focal_loss",
    "focal_loss_per_example",
    "gradient_penalty",
    "hard_clamp",
    "hull_violation",
    "in_acyclicity_domain",
    "log_stablemax",
    "orthogonal_gradient",
    "orthogonal_logits",
    "pop_art",
    "r1_penalty",
    "relative_clip",
    "return_normalizer",
    "saturation",
    "saturation_penalty",
    "soft_clamp",
    "stablemax",
    "stablemax_cross_entropy",
    "stablemax_cross_entropy_per_example",
    "standardize_returns",
    "symexp",
    "symlog",
    "tanh_signal",
    "two_hot",
    "two_hot_bins",
    "two_hot_cross_entropy",
    "two_hot_decode",
    "variance_hinge",
    "weigh",
]
