"""Safe forms: finite in value and in gradient for finite inputs, NaN stays NaN.

float16 and bfloat16 inputs are computed in float32. Elementwise functions,
`safe_normalize`, `standardize` and `masked_softmax` give the dtype of their input
back; statistics (`safe_norm`, `safe_std`, `masked_mean`) and decompositions
(`safe_eigh`, `safe_svd`) stay in float32. A result beyond the largest number of its
dtype saturates there, so that a finite input never turns into an infinity; an
infinite input is not repaired.
"""

from stabjax.numerics._decomposition import Eigh as Eigh
from stabjax.numerics._decomposition import Svd as Svd
from stabjax.numerics._decomposition import safe_eigh as safe_eigh
from stabjax.numerics._decomposition import safe_svd as safe_svd
from stabjax.numerics._elementwise import safe_divide as safe_divide
from stabjax.numerics._elementwise import safe_log as safe_log
from stabjax.numerics._elementwise import safe_power as safe_power
from stabjax.numerics._elementwise import safe_sqrt as safe_sqrt
from stabjax.numerics._inverse_trigonometric import safe_arccos as safe_arccos
from stabjax.numerics._inverse_trigonometric import safe_arcsin as safe_arcsin
from stabjax.numerics._masked_softmax import masked_softmax as masked_softmax
from stabjax.numerics._norm import safe_norm as safe_norm
from stabjax.numerics._normalize import safe_normalize as safe_normalize
from stabjax.numerics._reciprocal import bounded_reciprocal as bounded_reciprocal
from stabjax.numerics._reciprocal import (
    smooth_bounded_reciprocal as smooth_bounded_reciprocal,
)
from stabjax.numerics._statistics import masked_mean as masked_mean
from stabjax.numerics._statistics import safe_std as safe_std
from stabjax.numerics._statistics import standardize as standardize

__all__ = [
    "Eigh",
    "Svd",
    "bounded_reciprocal",
    "masked_mean",
    "masked_softmax",
    "safe_arccos",
    "safe_arcsin",
    "safe_divide",
    "safe_eigh",
    "safe_log",
    "safe_norm",
    "safe_normalize",
    "safe_power",
    "safe_sqrt",
    "safe_std",
    "safe_svd",
    "smooth_bounded_reciprocal",
    "standardize",
]
