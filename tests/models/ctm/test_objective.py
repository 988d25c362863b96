"""The loss as a whole: what reaches what, and what is reported."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from stabjax.models.ctm.build import first_parameters
from stabjax.models.ctm.data import PAD
from stabjax.models.ctm.objective import describe, initial_state, make_loss
from stabjax.models.modules import graph_of

COMPONENTS = {"ce", "diffusion", "mcmc", "predictive", "hebbian"}


def _batch(config):
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 10, (2, config.batch, config.cells)).astype(np.int32)
    grids[:, 0, 6:] = PAD
    demos = rng.integers(0, 10, (config.batch, config.demonstrations, 2, config.cells))
    return {
        "query": grids[0],
        "target": grids[1],
        "demos": demos.astype(np.int32),
        "puzzle": np.zeros(config.batch, np.int32),
    }


@functools.cache
def _program(config):
    """The loss with its gradient, compiled once per configuration, cheaply."""
    fast = {"xla_backend_optimization_level": 0}
    return jax.jit(
        jax.value_and_grad(make_loss(config, 1), has_aux=True), compiler_options=fast
    )


def _start(config, scale):
    """Parameters with the MCMC head's last layer scaled up, and the model state."""
    params = first_parameters(config, 1)(jax.random.key(0))
    if "mcmc" in params:
        last = params["mcmc"]["last"]
        last["kernel"] = last["kernel"] * scale
    return params, initial_state(config, jax.random.key(1))


@functools.cache
def _run(config, scale=1.0):
    """Value, aux and gradients of one batch."""
    params, state = _start(config, scale)
    (value, aux), grads = _program(config)(
        params, _batch(config), jax.random.key(2), model_state=state
    )
    return float(value), aux, grads


def _shapes(config):
    """Aux and gradients as shapes: traced, not compiled."""
    params, state = _start(config, 1.0)
    function = jax.value_and_grad(make_loss(config, 1), has_aux=True)
    (_, aux), grads = jax.eval_shape(
        lambda p, b, s: function(p, b, jax.random.key(2), model_state=s),
        params, _batch(config), state,
    )  # fmt: skip
    return aux, grads


@pytest.mark.parametrize("arm", ["seed", "sound"])
def test_the_total_is_the_sum_of_finite_named_components(tiny, arms, arm):
    value, aux, grads = _run(tiny(**arms[arm]))
    weighted = {k[9:]: float(v) for k, v in aux.items() if k.startswith("weighted/")}
    assert set(weighted) == COMPONENTS
    assert {k[4:] for k in aux if k.startswith("raw/")} == COMPONENTS
    assert value == pytest.approx(sum(weighted.values()), rel=1e-5)
    scalars = {k: v for k, v in aux.items() if k != "model_state"}
    assert all(v.shape == () and bool(jnp.isfinite(v)) for v in scalars.values())
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))


def test_the_seeds_clamp_freezes_the_whole_head_and_says_so(tiny, arms):
    _, aux, grads = _run(tiny(**arms["seed"]), scale=1e6)
    assert abs(float(aux["raw/mcmc"])) > 10.0
    assert abs(float(aux["weighted/mcmc"])) == 10.0
    assert float(optax.tree.norm(grads["mcmc"])) == 0.0
    assert float(aux["mcmc_head_frozen"]) == 1.0
    assert float(aux["mcmc_head_gradient"]) == 0.0
    assert float(aux["clamp_hits/mcmc"]) == 1.0


def test_a_head_within_the_clamp_is_alive(tiny, arms):
    _, aux, grads = _run(tiny(**arms["seed"]))
    assert float(optax.tree.norm(grads["mcmc"])) > 1.0
    assert float(aux["mcmc_head_frozen"]) == 0.0
    assert float(aux["mcmc_head_gradient"]) > 1.0


@pytest.mark.slow
def test_the_original_head_is_alive_and_running_away(tiny, arms):
    _, aux, grads = _run(tiny(**arms["before"]), scale=1e6)
    assert abs(float(aux["weighted/mcmc"])) > 10.0
    assert float(optax.tree.norm(grads["mcmc"])) > 1.0
    assert float(aux["mcmc_head_frozen"]) == 0.0


@pytest.mark.parametrize(("arm", "feels"), [("sound", True), ("seed", False)])
def test_the_trunk_feels_the_mcmc_head_only_if_attached(tiny, arms, arm, feels):
    config = tiny(**arms[arm])
    assert (config.trunk == "attached") is feels
    small, large = (_run(config, scale)[2]["core"] for scale in (1.0, 30.0))
    gap = optax.tree.norm(jax.tree.map(jnp.subtract, small, large))
    assert (float(gap) > 1e-4) is feels


def test_plastic_weights_are_an_input_and_no_parameter(tiny):
    config = tiny()
    params, _ = _start(config, 1.0)
    shapes = [x.shape for x in jax.tree.leaves(params)]
    assert (config.neurons, config.neurons) not in shapes
    state = initial_state(config, jax.random.key(0))
    assert state.plastic.weights.shape == (config.neurons, config.neurons)


def test_without_an_mcmc_loss_there_is_no_head_and_no_component(tiny):
    aux, grads = _shapes(tiny(mcmc_loss="none", hebbian_step="none"))
    assert "mcmc" not in grads
    assert "raw/mcmc" not in aux
    assert "raw/ce" in aux


def test_chains_keep_their_place_between_batches(tiny, arms):
    _, aux, _ = _run(tiny(**arms["seed"]))
    moved = aux["model_state"].chains
    first = initial_state(tiny(**arms["seed"]), jax.random.key(1)).chains
    assert moved.shape == first.shape
    assert not np.array_equal(moved, first)


def test_a_state_of_another_setting_is_refused(tiny, arms):
    config = tiny(**arms["seed"])
    params, _ = _start(config, 1.0)
    state = initial_state(tiny(), jax.random.key(0))
    loss = make_loss(config, 1)
    with pytest.raises(TypeError, match="model_state must hold chains"):
        jax.eval_shape(
            lambda p, b, s: loss(p, b, jax.random.key(2), model_state=s),
            params, _batch(config), state,
        )  # fmt: skip


@pytest.mark.parametrize("changes", [
    {"synapse": "unet", "output_head": "flat", "conditioning": "puzzle"},
    {"conditioning": "none", "coupling": 0.5},
])  # fmt: skip
def test_other_shapes_of_the_machine_answer_every_cell(tiny, changes):
    config = tiny(**changes)
    params, _ = _start(config, 1.0)
    graph = graph_of(describe(config, 1))
    batch = {name: jnp.asarray(x) for name, x in _batch(config).items()}
    answer = jax.jit(lambda p, *x: nnx.merge(graph, p)(*x))(
        params, batch["query"], batch["demos"], batch["puzzle"], jnp.zeros((8, 8))
    )
    assert answer.logits.shape == (2, 4, 9, 10)
    assert bool(jnp.all(jnp.isfinite(answer.logits)))
