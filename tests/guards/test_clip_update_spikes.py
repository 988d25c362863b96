"""An update far beyond all of late is scaled down before it is applied."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import rows_of

from stabjax.guards import back_off, clip_update_spikes, recommended
from stabjax.train_step import make_train_step
from stabjax.transforms import accumulate, adamw, guard
from stabjax.types import Alert

SPIKE = int(Alert.UPDATE_SPIKE)
WIDTH = 8
FORMS = ["branch", "select", "optax"]


def slope(params, batch, key):
    """Return a loss whose gradient is the batch in every element."""
    del key
    return jnp.sum(params["w"] * batch), {}


def moved(optimizer, guards, form, gradients, damage=None):
    """Return how far every step moved the first parameter, and the last state."""
    batches = jnp.broadcast_to(
        jnp.asarray(gradients, jnp.float32)[:, None], (len(gradients), WIDTH)
    )
    params = {"w": jnp.zeros((WIDTH,), jnp.float32)}
    damage = damage or (lambda step, opt_state: opt_state)
    path = [0.0]
    if form == "optax":
        outer = guard(optimizer, *guards)
        state = outer.init(params)
        update = jax.jit(outer.update)
        for step, gradient in enumerate(batches):
            state = state._replace(inner_state=damage(step, state.inner_state))
            updates, state = update({"w": gradient}, state, params, value=1.0)
            params = optax.apply_updates(params, updates)
            path.append(float(params["w"][0]))
        return np.diff(path), state.core
    train = make_train_step(slope, optimizer, guards=guards, form=form, window=512)
    state = train.init(params, batches[0])
    for step, batch in enumerate(batches):
        state = state._replace(opt_state=damage(step, state.opt_state))
        state, _ = train.step(state, batch, jax.random.key(0))
        path.append(float(state.params["w"][0]))
    return np.diff(path), train.guard_states(state)


def rate(step):
    """Return one, and a hundred for five steps."""
    return jnp.where((step >= 40) & (step < 45), 100.0, 1.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_rate_that_is_a_hundred_times_too_large_moves_a_few_times_as_far(form):
    steps, core = moved(optax.sgd(rate), [clip_update_spikes()], form, np.ones(60))
    usual = np.full(60, -1.0)
    # Three times the largest of late, which grows by a quarter per step.
    expected = 3.0 * 1.25 ** np.arange(5)
    np.testing.assert_allclose(steps[:40], usual[:40], rtol=1e-6)
    np.testing.assert_allclose(steps[40:45], -expected, rtol=1e-3)
    np.testing.assert_allclose(steps[45:], usual[45:], rtol=1e-4)
    assert core.guards[0].clipped == 5
    assert core.refused == 0


@pytest.mark.parametrize("form", FORMS)
def test_lost_second_moments_move_a_few_times_as_far(form):
    def forget(step, opt_state):
        if step != 40:
            return opt_state
        zeros = jax.tree.map(jnp.zeros_like, opt_state[0].nu)
        return (opt_state[0]._replace(nu=zeros), *opt_state[1:])

    gradients = np.random.default_rng(0).normal(1.0, 0.3, 60)
    adam = optax.adam(0.1)
    plain, _ = moved(adam, [[]], form, gradients, forget)
    ours, core = moved(adam, [clip_update_spikes()], form, gradients, forget)
    usual = np.abs(plain[:40]).max()
    assert np.abs(plain[40]) > 9 * usual, "the fault is one"
    assert np.abs(ours[40]) <= 3.01 * usual
    assert np.abs(ours[41:]).max() <= 1.25 * 3.01 * usual
    assert core.guards[0].clipped >= 1


def test_a_rate_of_zero_and_a_warm_up_from_it_are_no_spikes():
    warm_up = optax.linear_schedule(0.0, 1.0, 100)
    gradients = np.ones(150)
    gradients[120:125] = 0.0  # no labels
    steps, core = moved(optax.sgd(warm_up), [clip_update_spikes()], "select", gradients)
    expected = -gradients * np.asarray([float(warm_up(n)) for n in range(150)])
    np.testing.assert_allclose(steps, expected, atol=1e-5)
    assert core.guards[0].clipped == 0
    assert core.guards[0].seen == 144


def test_a_lasting_rise_is_followed_by_a_factor_of_ten_in_ten_steps():
    rise = lambda step: jnp.where(step >= 30, 1000.0, 1.0)
    steps, core = moved(optax.sgd(rise), [clip_update_spikes()], "select", np.ones(80))
    assert np.abs(steps[40]) == pytest.approx(3.0 * 1.25**10, rel=1e-3)
    # From 3 to 1000 in log(1000 / 3) / log(1.25) = 26 steps.
    assert np.abs(steps[55]) < 1000.0 * 0.9999
    np.testing.assert_allclose(steps[58:], -1000.0, rtol=1e-3)
    assert 26 <= core.guards[0].clipped <= 27


def test_what_a_refused_step_would_have_moved_is_not_learned():
    gradients = np.ones(60)
    gradients[30] = np.nan
    _, core = moved(optax.sgd(1.0), [clip_update_spikes()], "branch", gradients)
    assert core.guards[0].seen == 59
    assert core.guards[0].largest == pytest.approx(1.0, rel=1e-5)


def test_the_bound_is_of_the_update_after_other_guards_have_scaled_it():
    # Refusals make `back_off` take smaller steps; that is no reason to bound anything.
    gradients = np.ones(80)
    gradients[30:33] = np.nan
    guards = [clip_update_spikes(), back_off(after=1)]
    steps, core = moved(optax.sgd(1.0), guards, "select", gradients)
    assert np.abs(steps[33]) < 1.0
    assert core.guards[0].clipped == 0


def test_it_rings_by_name_and_the_scale_is_in_the_row():
    train = make_train_step(
        slope,
        optax.sgd(rate),
        guards=[back_off(), clip_update_spikes()],
        form="branch",
        window=64,
    )
    state = train.init({"w": jnp.zeros(WIDTH)}, jnp.ones(WIDTH))
    for _ in range(50):
        state, _ = train.step(state, jnp.ones(WIDTH), jax.random.key(0))
    rows = rows_of(state)
    ringing = [row["step"] for row in rows if row["alerts"] & SPIKE]
    assert ringing == list(range(40, 45))
    assert [row["step"] for row in rows if row["update_scale"] < 1] == ringing
    assert all(row["clip_update_spikes/alerts"] == SPIKE for row in rows[40:45])
    assert not any(row["back_off/alerts"] for row in rows)


@pytest.mark.parametrize(
    "optimizer",
    [adamw(0.1, guards=recommended()), accumulate(optax.sgd(1.0), 2, *recommended())],
    ids=["folded", "accumulate"],
)
def test_where_there_is_no_update_to_judge_it_changes_nothing(optimizer):
    params = {"w": jnp.zeros(WIDTH)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(4):
        updates, state = update({"w": jnp.ones(WIDTH)}, state, params)
    assert np.all(np.asarray(updates["w"]) < 0)
    assert optax.tree.get(state, "refused") == 0
    assert state.core.guards[-1].seen == 0
