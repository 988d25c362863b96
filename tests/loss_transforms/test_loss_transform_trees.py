"""Parameters of every kind: sharded, counted, absent, wide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stabjax.loss_transforms import (
    component_cosines,
    component_gradient_norms,
    drop_bad_samples,
    drop_nonfinite_component,
    grad_norm,
    pcgrad,
)
from stabjax.losses import combine, weigh

BUILD = [
    component_cosines,
    component_gradient_norms,
    drop_bad_samples,
    drop_nonfinite_component,
    grad_norm,
    lambda loss_fn: pcgrad(loss_fn, order="named"),
]
IDS = ["component_cosines", "component_gradient_norms", "drop_bad_samples"]
IDS += ["drop_nonfinite_component", "grad_norm", "pcgrad"]
KEY = jax.random.key(0)
WEIGHTS = {"fit": 1.0, "size": 0.1}
MATRIX = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)


def terms(params, batch, key):
    error = batch @ params["w"] - 1.0
    return {"fit": jnp.mean(error**2), "size": jnp.sum(params["w"] ** 2)}, {}


def gradient_of(loss_fn, params, batch, **options):
    state = getattr(loss_fn, "init_model_state", lambda: None)()
    keywords = {} if state is None else {"model_state": state}
    grad_fn = jax.jit(jax.grad(loss_fn, has_aux=True, **options))
    return grad_fn(params, batch, jax.random.clone(KEY), **keywords)


@pytest.mark.parametrize("build", BUILD, ids=IDS)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_parameters_have_the_gradient_of_those_on_one_device(build, kind):
    inner = weigh(terms, weights=WEIGHTS)
    batch = np.ones((8, 4), np.float32)
    alone, single = gradient_of(build(inner), {"w": jnp.asarray(MATRIX)}, batch)
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        across = NamedSharding(mesh, PartitionSpec(None, "devices"))
        everywhere = NamedSharding(mesh, PartitionSpec())
        params = {"w": jax.device_put(MATRIX, across)}
        spread, aux = gradient_of(
            build(inner), params, jax.device_put(batch, everywhere)
        )
        assert spread["w"].sharding.spec == across.spec
    np.testing.assert_allclose(spread["w"], alone["w"], rtol=1e-5, atol=1e-6)
    for name, value in single.items():
        if name != "model_state":
            np.testing.assert_allclose(aux[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", BUILD, ids=IDS)
def test_counters_and_absent_leaves_have_no_gradient(build):
    params = {"w": jnp.asarray(MATRIX), "steps": jnp.int32(3), "none": None}
    batch = jnp.ones((8, 4))
    inner = weigh(terms, weights=WEIGHTS)
    ours, _ = gradient_of(build(inner), params, batch, allow_int=True)
    plain, _ = gradient_of(inner, params, batch, allow_int=True)
    assert ours["steps"].dtype == jax.dtypes.float0
    assert ours["none"] is None
    np.testing.assert_allclose(ours["w"], plain["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", BUILD, ids=IDS)
def test_wide_parameters_have_wide_gradients_and_single_precision_metrics(build):
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(MATRIX, jnp.float64)}
        loss_fn = build(weigh(terms, weights=WEIGHTS))
        gradient, aux = gradient_of(loss_fn, params, jnp.ones((8, 4)))
        assert gradient["w"].dtype == jnp.float64
        assert {v.dtype.name for n, v in aux.items() if n != "model_state"} == {
            "float32"
        }


def test_a_stateless_total_beside_a_stateful_one_is_not_given_the_state():
    stateful = lambda p, b, k, *, model_state: (p, {"model_state": model_state})
    plain = combine({"size": lambda p, b, k: p**2})
    loss_fn = combine({"state": stateful, "plain": drop_nonfinite_component(plain)})
    loss, _ = loss_fn(jnp.float32(2.0), None, KEY, model_state={"x": jnp.ones(())})
    assert float(loss) == 6.0
