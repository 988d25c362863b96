"""What no gradient can reach is found from the structure, before any training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratics import KEY, MODEL_STATE, params_of, quadratic_loss, stateful_terms

from stabjax.loss_transforms import (
    LOSS_TRANSFORMS,
    component_gradient_norms,
    disconnected,
    drop_nonfinite_component,
    grad_norm,
    pcgrad,
)
from stabjax.losses import combine, weigh

NODES, WINDOW, BATCH = 5, 3, 4
GRAPH = ["adjacency", "encoder", "decoder"]


def graph_params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "adjacency": 0.1 * draw(NODES, NODES),
        "encoder": {"signal": draw(NODES, 4), "noise": draw(NODES, 4)},
        "decoder": {"hidden": draw(8, 6), "out": draw(6, NODES)},
    }


def graph_batch():
    shape = (BATCH, WINDOW, NODES)
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def chosen_edges(logits, kept=6):
    """The largest logits as probabilities, the others exactly zero."""
    limit = jnp.sort(logits.ravel())[-kept]
    return jnp.where(logits >= limit, jax.nn.sigmoid(logits), 0.0)


def graph_terms(uses_graph):
    """The four losses of seed 001; there the adjacency never enters the decoder."""

    def terms(params, batch, key):
        edges = chosen_edges(params["adjacency"])
        signal = jax.nn.relu(batch @ params["encoder"]["signal"])
        noise = jax.nn.relu(batch @ params["encoder"]["noise"])
        latent = jnp.concatenate([signal, noise], axis=-1)
        hidden = jax.nn.relu(latent @ params["decoder"]["hidden"])
        decoded = hidden @ params["decoder"]["out"]
        if uses_graph:
            decoded = decoded + batch @ edges
        scaled = jnp.eye(NODES) + edges / NODES
        power = scaled @ scaled @ scaled
        cross = signal.reshape(-1, 4).T @ noise.reshape(-1, 4)
        return {
            "reconstruction": jnp.mean((decoded - batch) ** 2),
            "sparsity": jnp.mean(jnp.abs(edges)),
            "acyclicity": jax.nn.relu(jnp.trace(power) - NODES),
            "disentanglement": jnp.mean(jnp.abs(cross)),
        }, {"edges": jnp.sum(edges > 0).astype(jnp.float32)}

    return weigh(
        terms,
        weights={
            "reconstruction": 10.0,
            "sparsity": 1e-4,
            "acyclicity": 1e-5,
            "disentanglement": 1e-4,
        },
    )


FAILURE = [
    ("reconstruction", "adjacency"),
    ("sparsity", "encoder"),
    ("sparsity", "decoder"),
    ("acyclicity", "encoder"),
    ("acyclicity", "decoder"),
    ("disentanglement", "adjacency"),
    ("disentanglement", "decoder"),
]


def test_the_graph_of_seed_001_is_found_to_be_cut_off_from_the_data():
    found = disconnected(graph_terms(False), graph_params(), graph_batch(), KEY, GRAPH)
    assert found == FAILURE


def test_with_the_graph_in_the_decoder_the_data_reaches_it():
    found = disconnected(graph_terms(True), graph_params(), graph_batch(), KEY, GRAPH)
    assert found == FAILURE[1:]


def test_the_gradient_of_each_pair_found_is_zero_and_of_no_other():
    loss_fn = component_gradient_norms(graph_terms(False), GRAPH)
    _, aux = jax.jit(loss_fn)(graph_params(), graph_batch(), KEY)
    flagged = {n for n in aux if n.startswith("disconnected/")}
    assert flagged == {f"disconnected/{name}/{group}" for name, group in FAILURE}
    assert float(aux["disconnected"]) == len(FAILURE)
    for name in graph_terms(False).weights:
        for group in GRAPH:
            cut_off = (name, group) in FAILURE
            assert (float(aux[f"gradient/{name}/{group}"]) == 0.0) == cut_off


@pytest.mark.parametrize("wrap", [drop_nonfinite_component, component_gradient_norms])
def test_it_sees_through_transforms_with_a_backward_pass_of_their_own(wrap):
    loss_fn = wrap(graph_terms(False))
    found = disconnected(loss_fn, graph_params(), graph_batch(), KEY, GRAPH)
    assert found == FAILURE


def test_a_projection_connects_what_it_mixes():
    # A component is projected off the gradients of others, wherever they point.
    loss_fn = pcgrad(graph_terms(False))
    assert disconnected(loss_fn, graph_params(), graph_batch(), KEY, GRAPH) == []


CUTS = {
    "stop_gradient": jax.lax.stop_gradient,
    "rounding": jnp.round,
    "an index": lambda w: jnp.argmax(w).astype(jnp.float32),
    "a comparison": lambda w: (w > 0).astype(jnp.float32),
    "its sign": jnp.sign,
}
LINKS = {
    "itself": lambda w: w,
    "a mask of zeros": lambda w: w * jnp.zeros_like(w),
    "a branch": lambda w: jax.lax.cond(w[0] > 0, lambda v: v, jnp.zeros_like, w),
    "a compiled function": jax.jit(lambda w: 2.0 * w),
    "a rematerialized function": jax.checkpoint(jnp.sin),
    "a loop": lambda w: jax.lax.scan(lambda c, _: (c + w, None), w, None, length=2)[0],
}


def used_by(function):
    """Two components that share a compiled loop; only one may reach ``gate``."""

    def terms(params, batch, key):
        gate = function(params["gate"])

        @jax.jit
        def both(main, gate):
            step = lambda c, _: ((c[0] * 0.5 + main, c[1] + gate), None)
            start = (jnp.zeros(2), jnp.zeros(jnp.shape(gate)))
            return jax.lax.scan(step, start, None, length=3)[0]

        main, gate = both(params["main"], gate)
        return {"main": jnp.sum(main), "gated": jnp.sum(main) * jnp.sum(gate)}, {}

    return weigh(terms, weights={"main": 1.0, "gated": 1.0})


GATED = {"gate": jnp.ones(2), "main": jnp.ones(2)}


@pytest.mark.parametrize("kind", CUTS)
def test_a_path_through_which_no_gradient_flows_is_no_path(kind):
    found = disconnected(used_by(CUTS[kind]), GATED, None, KEY, ["gate", "main"])
    assert found == [("main", "gate"), ("gated", "gate")]


@pytest.mark.parametrize("kind", LINKS)
def test_a_path_is_a_path_even_if_its_gradient_is_zero_in_numbers(kind):
    found = disconnected(used_by(LINKS[kind]), GATED, None, KEY, ["gate", "main"])
    assert found == [("main", "gate")]


def test_shapes_are_enough_and_nothing_is_computed():
    shapes = jax.eval_shape(graph_params)
    batch = jax.eval_shape(graph_batch)
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert disconnected(graph_terms(False), shapes, batch, key, GRAPH) == FAILURE


def test_a_stateful_loss_with_a_schedule_is_examined_too():
    weights = {"fit": lambda step: 1.0 * step, "flow": 1.0, "size": 1.0}
    loss_fn = grad_norm(weigh(stateful_terms, weights=weights))
    found = disconnected(
        loss_fn,
        params_of(),
        jnp.float32(1.0),
        KEY,
        ["head"],
        model_state=loss_fn.init_model_state(MODEL_STATE),
        step=jnp.int32(1),
    )
    assert found == []


def test_leaves_under_no_prefix_are_the_rest():
    loss_fn = combine({"fit": lambda p, b, k: jnp.sum(p["a"]["x"])})
    params = {"a": {"x": jnp.ones(1), "y": jnp.ones(1)}, "b": jnp.ones(1)}
    assert disconnected(loss_fn, params, None, KEY) == []
    assert disconnected(loss_fn, params, None, KEY, ["a"]) == [("fit", "rest")]
    assert disconnected(loss_fn, params, None, KEY, ["a", "a/y"]) == [
        ("fit", "a/y"),
        ("fit", "rest"),
    ]


@pytest.mark.parametrize("groups", ["head", ["head", "head"], ["rest"]])
def test_groups_that_are_no_distinct_prefixes_are_refused(groups):
    with pytest.raises(ValueError, match=r"groups must be (distinct|a list)"):
        component_gradient_norms(quadratic_loss(), groups)


def test_a_prefix_that_fits_no_parameter_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"under 'haed'\. Did you mean 'head'"):
        disconnected(quadratic_loss(), params_of(), jnp.float32(1.0), KEY, ["haed"])


def test_it_is_no_transform_of_the_registry():
    assert "disconnected" not in LOSS_TRANSFORMS
