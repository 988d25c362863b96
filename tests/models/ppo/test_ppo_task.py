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
from stabjax.config.schema import build_guards
from stabjax.guards import metric_range, skip_nonfinite
from stabjax.health import decode
from stabjax.models.ppo import CURVES, SUMMARY, Config, build, reading
from stabjax.models.ppo.artifacts import play_episode
from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.environments import ENVIRONMENTS, make_environment
from stabjax.models.ppo.live import dead_switches
from stabjax.models.ppo.pictures import film, strip
from stabjax.models.ppo.report import health_text, notes
from stabjax.run import train
from stabjax.run.compare_arms import arms_of
from stabjax.run.records import read_lines
from stabjax.types import Alert

SMALL_RUN = {
    "environment": "cartpole", "num_envs": 4, "rollout_steps": 16, "update_epochs": 1,
    "num_minibatches": 2, "hidden": "[8]", "evaluation_episodes": 2,
}  # fmt: skip
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


def test_a_run_leaves_an_episode_in_pictures(trained):
    _, task, _, state, _ = trained
    files = task.artifacts(state)
    assert sorted(files) == ["animation.svg", "episode.svg"]
    for content in files.values():
        assert ET.fromstring(content).tag.endswith("svg")


def test_a_run_is_followed_by_the_figures_of_the_original(trained):
    config, task, _, state, rows = trained
    schema = task.train.schema(state)
    decoded = decode(
        schema,
        np.stack([np.asarray(row.floats) for row in rows]),
        np.stack([np.asarray(row.ints) for row in rows]),
    )
    text, files = task.follow(decoded)
    entries = json.loads(files["loss_metrics.json"])
    assert [entry["batch"] for entry in entries] == [0, 1, 2]
    losses = column(task, state, rows, "loss")
    np.testing.assert_allclose([e["loss"] for e in entries], losses, rtol=1e-6)
    assert entries[-1]["smoothed_loss"] == pytest.approx(np.mean(losses))
    assert {"value_loss_upright", "reward_upright"} <= set(entries[-1])
    assert entries[-1]["reward_upright"] == 1.0  # of every step
    assert text == files["health.txt"]
    assert "PPO Health Metrics" in text
    assert f"Value Loss Weight: {config.value_loss_weight}" in text


@pytest.mark.slow
def test_loss_metrics_hold_the_whole_run_also_after_a_resume(tmp_path):
    """Twelve iterations are six windows, and the run is stopped in the middle."""
    changes = [f"model.{key}={value}" for key, value in SMALL_RUN.items()]
    changes += ["train.window=2", "train.checkpoint_every=4"]
    for steps in (6, 12):
        result = train(load(CONFIG, [*changes, f"train.steps={steps}"]), tmp_path / "r")
    place = result.folder / "artifacts"
    entries = json.loads((place / "loss_metrics.json").read_text())
    assert [entry["batch"] for entry in entries] == list(range(12))
    rows = read_lines(result.folder / "health.jsonl")
    losses = [[one["loss"] for one in found] for found in (entries, rows)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert f"Policy={rows[-1]['raw/policy']:.4g} " in (place / "health.txt").read_text()


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


def watched(tiny, settings, rate, guards):
    """Return the columns, the rows and the last parameters of three iterations."""
    config = tiny(**settings)
    iteration, draw = assemble(
        config,
        make_environment(config),
        optimizer=optax.adam(rate),
        guards=guards,
        window=1,
    )
    params = draw(jax.random.key(0))
    model_state = iteration.first_model_state(params, jax.random.key(1))
    state = iteration.init(params, None, model_state=model_state)
    step, rows = in_haste(iteration.one), []
    for _ in range(3):
        state, row = step(state, {}, jax.random.key(2))
        rows.append(row)
    return state.telemetry.schema, rows, state.params


@pytest.mark.slow
def test_the_rules_of_the_original_watch_without_acting(tiny, arms):
    """The failing original trains as if nobody looked."""
    settings = arms["before"]
    guards = build_guards(load(CONFIG))
    _, _, seen = watched(tiny, settings, 1e-3, guards)
    _, _, alone = watched(tiny, settings, 1e-3, None)
    for one, other in zip(jax.tree.leaves(seen), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("arm", ["before", "sound"])
def test_the_ranges_of_losses_ring_in_the_failing_arm_alone(tiny, arms, arm):
    """At a reward scale that makes the few steps here as large as the seed's."""
    rules = [
        metric_range(metric="loss", high=1e5),
        metric_range(metric="raw/value", high=2e4),
        metric_range(metric="value_loss_largest", high=1e4),
    ]
    settings = arms[arm] | {"reward_scale": 100.0}
    schema, rows, _ = watched(tiny, settings, 1e-4, rules)
    rang = [
        any(int(row.ints[schema.ints.index(column)]) for row in rows)
        for column, subject in schema.subjects
        if column.startswith("metric_range")
    ]
    assert rang == [arm == "before"] * 3


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
