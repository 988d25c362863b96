"""The structural decoder as a task: what it sees, how it is judged, what it leaves."""

import jax
import networkx
import numpy as np
import optax
import pytest

from stabjax import guards
from stabjax.models.causal.config import Config
from stabjax.models.causal.data_config import Data
from stabjax.models.causal.dataset import load_dataset
from stabjax.models.causal.structural_config import Structural
from stabjax.models.causal.structural_data import load_rows, structural_batch
from stabjax.models.causal.structural_task import build_structural


def config(*, missing=0.05, rows=600, **structural):
    return Config(
        data=Data(
            nodes=6, edges_per_node=1, window=4, rows=rows, missing_share=missing
        ),
        structural=Structural(**{"stage_steps": 30, "threshold": 0.1} | structural),
    )


def task_of(settings, chosen=()):
    data = load_dataset(settings, seed=0)
    task = build_structural(
        settings,
        data,
        optimizer=optax.adam(0.02, b1=0.99),
        guards=chosen,
        window=10,
        seed=0,
    )
    return data, task


@pytest.fixture(scope="module")
def trained():
    data, task = task_of(config())
    state, key = task.init(jax.random.key(0)), jax.random.key(1)
    start = task.evaluate(state)
    for position in range(120):
        state, _ = task.train.step(state, task.batch_at(position), key)
    return data, task, state, start, task.evaluate(state)


def test_training_finds_edges_that_explain_rows_it_never_saw(trained):
    _, _, _, start, scores = trained
    assert scores["shd"] <= 2 < scores["empty_shd"]
    assert scores["val_gain"] > 0.5
    assert scores["val_r2"] > 0.2
    assert scores["gradient_edges"] > start["gradient_edges"] == 0.0
    assert scores["varsortability"] == 0.5  # the scale gives nothing away
    for name in ("sortnregress_shd", "chance_shd", "auroc", "auprc", "refused_steps"):
        assert np.isfinite(scores[name])


def test_the_graph_is_left_as_files_and_is_acyclic(trained):
    data, task, state, _, scores = trained
    assert task.artifacts is not None
    files = task.artifacts(state)
    graph = networkx.parse_graphml(files["graph.graphml"])
    assert networkx.is_directed_acyclic_graph(graph)
    assert graph.number_of_edges() == scores["edges"]
    assert [graph.nodes[n]["label"] for n in graph.nodes] == list(data.names)


def test_without_a_truth_the_likelihood_of_held_out_rows_is_what_is_left():
    settings = config(missing=0.0, score="evlog")
    data, task = task_of(settings)
    blind = build_structural(
        settings,
        data.__class__(**{**vars(data), "truth": None}),
        optimizer=optax.adam(0.02),
        guards=(),
        window=10,
        seed=0,
    )
    scores = blind.evaluate(blind.init(jax.random.key(0)))
    assert "shd" not in scores
    assert np.isfinite(scores["val_gain"])
    assert set(task.batch_at(0)) == {"moments"}


def test_lags_come_from_the_rows_before_within_the_part():
    settings = config(lags=2)
    data = load_dataset(settings, seed=0)
    rows = load_rows(data, "validation", 2)
    plain = load_rows(data, "validation", 0)
    assert len(rows.values) == len(plain.values) - 2
    np.testing.assert_array_equal(rows.values, plain.values[2:])
    np.testing.assert_array_equal(rows.past[:, 0], plain.values[1:-1])
    np.testing.assert_array_equal(rows.past[:, 1], plain.values[:-2])


def test_drawn_rows_are_a_pure_function_of_seed_and_position():
    settings = config(rows_per_step=32)
    rows = load_rows(load_dataset(settings, seed=0), "train", 0)

    def batch(seed, position):
        return structural_batch(
            rows, settings.structural, seed=seed, position=position
        )["values"]

    assert batch(0, 3).shape == (32, 6)
    np.testing.assert_array_equal(batch(0, 3), batch(0, 3))
    assert not np.array_equal(batch(0, 3), batch(0, 4))
    assert not np.array_equal(batch(0, 3), batch(1, 3))


def test_too_many_lags_for_the_table_are_refused():
    settings = config(rows=60, lags=50)
    with pytest.raises(ValueError, match="load_rows: the train part must have two"):
        load_rows(load_dataset(settings, seed=0), "train", 50)


def test_the_guards_of_a_run_are_kept_and_a_back_off_is_added():
    _, task = task_of(config(), [guards.skip_nonfinite(max_consecutive=50)])
    state = task.init(jax.random.key(0))
    columns = task.train.schema(state).floats
    assert "back_off/scale" in columns
    _, task = task_of(config(), [guards.back_off(factor=0.25)])
    columns = task.train.schema(task.init(jax.random.key(0))).floats
    assert columns.count("back_off/scale") == 1
