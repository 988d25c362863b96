"""Totals: what is added, what is reported, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax.losses import asinh_compress, combine, hard_clamp, soft_clamp, weigh

KEY = jax.random.key(0)
ONE = jnp.float32(1.0)


def fit(params, batch, key):
    return (params - batch) ** 2, {"error": params - batch}


def size(params, batch, key):
    return jnp.abs(params)


def broken(params, batch, key):
    return jnp.log(-jnp.abs(params))


def run(loss_fn, params=2.0, batch=0.5, **kwargs):
    """Return the value, the gradient and the aux."""
    grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (value, aux), gradient = grad_fn(
        jnp.float32(params), jnp.float32(batch), KEY, **kwargs
    )
    return float(value), float(gradient), aux


def test_the_total_is_the_weighted_sum_and_every_part_is_reported():
    value, gradient, aux = run(
        combine({"fit": fit, "size": size}, weights={"fit": 2.0, "size": 0.5})
    )
    assert (value, gradient) == (2 * 2.25 + 0.5 * 2.0, 2 * 3.0 + 0.5)
    parts = {name: float(part) for name, part in aux.items()}
    assert parts == {
        "raw/fit": 2.25,
        "weighted/fit": 4.5,
        "raw/size": 2.0,
        "weighted/size": 1.0,
        "error": 1.5,
    }
    assert all(
        part.dtype == jnp.float32 and not part.weak_type for part in aux.values()
    )


def test_without_weights_every_component_counts_once():
    assert run(combine({"fit": fit, "size": size}))[0] == 4.25


def test_a_shared_forward_pass_gives_the_same_total():
    def terms(params, batch, key):
        return {"fit": (params - batch) ** 2, "size": jnp.abs(params)}, {"seen": ONE}

    weights = {"fit": 2.0, "size": 0.5}
    value, gradient, aux = run(weigh(terms, weights=weights))
    other = run(combine({"fit": fit, "size": size}, weights=weights))
    assert (value, gradient) == other[:2]
    assert float(aux["seen"]) == 1.0


def test_half_precision_components_are_added_in_float32():
    halves = {n: lambda p, b, k: jnp.bfloat16(256.0) + 0 * p for n in "ab"}
    halves["c"] = lambda p, b, k: (jnp.bfloat16(1.0) + 0 * p).astype(jnp.bfloat16)
    value, aux = combine(halves)(jnp.bfloat16(0), None, KEY)
    assert (value.dtype, float(value)) == (jnp.float32, 513.0)
    assert all(part.dtype == jnp.float32 for part in aux.values())


def test_a_zero_weight_keeps_a_nan_out_of_value_and_gradient():
    value, gradient, aux = run(
        combine({"fit": fit, "broken": broken}, weights={"fit": 1.0, "broken": 0.0})
    )
    assert (value, gradient) == (2.25, 3.0)
    assert np.isnan(float(aux["inactive/broken"]))
    assert not {"raw/broken", "weighted/broken"} & set(aux)


def test_a_nan_that_has_a_weight_reaches_total_and_report():
    value, _, aux = run(combine({"fit": fit, "broken": broken}))
    assert np.isnan(value)
    assert np.isnan(float(aux["raw/broken"]))
    assert float(aux["weighted/fit"]) == 2.25


def test_a_schedule_is_evaluated_at_the_step():
    loss_fn = combine({"fit": fit, "size": size}, weights={"fit": 1.0, "size": ramp})
    assert loss_fn.wants_step is True
    for step in (0, 1, 4):
        value, gradient, aux = run(loss_fn, step=jnp.int32(step))
        assert (value, gradient) == (2.25 + step * 2.0, 3.0 + step)
        assert float(aux["weighted/size"]) == step * 2.0


def ramp(step):
    return 1.0 * step


def test_a_schedule_without_its_step_is_refused():
    loss_fn = combine({"fit": fit}, weights={"fit": ramp})
    with pytest.raises(ValueError, match="combine: step must be given"):
        loss_fn(ONE, ONE, KEY)


def test_constant_weights_ask_for_no_step_but_bear_one():
    loss_fn = combine({"fit": fit})
    assert loss_fn.wants_step is False
    assert run(loss_fn, step=jnp.int32(3))[0] == 2.25


@pytest.mark.parametrize("weight", [-1.0, np.nan])
def test_a_schedule_that_leaves_its_range_makes_the_loss_nan(weight):
    loss_fn = combine({"fit": fit}, weights={"fit": lambda step: weight * (step + 1)})
    value, _, aux = run(loss_fn, step=jnp.int32(0))
    assert np.isnan(value)
    assert float(aux["raw/fit"]) == 2.25


def test_a_schedule_at_zero_selects_the_value_away():
    loss_fn = combine(
        {"fit": fit, "broken": broken}, weights={"fit": 1.0, "broken": ramp}
    )
    value, _, aux = run(loss_fn, step=jnp.int32(0))
    assert value == 2.25
    assert np.isnan(float(aux["raw/broken"]))  # still under the finite contract


def test_a_cap_bounds_the_value_before_its_weight():
    cap = functools.partial(soft_clamp, scale=1.0)
    value, gradient, aux = run(
        combine({"fit": fit}, weights={"fit": 3.0}, caps={"fit": cap})
    )
    np.testing.assert_allclose(value, 3 * np.tanh(2.25), rtol=1e-6)
    np.testing.assert_allclose(gradient, 3 * 3 / np.cosh(2.25) ** 2, rtol=1e-5)
    assert float(aux["raw/fit"]) == 2.25
    assert "clamp_hits/fit" not in aux


@pytest.mark.parametrize(("params", "hits"), [(2.0, 1.0), (0.75, 0.0)])
def test_a_hard_clamp_reports_its_hits(params, hits):
    cap = functools.partial(hard_clamp, low=-1.0, high=1.0)
    loss_fn = combine({"fit": fit, "size": size}, caps={"fit": cap})
    _, gradient, aux = run(loss_fn, params=params)
    assert float(aux["clamp_hits/fit"]) == hits
    assert gradient == 1.0 + (0.0 if hits else 2 * (params - 0.5))


def test_a_huge_component_no_longer_drowns_the_others_once_compressed():
    cap = functools.partial(asinh_compress, scale=1.0)
    huge = lambda p, b, k: 1e30 * p
    value, gradient, _ = run(combine({"huge": huge, "fit": fit}, caps={"huge": cap}))
    assert 70 < value < 80
    np.testing.assert_allclose(gradient, 3.0 + 1 / 2.0, rtol=1e-5)


def test_each_component_draws_its_own_noise_whatever_else_is_there():
    noise = lambda p, b, k: jax.random.normal(k) * p
    alone = run(combine({"a": noise}))[2]
    both = run(combine({"b": noise, "a": noise}))[2]
    assert float(alone["raw/a"]) == float(both["raw/a"])
    assert float(both["raw/a"]) != float(both["raw/b"])


def test_the_model_state_goes_to_those_who_take_it_and_comes_back():
    def stateful(params, batch, key, *, model_state):
        return params * model_state["mean"], {"model_state": {"mean": batch}}

    loss_fn = combine({"state": stateful, "size": size})
    value, _, aux = run(loss_fn, model_state={"mean": jnp.float32(4.0)})
    assert value == 2.0 * 4.0 + 2.0
    assert float(aux["model_state"]["mean"]) == 0.5


def test_a_model_state_that_nobody_takes_is_refused():
    with pytest.raises(TypeError, match="no term takes the model_state"):
        combine({"size": size})(ONE, ONE, KEY, model_state={})


def test_totals_nest():
    inner = weigh(
        lambda p, b, k, *, model_state: ({"fit": p**2}, {"model_state": model_state}),
        weights={"fit": ramp},
    )
    outer = combine({"inner": inner, "size": size}, weights={"inner": 3.0, "size": 1.0})
    assert outer.wants_step
    value, _, aux = run(outer, step=jnp.int32(2), model_state=ONE)
    assert value == 3 * 2 * 4.0 + 2.0
    assert (float(aux["raw/fit"]), float(aux["raw/inner"])) == (4.0, 8.0)
    assert float(aux["model_state"]) == 1.0


def test_it_compiles_once_for_all_steps():
    traces = []

    def counted(params, batch, key):
        traces.append(0)
        return params**2

    loss_fn = jax.jit(combine({"fit": counted}, weights={"fit": ramp}))
    for step in range(3):
        loss_fn(ONE, ONE, KEY, step=jnp.int32(step))
    assert len(traces) == 1


def test_it_maps_over_members_of_an_ensemble():
    loss_fn = combine({"fit": fit, "size": size})
    values, _ = jax.vmap(loss_fn, in_axes=(0, None, None))(jnp.arange(3.0), ONE, KEY)
    np.testing.assert_allclose(values, [1.0, 1.0, 3.0])


@pytest.mark.parametrize("argument", ["weights", "caps"])
def test_a_typo_is_answered_with_the_nearest_name(argument):
    given = {"fit": 1.0, "size": 1.0}
    options = {"weights": given, "caps": {}}
    options[argument] = {**options[argument], "siez": soft_clamp}
    with pytest.raises(ValueError, match=rf"{argument} .* 'siez'; did you mean 'size'"):
        combine({"fit": fit, "size": size}, **options)


def test_a_typo_of_a_shared_term_is_answered_when_first_called():
    terms = lambda p, b, k: ({"fit": p}, {})
    with pytest.raises(ValueError, match="'fti'; did you mean 'fit'"):
        weigh(terms, weights={"fti": 1.0})(ONE, ONE, KEY)
    with pytest.raises(ValueError, match=r"every term, missing \['extra'\]"):
        weigh(lambda p, b, k: ({"fit": p, "extra": p}, {}), weights={"fit": 1.0})(
            ONE, ONE, KEY
        )


def test_a_component_without_a_weight_is_refused():
    with pytest.raises(ValueError, match=r"weights must name every term.*\['size'\]"):
        combine({"fit": fit, "size": size}, weights={"fit": 1.0})


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf, True])
def test_a_weight_that_is_no_finite_size_is_refused(weight):
    with pytest.raises(ValueError, match=r"weights\['fit'\] must be in \[0, inf\)"):
        combine({"fit": fit}, weights={"fit": weight})


def test_a_total_of_nothing_is_refused():
    with pytest.raises(ValueError, match="weights must hold one that is not zero"):
        combine({"fit": fit}, weights={"fit": 0.0})


def test_a_component_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r"'fit' must be a float scalar.*\(2,\)"):
        combine({"fit": lambda p, b, k: jnp.ones(2)})(ONE, ONE, KEY)
    with pytest.raises(ValueError, match=r"'fit' must be a float scalar.*int32"):
        combine({"fit": lambda p, b, k: jnp.int32(1)})(ONE, ONE, KEY)


def test_two_reports_under_one_key_are_refused():
    with pytest.raises(ValueError, match="unique, got 'error' twice"):
        combine({"a": fit, "b": fit})(ONE, ONE, KEY)
