"""The laws of every registered loss; an entry in LOSSES is all it takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax.losses import LOSSES

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@pytest.fixture(params=sorted(LOSSES))
def entry(request):
    return LOSSES[request.param]


def call(entry, x):
    """Call the entry with ``x`` in place of its main argument; the value alone."""
    arguments = {
        name: jnp.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in entry.example.items()
    }
    result = entry(**{**arguments, entry.wrt: x})
    return result[0] if isinstance(result, tuple) else result


def main(entry, dtype=jnp.float32):
    return np.asarray(entry.example[entry.wrt], dtype)


@functools.cache
def value_and_slope(entry):
    """Return the value and its slope, compiled once for all tests."""

    def both(x):
        value, pull = jax.vjp(functools.partial(call, entry), x)
        return value, pull(jnp.ones_like(value))[0]

    return jax.jit(both)


def nasty(entry, dtype, seed):
    """Mix zeros, tiny, ordinary and huge numbers of both signs."""
    limit = min(entry.limit, float(jnp.finfo(dtype).max))
    sizes = np.array([0.0, 1.2e-38, 1e-30, 1e-8, 1.0, 30.0, 1e30, entry.limit])
    x = np.random.default_rng(seed).choice(np.concatenate([sizes, -sizes]), (64, 8))
    return np.clip(np.resize(x, main(entry).shape), -limit, limit).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_inputs_give_finite_values_and_gradients(entry, dtype):
    for seed in range(20):
        x = nasty(entry, dtype, seed)
        value, gradient = value_and_slope(entry)(x)
        assert np.all(np.isfinite(np.asarray(value, np.float32))), x
        assert np.all(np.isfinite(np.asarray(gradient, np.float32))), x


def test_each_nan_in_gives_nan_out(entry):
    x = main(entry)
    for place in np.ndindex(x.shape):
        poisoned = x.copy()
        poisoned[place] = np.nan
        assert np.any(np.isnan(value_and_slope(entry)(poisoned)[0])), place


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_are_as_registered_and_strong(entry, dtype):
    value, gradient = jax.eval_shape(value_and_slope(entry), main(entry, dtype))
    assert value.dtype == (dtype if entry.keeps_dtype else jnp.float32)
    assert gradient.dtype == dtype
    assert not value.weak_type


def test_it_is_traced_once_for_one_shape(entry):
    traces = []

    @jax.jit
    def traced(x):
        traces.append(x.shape)
        return call(entry, x)

    first = jax.eval_shape(traced, main(entry))
    jax.eval_shape(traced, first if entry.keeps_dtype else main(entry) + 1)
    assert len(traces) == 1


# Without jit it is also run by the example in its docstring.
@pytest.mark.slow
def test_jit_changes_no_more_than_rounding(entry):
    x = main(entry)
    compiled = value_and_slope(entry)(x)[0]
    np.testing.assert_allclose(compiled, call(entry, jnp.asarray(x)), rtol=1e-6)


def test_vmap_equals_a_loop(entry):
    batch = np.stack([main(entry), main(entry) * 0.5, main(entry) - 1])
    mapped = jax.jit(jax.vmap(functools.partial(call, entry)))(batch)
    looped = [value_and_slope(entry)(x)[0] for x in batch]
    np.testing.assert_allclose(mapped, np.stack(looped), rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences(entry):
    x, rng = main(entry), np.random.default_rng(0)
    direction = rng.normal(size=x.shape).astype(np.float32)
    total = lambda v: np.sum(np.asarray(value_and_slope(entry)(v)[0], np.float64))
    exact = np.sum(np.asarray(value_and_slope(entry)(x)[1]) * direction)
    h = np.float32(2.0**-7)
    numeric = (total(x + h * direction) - total(x - h * direction)) / (2 * h)
    np.testing.assert_allclose(exact, numeric, rtol=2e-2, atol=2e-3)


def test_its_docstring_names_gradient_source_and_example(entry):
    for section in ("Args:", "Returns:", "Gradient:", "Source:", ">>>"):
        assert section in (entry.function.__doc__ or "")
