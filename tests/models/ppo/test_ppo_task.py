"""From a YAML to arms that can be trained, scores, files and sentences."""

import json
import pathlib
import xml.etree.ElementTree as ET

import jax
import numpy as np
import optax
import pytest
from ppo_haste import in_haste

from stabjax.config import load
from stabjax.guards import metric_range, skip_nonfinite
from stabjax.models.ppo import CURVES, SUMMARY, Config, build, reading
from stabjax.models.ppo.artifacts import play_episode
from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.environments import ENVIRONMENTS, make_environment
from stabjax.models.ppo.live import dead_switches
from stabjax.models.ppo.pictures import film, strip
from stabjax.models.ppo.report import health_text, notes
from stabjax.run.compare_arms import arms_of
from stabjax.types import Alert

CONFIG = pathlib.Path(__file__).parents[3] / "configs" / "ppo_cpu.yaml"


@pytest.fixture(scope="module")
def trained(tiny):
    """Three iterations of the batch whose first rollout is kept for ever."""
    config = tiny(environment="cartpole", mode="single_batch", target_kl=None)
    task = build(
        config,
        optimizer=optax.adam(1e-2),
        guards=(
            skip_nonfinite(),
            metric_range(metric="success_rate", low=0.5, patience=4),
        ),
        window=4,
        seed=0,
    )
    first = state = task.init(jax.random.key(0))
    step, rows = in_haste(task.train.step.__wrapped__), []
    for position in range(3):
        state, row = step(state, task.batch_at(position), jax.random.key(1))
        rows.append(row)
    return config, task, first, state, rows


def column(task, state, rows, name):
    schema = task.train.schema(state)
    if name in schema.ints:
        return [int(row.ints[schema.ints.index(name)]) for row in rows]
    return [float(row.floats[schema.floats.index(name)]) for row in rows]


def test_a_single_batch_is_learned_by_heart(trained):
    _, task, first, state, rows = trained
    losses = column(task, state, rows, "raw/value")
    assert losses[-1] < losses[0]
    kept, now = first.model_state, state.model_state
    for before, after in zip(
        jax.tree.leaves((kept.environments, kept.frozen)),
        jax.tree.leaves((now.environments, now.frozen)),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)


def test_a_health_range_becomes_an_alert(trained):
    _, task, _, state, rows = trained
    alerts = column(task, state, rows, "alerts")
    assert all(bits & int(Alert.OUT_OF_RANGE) for bits in alerts)


def test_every_shown_column_is_in_the_telemetry_or_the_scores(trained):
    _, task, _, state, _ = trained
    schema = task.train.schema(state)
    known = {*schema.floats, *schema.ints}
    scores = task.evaluate(state)
    assert {s.column for s in SUMMARY if s.reduce == "eval"} <= set(scores)
    assert {s.column for s in SUMMARY if s.reduce != "eval"} <= known
    assert set(CURVES) <= known
    assert 1.0 <= scores["eval_reward"] == scores["eval_length"] <= 500.0


def test_a_run_leaves_an_episode_and_the_figures_of_the_original(trained):
    config, task, _, state, rows = trained
    files = task.artifacts(state)
    assert sorted(files) == [
        "animation.svg", "episode.svg", "health.txt", "loss_metrics.json",
    ]  # fmt: skip
    for name in ("episode.svg", "animation.svg"):
        assert ET.fromstring(files[name]).tag.endswith("svg")
    entries = json.loads(files["loss_metrics.json"])
    assert [entry["batch"] for entry in entries] == [0, 1, 2]
    losses = column(task, state, rows, "loss")
    np.testing.assert_allclose([e["loss"] for e in entries], losses, rtol=1e-6)
    assert entries[-1]["smoothed_loss"] == pytest.approx(np.mean(losses))
    assert "PPO Health Metrics" in files["health.txt"]
    assert f"Value Loss Weight: {config.value_loss_weight}" in files["health.txt"]


# The third is drawn by the run above.
@pytest.mark.parametrize("name", sorted(set(ENVIRONMENTS) - {"cartpole"}))
def test_every_environment_can_be_drawn(name, tiny):
    config = tiny(environment=name)
    vector = make_environment(config)
    iteration, draw = assemble(
        config, vector, optimizer=optax.adam(1e-3), guards=(), window=1
    )
    states = play_episode(vector.of, iteration.apply, draw(jax.random.key(0)))
    assert 1 <= len(states) <= vector.of.horizon
    assert strip(vector.of, states).count("<title>") == 1
    moving = film(vector.of, states)
    assert moving.count("@keyframes turn") == 1
    assert 'id="frame0-0"' in moving
    ET.fromstring(moving)


def test_the_notes_of_the_original_are_printed_as_it_printed_them(arms):
    lines = notes(Config(**arms["seed"]))
    assert lines[:2] == [
        "Using relative value clipping: ±20.0% of old value",
        "Return normalization enabled (scale=10.0)",
    ]
    assert "its weight is 25." in lines[2]
    assert any("raw units" in line for line in lines)
    assert notes(Config(**arms["before"]))[0].startswith("Warning")
    of = make_environment(Config()).of
    assert health_text(Config(), of, []).startswith("Return normalization")


def test_the_keys_of_the_original_are_taken_as_they_are():
    """The block of its configuration file, with the loss weight of its text."""
    config = Config(
        enable_value_clipping=True,
        value_clip_epsilon=0.2,
        use_relative_value_clip=True,
        normalize_returns=True,
        return_scale=10.0,
        value_loss_weight=0.25,
        max_grad_norm=0.5,
    )
    assert config.value_clip == "sound"
    as_written = config.model_copy(update={"relative_value_clip": "seed"})
    assert as_written.value_clip == "seed"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_minibatches": 7}, "num_minibatches must divide"),
        ({"gamma": 1.5}, "gamma"),
        ({"value_clip_epsilon": 0.0}, "value_clip_epsilon"),
        ({"return_normalization": "popart"}, "return_normalization"),
        ({"use_relative_clip": True}, "use_relative_clip"),
    ],
)
def test_a_configuration_out_of_range_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Config(**changes)


def test_every_shipped_arm_is_a_configuration():
    arms = arms_of(load(CONFIG), (0,), ablate=True)
    assert {"before", "seed", "sound", "apply_if_finite"} <= {a.name for a in arms}


@pytest.mark.slow
def test_every_shipped_arm_is_live():
    config = load(CONFIG)
    of = make_environment(config.model).of
    for arm in arms_of(config, (0,), ablate=True):
        assert dead_switches(arm.configs[0].model.model_dump_json(), of) == ()


def cell(value):
    return {"median": value, "min": value, "max": value}


def test_the_reading_names_a_cosmetic_fix_and_a_starved_policy():
    def row(reward, known, own, share, ratio=0.0):
        return {
            "episode reward, last 5": cell(reward),
            "explained variance": cell(known),
            "explained variance, own unit": cell(own),
            "share of values in the trunk": cell(share),
            "first log ratio, largest": cell(ratio),
        }

    sentences = reading(
        {
            "before": row(600.0, 0.0, 0.0, 0.9999),
            "seed": row(1000.0, 0.0, 0.4, 0.98),
            "sound": row(1500.0, 0.86, 0.86, 0.6),
            "odd": row(30.0, 0.3, 0.3, 0.6, ratio=4.0),
        }
    )
    text = "\n".join(sentences)
    assert (
        "seed: the critic explains 0.00 of the returns it judges by, but 0.40" in text
    )
    assert "before: values make 99.99% of what the shared trunk is pulled by" in text
    assert "sound: episode reward 1500, 2.50 times that of before (600)" in text
    assert "odd: the critic explains 0.30 of the returns, which misses" in text
    assert "odd: in the first minibatch" in text
    assert "sound: in the first minibatch" not in text
    nothing = row(*[float("nan")] * 5)
    assert reading({"before": nothing, "sound": nothing}) == []
    assert reading({}) == []
