"""Distance from a float64 oracle, in units of the last place of the result."""

import jax.numpy as jnp
import numpy as np


def assert_ulps(actual, oracle, ulps, scale=None):
    """Compare to ``oracle`` within ``ulps`` of its size, or of ``scale`` if given.

    Below the smallest normal number of the dtype, flushing to zero is allowed.
    """
    info = jnp.finfo(actual.dtype)
    oracle = np.asarray(oracle, np.float64)
    size = np.maximum(np.abs(oracle if scale is None else scale), float(info.tiny))
    unit = 2.0 ** (np.floor(np.log2(size)) - info.nmant)
    error = np.abs(np.asarray(actual, np.float64) - oracle)
    allowed = np.where(np.abs(oracle) <= info.tiny, float(info.tiny), ulps * unit)
    assert np.all(error <= allowed), f"{np.max(error / unit)} ulp, {actual}, {oracle}"
