"""From YAML-like settings to trained steps on muon bundles."""

import pathlib

import jax
import numpy as np
import optax
import pytest
import yaml
from gan_players import BEFORE, SGD, TINY

from stabjax import guards
from stabjax.config import load
from stabjax.models.gan import CURVES, SUMMARY, build
from stabjax.models.gan.build import first_parameters
from stabjax.models.gan.config import Config
from stabjax.models.gan.data import load_data
from stabjax.models.gan.evaluation import judged_parameters
from stabjax.models.gan.events import Events
from stabjax.models.gan.objective import initial_state, make_loss
from stabjax.run.compare_arms import arms_of
from stabjax.types import Alert

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
WATCH = (
    guards.clip_by_group_norm(max_norm=10.0, groups=("generator", "critic", "count")),
    guards.saturation(metric="fakes_without_slope", patience=1),
    guards.empty_set(metric="fake_particles"),
    guards.sentinel(metric="pooled_min", value=-1e9),
)


def task_of(config, **changes):
    options = {
        "optimizer": optax.adam(2e-3, b1=0.0, b2=0.9),
        "guards": WATCH,
        "window": 8,
        "seed": 0,
    }
    return build(config, **(options | changes))


@pytest.fixture(scope="module")
def trained():
    """Forty steps of the sound game, and its rows of telemetry by column.

    Without the penalty, whose second backward pass is half of the compilation.
    """
    task = task_of(Config(**TINY, gradient_penalty="none"))
    state = task.init(jax.random.key(0))
    schema, rows = task.train.schema(state), []
    for position in range(40):
        before = jax.device_get((state.params, state.opt_state))
        state, row = task.train.step(state, task.batch_at(position), jax.random.key(1))
        rows.append(
            dict(zip(schema.floats, np.asarray(row.floats), strict=True))
            | dict(zip(schema.ints, np.asarray(row.ints), strict=True))
            | {"moved": moved(before, jax.device_get((state.params, state.opt_state)))}
        )
    return task, state, rows


def moved(before, after):
    """Return whose parameters and whose optimizer have changed."""
    params = {
        name: any(
            np.any(a != b)
            for a, b in zip(
                jax.tree.leaves(before[0][name]),
                jax.tree.leaves(after[0][name]),
                strict=True,
            )
        )
        for name in before[0]
    }
    counts = [
        int(optax.tree.get_all_with_path(s[1].inner_states["generator"], "count")[0][1])
        for s in (before, after)
    ]
    return params | {"generator's optimizer": counts[0] != counts[1]}


def test_the_generator_moves_every_second_step_and_its_optimizer_with_it(trained):
    _, _, rows = trained
    for position, row in enumerate(rows):
        turn = position % 2 == 1
        assert row["accepted"] == 1
        assert row["moved"]["critic"]
        assert row["moved"]["count"]
        assert row["moved"]["generator"] == turn
        assert row["moved"]["generator's optimizer"] == turn
        assert row["generator_turn"] == turn
        # Between two turns the norm is that of the last.
        assert np.isfinite(row["gradient/generator"]) == (position > 0)


def test_in_the_sound_game_nothing_is_empty_flat_or_a_sentinel(trained):
    _, _, rows = trained
    for row in rows:
        assert row["fake_particles"] > 0
        assert row["empty_fakes"] == row["fakes_at_bound"] == 0.0
        assert row["alerts"] & ~int(Alert.CLIPPED) == 0
    assert rows[1]["gradient/generator"] > 0.0
    first, last = (
        np.mean([r["raw/count"] for r in part]) for part in (rows[:5], rows[-5:])
    )
    assert last < first


def test_the_average_lags_behind_the_generator_and_is_what_is_judged(trained):
    _, state, _ = trained
    average = state.model_state.average
    judged = judged_parameters(state.params, average)
    assert judged["generator"] is average
    assert judged["critic"] is state.params["critic"]
    differs = [
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(
            jax.tree.leaves(average),
            jax.tree.leaves(state.params["generator"]),
            strict=True,
        )
    ]
    assert any(differs)
    assert int(state.model_state.applied) == 40
    assert judged_parameters(state.params, ()) is state.params


def test_evaluation_and_pictures_are_those_that_the_page_shows(trained):
    task, state, rows = trained
    scores = task.evaluate(state)
    assert {s.column for s in SUMMARY if s.reduce == "eval"} <= set(scores)
    assert scores["w1_particles_floor"] < scores["w1_particles"] < 10.0
    assert scores["empty"] == 0.0
    assert scores["w1_over_floor"] == (
        scores["w1_particles"] / scores["w1_particles_floor"]
    )
    shown = {s.column for s in SUMMARY if s.reduce != "eval"} | set(CURVES)
    assert shown <= set(rows[0])
    pictures = task.artifacts(state)
    assert set(pictures) == {"events.svg", "spectra.svg"}


def test_a_refused_step_moves_neither_the_average_nor_the_turn(trained):
    task, state, _ = trained
    before = jax.device_get(state.model_state)
    broken = jax.tree.map(lambda x: x.copy(), state)
    nothing = task.batch_at(0)
    nothing = Events(nothing.particles * np.nan, nothing.mask, nothing.condition)
    after, row = task.train.step(broken, nothing, jax.random.key(1))
    assert row.ints[task.train.schema(state).ints.index("accepted")] == 0
    jax.tree.map(
        np.testing.assert_array_equal, before, jax.device_get(after.model_state)
    )


def test_the_three_samples_share_no_event_and_have_one_scaling():
    data = load_data(Config(**(TINY | {"features": "seed"})))
    assert (len(data.train.mask), len(data.real.mask)) == (1000, 500)
    samples = (data.train, data.real, data.reference)
    found = np.concatenate([s.condition for s in samples])
    assert len(np.unique(found, axis=0)) == len(found) == 2000
    assert data.minimum == 1


@pytest.mark.slow
def test_the_original_raises_three_alerts_at_step_0_and_halts_after_ten():
    task = task_of(Config(**BEFORE), optimizer=SGD, window=16)
    state = task.init(jax.random.key(0))
    schema = task.train.schema(state)
    first = None
    for position in range(12):
        state, row = task.train.step(state, task.batch_at(position), jax.random.key(1))
        first = row if first is None else first
    alerts = int(first.ints[schema.ints.index("alerts")])
    assert alerts == Alert.SATURATED | Alert.EMPTY | Alert.SENTINEL
    assert int(first.ints[schema.ints.index("accepted")]) == 0
    assert int(row.ints[schema.ints.index("halted")]) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score_bound": "tanh"}, "score_bound"),
        ({"critic_steps": 0}, "critic_steps"),
        ({"source": "muons"}, "source"),
        ({"average": 1.0}, "average"),
        ({"criticsteps": 2}, "criticsteps"),
    ],
)
def test_a_configuration_out_of_range_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Config(**changes)


def test_every_arm_and_every_single_fix_is_a_configuration():
    arms = arms_of(load(CONFIGS / "gan_cpu.yaml"), (0,), ablate=True)
    models = {arm.name: arm.configs[0].model for arm in arms}
    assert {"before", "seed", "sound", "apply_if_finite"} <= set(models)
    differs = {
        name: sum(
            a != b
            for a, b in zip(
                model.model_dump().values(),
                models["before"].model_dump().values(),
                strict=True,
            )
        )
        for name, model in models.items()
    }
    assert differs["before"] == differs["apply_if_finite"] == differs["adam"] == 0
    assert differs["seed"] == 4  # the fifth fix is the optimizer
    single = ("layer_norm", "xavier", "tanh", "gradient_monitor", "real_counts")
    assert all(differs[name] == 1 for name in single)
    # The original of the tests is that of the configuration, but for sizes.
    sizes = {n for n in TINY if n in BEFORE} | {"capacity", "batch"}
    for name, value in BEFORE.items():
        if name not in sizes:
            assert getattr(models["before"], name) == value


@pytest.mark.parametrize("name", ["gan_cpu", "gan_gpu"])
def test_the_shipped_configurations_trace(name):
    """The one for a GPU is only traced: it holds no value and compiles nothing."""
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]
    assert settings.pop("name") == "gan"
    config = Config(**settings)
    conditions = 2 if config.source == "jets" else 4
    params = jax.eval_shape(first_parameters(config, conditions, 3), jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(params))
    low, high = {"gan_cpu": (2e4, 1e5), "gan_gpu": (2e5, 1e6)}[name]
    assert low < size < high
    loss = make_loss(config, conditions=conditions, features=3, minimum=1)
    batch = Events(
        jax.ShapeDtypeStruct((config.batch, config.capacity, 3), np.float32),
        jax.ShapeDtypeStruct((config.batch, config.capacity), np.bool_),
        jax.ShapeDtypeStruct((config.batch, conditions), np.float32),
    )
    value, aux = jax.eval_shape(
        lambda p, b: loss(
            p, b, jax.random.key(0), model_state=initial_state(config, p)
        ),
        params,
        batch,
    )
    assert value.shape == aux["gradient/generator"].shape == ()


@pytest.mark.slow
def test_the_options_that_no_arm_uses_train_too():
    options = {
        "fake_counts": "predicted",
        "spectral_norm": True,
        "gradient_penalty": "particle",
        "critic_norm": "none",
        "score_bound": "seed",
        "critic_steps": 1,
    }
    task = task_of(Config(**TINY, **options))
    state = task.init(jax.random.key(0))
    columns = task.train.schema(state).floats
    for position in range(5):
        state, row = task.train.step(state, task.batch_at(position), jax.random.key(1))
        seen = dict(zip(columns, np.asarray(row.floats), strict=True))
        assert seen["generator_turn"] == 1.0
        assert seen["gradient/generator"] > 0.0
        assert seen["gradient_penalty"] > 0.0
        assert seen["fake_particles"] >= 16.0  # at least one in each of 16 events
