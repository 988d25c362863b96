"""Units of values: there and back, and never mixed with another."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ppo_haste import in_haste

from stabjax.losses import two_hot
from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environments import make_environment
from stabjax.models.ppo.values import BINS, value_unit

CONSISTENT = ("batch", "running", "pop_art")


def returns_of(seed, count=200, mean=(1500.0, -3.0), std=(400.0, 0.01)):
    rng = np.random.default_rng(seed)
    drawn = rng.normal(mean, std, (count, 2))
    return jnp.asarray(drawn, jnp.float32)


@functools.cache
def unit_of(kind, **settings):
    """Return the unit of two components, its functions compiled."""
    unit = value_unit(Config(return_normalization=kind, **settings), 2)
    functions = ("predict", "update", "targets", "carried")
    compiled = {name: in_haste(getattr(unit, name)) for name in functions}
    return dataclasses.replace(unit, **compiled)


def _head():
    kernel = np.random.default_rng(0).normal(size=(3, 2))
    layer = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros((2,))}
    return {"value_head": layer}


@pytest.fixture(scope="module")
def params():
    return _head()


@pytest.mark.parametrize("kind", CONSISTENT)
def test_predictions_of_targets_are_the_returns(kind, params):
    unit = unit_of(kind, return_scale=10.0)
    returns = returns_of(0)
    statistics, _ = unit.update(unit.init(), returns, params)
    targets = unit.targets(statistics, returns)
    np.testing.assert_allclose(np.std(targets, axis=0), 10.0, rtol=1e-3)
    back = unit.predict(statistics, targets)
    np.testing.assert_allclose(back, returns, rtol=1e-4)


@pytest.mark.parametrize("kind", CONSISTENT)
def test_before_the_first_rollout_a_critic_says_nothing(kind):
    """Else fresh heads, of order one, would drown rewards of order 0.001."""
    unit = unit_of(kind)
    heads = jnp.asarray([[0.5, -1.0]])
    assert not np.any(unit.predict(unit.init(), heads))
    after, _ = unit.update(unit.init(), returns_of(0), _head())
    np.testing.assert_array_equal(unit.carried(unit.init(), after, heads), heads)


@pytest.mark.parametrize("kind", CONSISTENT)
def test_old_predictions_keep_their_meaning_when_the_unit_moves(kind, params):
    unit = unit_of(kind)
    before, _ = unit.update(unit.init(), returns_of(0), params)
    after, _ = unit.update(before, returns_of(1, mean=(9e3, 7.0)), params)
    heads = jnp.asarray([[0.5, -1.0], [2.0, 0.0]])
    carried = unit.carried(before, after, heads)
    assert float(jnp.max(jnp.abs(carried - heads))) > 0.1
    np.testing.assert_allclose(
        unit.predict(after, carried), unit.predict(before, heads), rtol=1e-4, atol=1e-4
    )


def test_pop_art_rescales_the_head_so_that_predictions_stay(params):
    unit = unit_of("pop_art")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)

    def predicted(statistics, params):
        layer = params["value_head"]
        return unit.predict(statistics, x @ layer["kernel"] + layer["bias"][None])

    fresh = params
    first, params = unit.update(unit.init(), returns_of(0), params)
    # Before anything was predicted there is nothing to keep.
    np.testing.assert_array_equal(
        params["value_head"]["kernel"], fresh["value_head"]["kernel"]
    )
    second, moved = unit.update(first, returns_of(1, mean=(9e3, 7.0)), params)
    sigma = np.std(returns_of(1), axis=0)
    change = np.abs(predicted(second, moved) - predicted(first, params))
    assert np.all(change <= 1e-3 * sigma[None])


def test_the_seeds_predictions_are_not_in_the_unit_of_the_rewards():
    unit = unit_of("seed", return_scale=10.0)
    returns = returns_of(0)
    back = unit.predict(unit.init(), unit.targets(unit.init(), returns))
    assert float(jnp.max(jnp.abs(back))) < 50.0
    assert float(jnp.min(returns[:, 0])) > 100.0


def test_the_seeds_z_score_uses_the_sample_formula():
    unit = unit_of("seed", return_scale=1.0)
    returns = returns_of(0, count=5)
    drawn = np.asarray(returns)
    expected = (drawn - drawn.mean(0)) / np.std(drawn, axis=0, ddof=1)
    found = unit.targets((), returns)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_two_hot_heads_predict_what_they_were_taught():
    unit = unit_of("symlog_two_hot")
    returns = returns_of(0, count=7)
    logits = np.log(np.asarray(in_haste(two_hot)(returns, BINS)) + 1e-30)
    np.testing.assert_allclose(
        unit.predict((), logits.reshape(7, -1)), returns, rtol=1e-3
    )
    assert jax.tree.leaves(unit.init()) == []


def test_two_hot_heads_begin_by_predicting_nothing(tiny):
    """Logits that differ by chance would predict millions: the outer bins are 5e8."""
    config = tiny(return_normalization="symlog_two_hot")
    vector = make_environment(config)
    _, draw = assemble(config, vector, optimizer=optax.sgd(1.0), guards=(), window=1)
    head = draw(jax.random.key(0))["value_head"]
    assert not np.any(head["kernel"])
    unit = unit_of("symlog_two_hot")
    assert not np.any(unit.predict((), jnp.zeros((1, 2 * BINS.size))))
    assert (
        np.max(np.abs(unit.predict((), jnp.zeros((1, 510)).at[0, 0].set(1e-2)))) > 1e3
    )
