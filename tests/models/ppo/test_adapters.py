"""Environments of other packages; each test needs its package."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ppo_haste import in_haste

from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environments import make_environment
from stabjax.models.ppo.episodes import empty_log, episode_metrics, logged
from stabjax.models.ppo.evaluation import make_evaluation
from stabjax.models.ppo.network import Answer
from stabjax.train_step import TrainState


def walk(name, steps, **settings):
    config = Config(environment=name, num_envs=2, **settings)
    vector = make_environment(config)
    state = in_haste(vector.reset)(jax.random.split(jax.random.key(0), 2))
    size = vector.of.actions.size

    def act(state, keys):
        drawn = jnp.arange(2)
        discrete = vector.of.actions.kind == "discrete"
        action = drawn % size if discrete else 0.1 * jnp.ones((2, size))
        return vector.step(keys, state, action)

    keys = jax.random.split(jax.random.key(1), (steps, 2, 2))
    _, taken = in_haste(lambda s, k: jax.lax.scan(act, s, k))(state, keys)
    return vector, jax.device_get(taken)


@pytest.fixture(scope="module")
def corridors():
    """Register corridors of four steps: go right (1) all the way and succeed."""
    gymnasium = pytest.importorskip("gymnasium")
    spaces = gymnasium.spaces

    class Corridor(gymnasium.Env):
        observation_space = spaces.Box(0.0, 4.0, (1,), np.float32)
        action_space = spaces.Discrete(2)

        def __init__(self, tells=True):
            self.tells = tells

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = self.time = 0
            return self.seen(), {}

        def seen(self):
            return np.array([self.place], np.float32)

        def step(self, action):
            self.place += int(action)
            self.time += 1
            over = self.time == 4
            info = {"is_success": self.place == 4} if over and self.tells else {}
            return self.seen(), float(action), over, False, info

    class Dictionary(Corridor):
        observation_space = spaces.Dict({"place": Corridor.observation_space})

        def seen(self):
            return {"place": super().seen()}

    made = {"Corridor-v0": Corridor, "Dictionary-v0": Dictionary}
    for name, entry in made.items():
        gymnasium.register(name, entry_point=entry, max_episode_steps=10)
    gymnasium.register(
        "Silent-v0", entry_point=Corridor, kwargs={"tells": False}, max_episode_steps=10
    )
    yield
    for name in (*made, "Silent-v0"):
        gymnasium.registry.pop(name)


def scores(name, bias, tiny):
    """Evaluate a policy that always goes right (bias > 0), or never."""
    config = tiny(environment=f"gymnasium:{name}", reward_scale=2.0)
    vector = make_environment(config)

    def apply(params, seen):
        logits = jnp.stack([jnp.zeros(len(seen)), params * jnp.ones(len(seen))], -1)
        return Answer(logits, jnp.zeros(0), jnp.zeros((len(seen), 1)))

    rest = dict.fromkeys(TrainState._fields)
    state = TrainState(**(rest | {"params": jnp.float32(bias)}))
    return make_evaluation(config, vector, apply, 0)(state)


def test_an_environment_on_the_host_is_scored(corridors, tiny):
    right, never = (scores("Corridor-v0", bias, tiny) for bias in (1.0, -1.0))
    assert right == {
        "eval_reward": 8.0, "eval_reward_std": 0.0, "eval_length": 4.0,
        "eval_success_rate": 1.0,
    }  # fmt: skip
    assert (never["eval_reward"], never["eval_success_rate"]) == (0.0, 0.0)
    assert np.isnan(scores("Silent-v0", 1.0, tiny)["eval_success_rate"])


@pytest.mark.parametrize(("name", "tells"), [("Corridor-v0", True), ("Silent-v0", 0)])
def test_success_is_what_the_environment_says(corridors, name, tells):
    vector, taken = walk(f"gymnasium:{name}", 8)
    assert vector.of.tells_success == tells
    # The first of the two always goes left, the second right.
    np.testing.assert_array_equal(taken.step.success[[3, 7]], [[False, tells]] * 2)
    log = logged(empty_log(), jax.tree.map(jnp.asarray, taken))
    rate = episode_metrics(log, vector.of)["success_rate"]
    np.testing.assert_array_equal(rate, 0.5 if tells else np.nan)


def test_observations_of_many_parts_are_refused_when_the_task_is_built(corridors):
    config = Config(environment="gymnasium:Dictionary-v0", num_envs=2)
    with pytest.raises(ValueError, match=r"Dictionary-v0 must be one array, got Dict"):
        make_environment(config)


@pytest.mark.slow
def test_minatar_comes_through_gymnax():
    pytest.importorskip("gymnax")
    vector, taken = walk("gymnax:Breakout-MinAtar", 60)
    assert vector.of.features == 400
    assert taken.step.observation.shape == (60, 2, 400)
    assert np.any(taken.step.terminated)
    assert np.all(np.isfinite(taken.step.rewards))
    assert not vector.of.tells_success


def test_gymnasium_steps_on_the_host_and_reports_where_episodes_end():
    gymnasium = pytest.importorskip("gymnasium")
    vector, taken = walk("gymnasium:CartPole-v1", 40)
    assert not vector.pure
    assert vector.of.components == ("reward",)
    ended = np.flatnonzero(taken.step.terminated[:, 0])
    assert len(ended) >= 2
    # It ends beyond the limits of the pole, which no start is.
    assert np.all(np.abs(taken.step.observation[ended, 0, 2]) > 0.2)
    lengths = taken.length[ended, 0]
    np.testing.assert_array_equal(np.diff([-1, *ended]), lengths)
    np.testing.assert_array_equal(taken.total[ended, 0], lengths)
    env = gymnasium.make("CartPole-v1")
    assert vector.of.horizon == env.spec.max_episode_steps


def test_after_a_way_back_the_host_cuts_its_episodes_off():
    pytest.importorskip("gymnasium")
    vector = make_environment(Config(environment="gymnasium:CartPole-v1", num_envs=2))
    state = vector.reset(jax.random.split(jax.random.key(0), 2))
    actions = jnp.zeros((2,), jnp.int32)
    keys = jax.random.split(jax.random.key(1), (2, 2))
    later, taken = vector.step(keys, state, actions)
    assert not np.any(taken.step.truncated)
    back, taken = vector.step(keys, state, actions)  # the host is elsewhere by now
    assert np.all(taken.step.truncated)
    assert not np.any(taken.step.terminated)
    np.testing.assert_array_equal(taken.step.observation, state.observation)
    assert not np.any(taken.step.rewards)
    _, taken = vector.step(keys, back, actions)
    assert not np.any(taken.step.truncated)
    assert np.all(np.asarray(later.length) == 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["gymnax:Breakout-MinAtar", "gymnax:Pendulum-v1", "gymnasium:Pendulum-v1"],
)
def test_an_iteration_trains_on_it(name, tiny):
    pytest.importorskip(name.split(":")[0])
    config = tiny(environment=name, rollout_steps=210)  # longer than an episode
    vector = make_environment(config)
    iteration, draw = assemble(
        config, vector, optimizer=optax.adam(1e-3), guards=(), window=2
    )
    params = draw(jax.random.key(0))
    start = iteration.first_model_state(params, jax.random.key(1))
    state = iteration.init(params, None, model_state=start)
    after, row = in_haste(iteration.one)(state, {}, jax.random.key(2))
    schema = state.telemetry.schema
    floats = dict(zip(schema.floats, np.asarray(row.floats).tolist(), strict=True))
    assert np.isfinite([floats["loss"], floats["episode_reward"]]).all()
    assert floats["first_log_ratio"] < 1e-4
    assert int(row.ints[schema.ints.index("applied_total")]) == config.updates
    assert jnp.any(
        after.params["value_head"]["kernel"] != params["value_head"]["kernel"]
    )


def test_a_missing_or_unknown_environment_says_what_to_do():
    pytest.importorskip("gymnasium")
    with pytest.raises(ValueError, match="gymnasium_environment"):
        make_environment(Config(environment="gymnasium:CartPolle-v1"))
