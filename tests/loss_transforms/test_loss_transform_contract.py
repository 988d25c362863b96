"""The laws of every registered loss transform."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from quadratics import (
    KEY,
    MODEL_STATE,
    NAMES,
    differentiate,
    params_of,
    quadratic_loss,
    terms,
    vector_of,
)

from stabjax.health import decode
from stabjax.loss_transforms import LOSS_TRANSFORMS, TransformedLoss, WithTransform
from stabjax.losses import asinh_compress, weigh
from stabjax.train_step import make_train_step


def of_two_equal_samples(loss_fn):
    """Return the loss over a batch of two, of which the tests give one."""
    inner = LOSS_TRANSFORMS["drop_bad_samples"](loss_fn)

    def evaluate(call):
        batch = jnp.stack([call.batch] * 2)
        # The tests use one key for several calls, and this transform splits it.
        key = jax.random.clone(call.key)
        return inner.evaluate(call._replace(batch=batch, key=key))

    return dataclasses.replace(inner, evaluate=evaluate)


BUILD = {
    "bound_component": lambda f: LOSS_TRANSFORMS["bound_component"](
        f, "fit", functools.partial(asinh_compress, scale=1.0)
    ),
    "component_cosines": lambda f: LOSS_TRANSFORMS["component_cosines"](f, every=2),
    "component_gradient_norms": lambda f: LOSS_TRANSFORMS["component_gradient_norms"](
        f, every=2
    ),
    "drop_bad_samples": of_two_equal_samples,
    "grad_norm": LOSS_TRANSFORMS["grad_norm"],
    "name_components": lambda f: LOSS_TRANSFORMS["name_components"](
        f, f.components if isinstance(f, TransformedLoss) else NAMES
    ),
}
STEPS = 4
BATCHES = jnp.asarray([1.0, 0.5, 1.5, 1.0])


def build(name, loss_fn):
    return BUILD.get(name, LOSS_TRANSFORMS[name])(loss_fn)


def start_of(loss_fn, stateful, dtype=jnp.float32):
    """Return parameters and model state to start from."""
    state = MODEL_STATE if stateful else None
    params = loss_fn.init_params(params_of(dtype=dtype))
    return params, loss_fn.init_model_state(state)


def model_of(params):
    return params.model if isinstance(params, WithTransform) else params


@pytest.fixture(params=sorted(LOSS_TRANSFORMS))
def name(request):
    return request.param


@functools.cache
def trainer_of(name, stateful):
    """Return a train step, compiled once for all tests, and where it starts."""
    loss_fn = build(name, quadratic_loss(stateful))
    train = make_train_step(loss_fn, optax.sgd(0.001), window=8)
    params, model_state = start_of(loss_fn, stateful)
    return train, lambda: train.init(params, BATCHES[0], model_state=model_state)


def rows_of(train, state):
    floats, ints = np.asarray(state.telemetry.floats), np.asarray(state.telemetry.ints)
    return decode(train.schema(state), floats, ints)


# Half of them with a model state of their own, so that each program is compiled once.
def is_stateful(name):
    return sorted(LOSS_TRANSFORMS).index(name) % 2 == 0


@pytest.mark.slow
def test_many_steps_equal_single_steps_and_each_compiles_once(name):
    train, start = trainer_of(name, is_stateful(name))
    state, many = start(), start()
    many, _ = train.many_steps(many, BATCHES, KEY)
    with compilations() as compiled:
        for batch in BATCHES:
            state, _ = train.step(state, batch, KEY)
    assert len([program for program in compiled if "one" in program]) <= 1
    rows, single = rows_of(train, many), rows_of(train, state)
    assert [row["applied_total"] for row in rows] == list(range(1, STEPS + 1))
    for row, other in zip(rows, single, strict=True):
        assert row.keys() == other.keys()
        np.testing.assert_allclose(
            list(row.values()), list(other.values()), rtol=2e-4, atol=1e-5
        )
    moved = model_of(state.params)["trunk"]["w"] - params_of()["trunk"]["w"]
    assert bool(jnp.all(jnp.abs(moved) > 1e-3))
    if is_stateful(name):
        inside = state.model_state
        inside = inside.model if isinstance(inside, WithTransform) else inside
        assert float(inside["calls"]) == STEPS


def test_it_keeps_what_is_reported_and_its_components_add_up(name):
    inner = quadratic_loss()
    loss_fn = build(name, inner)
    params, model_state = start_of(loss_fn, False)
    kwargs = {} if model_state is None else {"model_state": model_state}
    if loss_fn.wants_step:
        kwargs["step"] = jnp.int32(0)
    loss, aux, gradient = differentiate(loss_fn, params, **kwargs)
    _, before, _ = differentiate(inner)
    assert set(before) <= set(aux)
    assert float(aux["first"]) == float(before["first"])
    assert [float(aux[f"raw/{n}"]) for n in NAMES] == [
        float(before[f"raw/{n}"]) for n in NAMES
    ]
    total = sum(float(aux[f"weighted/{n}"]) for n in loss_fn.components)
    np.testing.assert_allclose(float(loss), total, rtol=1e-6)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    for key, value in aux.items():
        if key != "model_state":
            assert (value.shape, value.dtype) == ((), jnp.float32), key
            assert not value.weak_type, key


def test_it_wants_the_step_if_the_loss_inside_does(name):
    schedule = lambda step: 1.0 + 0.0 * step
    weights = {**dict.fromkeys(NAMES, 1.0), "fit": schedule}
    loss_fn = build(name, quadratic_loss(weights=weights))
    assert loss_fn.wants_step
    params, model_state = start_of(loss_fn, False)
    with pytest.raises(ValueError, match="step must be given"):
        loss_fn(params, jnp.float32(1.0), KEY, model_state=model_state)
    kwargs = {} if model_state is None else {"model_state": model_state}
    jax.eval_shape(loss_fn, params, BATCHES[0], KEY, step=jnp.int32(0), **kwargs)


def test_half_precision_parameters_have_half_precision_gradients(name):
    loss_fn = build(name, quadratic_loss())
    params, model_state = start_of(loss_fn, False, jnp.bfloat16)
    exact, _ = start_of(loss_fn, False)
    kwargs = {} if model_state is None else {"model_state": model_state}
    if loss_fn.wants_step:
        kwargs["step"] = jnp.int32(0)
    _, aux, gradient = differentiate(loss_fn, params, **kwargs)
    _, _, wanted = differentiate(loss_fn, exact, **kwargs)
    assert model_of(gradient)["head"].dtype == jnp.bfloat16
    assert all(v.dtype == jnp.float32 for n, v in aux.items() if n != "model_state")
    ours, theirs = vector_of(model_of(gradient)), vector_of(model_of(wanted))
    # Eight bits of each factor, and five terms that may cancel.
    np.testing.assert_allclose(ours, theirs, atol=0.05 * np.max(np.abs(theirs)))


def test_a_refused_step_changes_no_state_of_it(name):
    train, start = trainer_of(name, is_stateful(name))
    state, _ = train.step(start(), BATCHES[0], KEY)
    before = jax.tree.map(np.asarray, (state.params, state.model_state))
    state, _ = train.step(state, jnp.float32(np.nan), KEY)
    assert rows_of(train, state)[-1]["accepted"] == 0
    jax.tree.map(
        np.testing.assert_array_equal, before, (state.params, state.model_state)
    )


def test_it_maps_over_members_of_an_ensemble(name):
    loss_fn = build(name, quadratic_loss())
    params, model_state = start_of(loss_fn, False)
    kwargs = {} if model_state is None else {"model_state": model_state}
    if loss_fn.wants_step:
        kwargs["step"] = jnp.int32(0)

    def gradient_of(params, batch, key):
        return jax.grad(loss_fn, has_aux=True)(params, batch, key, **kwargs)[0]

    members = jax.tree.map(lambda x: jnp.stack([x, x + 1.0]), params)
    batches, keys = jnp.asarray([1.0, 0.5]), jax.random.split(jax.random.key(1), 2)
    together = jax.jit(jax.vmap(gradient_of))(members, batches, keys)
    for index in range(2):
        one = jax.tree.map(lambda x, i=index: x[i], members)
        alone = jax.jit(gradient_of)(one, batches[index], keys[index])
        each = jax.tree.map(lambda x, i=index: x[i], together)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
            each,
            alone,
        )


@pytest.mark.parametrize("outer", ["drop_nonfinite_component", "grad_norm", "pcgrad"])
def test_it_nests_in_those_with_a_backward_pass_of_their_own(name, outer):
    if name == outer:
        outer = "uncertainty_weighting"
    loss_fn = build(outer, build(name, quadratic_loss(stateful=True)))
    params, model_state = start_of(loss_fn, True)
    kwargs = {"model_state": model_state}
    if loss_fn.wants_step:
        kwargs["step"] = jnp.int32(0)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (_, aux), gradient = jax.eval_shape(grad_fn, params, BATCHES[0], KEY, **kwargs)
    assert jax.tree.structure(aux["model_state"]) == jax.tree.structure(model_state)
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("name", sorted(set(LOSS_TRANSFORMS) - {"drop_bad_samples"}))
def test_a_loss_without_components_is_refused(name):
    with pytest.raises(ValueError, match=name):
        build(name, lambda p, b, k: (jnp.sum(p["head"]), {}))(
            params_of(), jnp.float32(1.0), KEY, step=jnp.int32(0)
        )


def test_its_docstring_names_gradient_source_and_example(name):
    for section in ("Args:", "Returns:", "Gradient:", "Source:", ">>>"):
        assert section in (LOSS_TRANSFORMS[name].__doc__ or "")


def test_a_forgotten_part_of_the_loss_is_reported():
    plain = weigh(terms, weights=dict.fromkeys(NAMES, 1.0))

    def with_decay(params, batch, key):
        loss, aux = plain(params, batch, key)
        return loss + 3.0, aux

    loss_fn = LOSS_TRANSFORMS["name_components"](with_decay, NAMES)
    loss, aux, _ = differentiate(loss_fn)
    np.testing.assert_allclose(float(aux["unnamed"]), 3.0, rtol=1e-4)
    np.testing.assert_allclose(float(loss), float(differentiate(plain)[0]), rtol=1e-6)
