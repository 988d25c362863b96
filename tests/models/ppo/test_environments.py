"""The rules of the three environments, and what happens where an episode ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ppo_haste import in_haste

from stabjax.models.ppo.config import Config
from stabjax.models.ppo.durotaxis import durotaxis, marked, stiffness
from stabjax.models.ppo.durotaxis_controls import controls
from stabjax.models.ppo.environment import vectorize
from stabjax.models.ppo.environments import ENVIRONMENTS, make_environment
from stabjax.models.ppo.pendulum import pendulum

# Delete nothing, reach as far as possible, straight on.
FORWARD = np.array([-9.0, 9.0, -9.0, 0.0, 0.0], np.float32)


def forward(share):
    """Return the action that deletes another share: ``0.7 sigmoid(share)``."""
    return np.concatenate([np.float32([share]), FORWARD[1:]])


def stepper(environment):
    return in_haste(environment.step)


@pytest.fixture(scope="module")
def taxis():
    environment = durotaxis()
    state, _ = in_haste(environment.reset)(jax.random.key(0))
    return state, stepper(environment)


def act(taxis, state, action):
    return taxis[1](jax.random.key(1), state, action)


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_a_long_random_walk_stays_finite_and_within_the_horizon(name):
    environment = ENVIRONMENTS[name]()
    many = vectorize(environment, 4)
    steps = environment.horizon + 50
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(steps, 4, environment.actions.size)) * 2.0
    if environment.actions.kind == "discrete":
        actions = (actions[..., 0] > 0.0).astype(np.int32)

    @in_haste
    def walk(key, actions):
        key_start, key_steps = jax.random.split(key)
        state = many.reset(jax.random.split(key_start, 4))
        keys = jax.random.split(key_steps, (steps, 2, 4))
        step = lambda state, now: many.step(now[0], state, now[1])
        return jax.lax.scan(step, state, (keys, actions))[1]

    drawn = jnp.asarray(actions, actions.dtype if actions.ndim == 2 else jnp.float32)
    taken = jax.device_get(walk(jax.random.key(0), drawn))
    assert taken.step.rewards.shape[-1] == len(environment.components)
    assert taken.step.observation.shape[-1] == environment.features
    for leaf in jax.tree.leaves(taken):
        assert np.all(np.isfinite(leaf))
    assert np.max(taken.length) <= environment.horizon
    assert not np.any(taken.step.terminated & taken.step.truncated)
    assert np.any(taken.step.terminated | taken.step.truncated)


def test_five_nodes_that_delete_nothing_double_every_step(taxis):
    state, counts = taxis[0], [5]
    for _ in range(3):
        state, step = act(taxis, state, FORWARD)
        counts.append(int(np.sum(state.alive)))
        assert not bool(step.terminated)
    assert counts == [5, 10, 20, 40]


def test_above_56_nodes_the_episode_ends_with_its_small_penalty(taxis):
    state = taxis[0]
    for _ in range(4):
        state, step = act(taxis, state, FORWARD)
    assert bool(step.terminated)
    assert not bool(step.success)
    assert float(step.rewards[3]) == -15.0


def test_the_leftmost_are_deleted_and_the_others_spawn_to_the_right(taxis):
    before = taxis[0]
    action = forward(0.8)  # 0.7 sigmoid(0.8) of 5 nodes: two
    after, step = act(taxis, before, action)
    old = np.sort(np.asarray(before.x)[np.asarray(before.alive)])
    new = np.sort(np.asarray(after.x)[np.asarray(after.alive)])
    act_on = jax.device_get(in_haste(controls)(action))
    softer = act_on.half / np.asarray(stiffness(jnp.asarray(old[2:])))
    reach = act_on.reach / (1 + softer**2) + act_on.extra
    expected = np.sort(np.concatenate([old[2:], old[2:] + reach]))
    np.testing.assert_allclose(new, expected, rtol=1e-4)
    # Five nodes, none marked: three rightly kept, two wrongly deleted.
    assert float(step.rewards[0]) == 2.0
    assert float(step.rewards[1]) == 6.0  # three children on stiffer ground


def test_children_that_stay_behind_are_not_rewarded(taxis):
    _, step = act(taxis, taxis[0], FORWARD * np.float32([1, -1, 1, 1, 1]))
    assert float(step.rewards[1]) == -10.0


def test_a_node_at_the_goal_ends_the_episode_with_success(taxis):
    x = np.where(taxis[0].alive, 590.0, 0.0).astype(np.float32)
    near = taxis[0]._replace(x=x)
    _, step = act(taxis, near, FORWARD)
    assert bool(step.success)
    assert bool(step.terminated)
    assert float(step.rewards[3]) == 500.0


def test_old_nodes_on_soft_ground_are_marked_rightmost_first():
    x = np.arange(64, dtype=np.float32)
    age = np.where(x < 15, 9, 0).astype(np.int32)
    mark = in_haste(marked)
    # 40 nodes: 3 of them; softer than the mean at 19.5 and older than 3.
    assert np.flatnonzero(mark(x, age, x < 40)).tolist() == [12, 13, 14]
    assert not np.any(mark(x, age, x < 20))


def test_what_is_marked_is_what_the_next_step_rewards_to_delete(taxis):
    state = taxis[0]
    for _ in range(5):  # half of the nodes go each time: few, old and young
        state, _ = act(taxis, state, forward(-0.5))
    expected = in_haste(marked)(state.x, state.age, state.alive)
    np.testing.assert_array_equal(state.chosen, expected)
    kept = act(taxis, state, FORWARD)[1].rewards[0]
    number, wanted = int(state.alive.sum()), int(expected.sum())
    assert float(kept) == 2.0 * (number - 2 * wanted)


def test_an_ended_episode_reports_where_it_ended_and_begins_anew():
    many = vectorize(pendulum(), 2, reward_scale=3.0)
    unscaled = vectorize(pendulum(), 2)

    @in_haste
    def both(key_start, key_steps):
        state = many.reset(jax.random.split(key_start, 2))
        late = state.inner._replace(time=jnp.array([199, 3]))
        state = state._replace(inner=late, total=jnp.array([-5.0, -1.0]))
        keys = jax.random.split(key_steps, (2, 2))
        action = jnp.zeros((2, 1))
        plain = unscaled.step(jax.random.clone(keys), state, action)[1]
        return state, *many.step(keys, state, action), plain

    state, after, taken, plain = jax.device_get(
        both(jax.random.key(0), jax.random.key(1))
    )
    assert taken.step.truncated.tolist() == [True, False]
    assert after.inner.time.tolist() == [0, 4]
    assert after.length.tolist() == [0, 1]
    np.testing.assert_allclose(
        taken.total, state.total + taken.step.rewards.sum(-1), rtol=1e-5
    )
    assert float(after.total[0]) == 0.0
    assert np.any(taken.step.observation[0] != after.observation[0])
    np.testing.assert_array_equal(taken.step.observation[1], after.observation[1])
    np.testing.assert_allclose(taken.step.rewards, 3.0 * plain.step.rewards, rtol=1e-6)


def test_weights_of_components_are_checked_by_name():
    config = Config(component_weights={"spawn": 0.0})
    assert make_environment(config).of.weights == (1.0, 0.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="did you mean 'spawn'"):
        make_environment(Config(component_weights={"spwan": 1.0}))
    with pytest.raises(ValueError, match="did you mean 'pendulum'"):
        make_environment(Config(environment="pendulm"))


@pytest.mark.parametrize(
    ("name", "theirs"), [("cartpole", "CartPole-v1"), ("pendulum", "Pendulum-v1")]
)
def test_the_equations_are_those_of_gymnasium(name, theirs):
    gymnasium = pytest.importorskip("gymnasium")
    environment = ENVIRONMENTS[name]()
    state, _ = environment.reset(jax.random.key(3))
    other = gymnasium.make(theirs).unwrapped
    other.reset(seed=0)
    body = state.body if name == "cartpole" else [state.angle, state.velocity]
    other.state = np.asarray(body, np.float64)
    rng = np.random.default_rng(0)
    step = stepper(environment)
    for _ in range(8):
        drawn = rng.normal()
        if name == "cartpole":
            ours, mirrored = jnp.int32(drawn > 0), int(drawn > 0)
        else:
            ours = jnp.float32([drawn])
            mirrored = np.asarray(environment.bound(ours))
        state, now = step(jax.random.key(0), state, ours)
        seen, reward, *_ = other.step(mirrored)
        np.testing.assert_allclose(now.observation, seen, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(now.rewards.sum(), reward, rtol=1e-4)


def test_two_descriptions_of_one_environment_are_equal():
    """So that what was derived from one is found again for the other."""
    for make in ENVIRONMENTS.values():
        assert make() == make()
        assert hash(make()) == hash(make())
    assert dataclasses.replace(durotaxis(), weights=(1.0,) * 4) != durotaxis()
