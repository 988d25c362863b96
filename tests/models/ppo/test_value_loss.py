"""The bound on values: the worked examples of the notes, and where gradients die."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ppo_haste import in_haste

from stabjax.models.ppo.config import Config
from stabjax.models.ppo.value_loss import value_losses

ABSOLUTE = {"enable_value_clipping": True, "normalize_returns": False}
RELATIVE = ABSOLUTE | {"use_relative_value_clip": True, "relative_value_clip": "seed"}
SOUND = RELATIVE | {"relative_value_clip": "sound"}


@functools.cache
def _loss(settings):
    """Return the compiled loss and gradient of one value in one component."""

    config = Config(**dict(settings))

    def one(new, old, target, deviation):
        cells = [x.reshape(1, 1) for x in (new, old, target)]
        found = value_losses(*cells, deviation.reshape(1), config)
        return found.losses[0], found.dead

    return in_haste(jax.value_and_grad(one, has_aux=True))


def loss(settings, *numbers, deviation=1.0):
    """Return loss, gradient and death of a new value, given the old and the target."""
    (value, dead), slope = _loss(tuple(settings.items()))(
        *(jnp.float32(x) for x in (*numbers, deviation))
    )
    return float(value), float(slope), float(dead)


@pytest.mark.parametrize(
    ("settings", "new", "old", "target", "expected", "slope"),
    [
        (ABSOLUTE, 1200.0, 1000.0, 1500.0, 249800.04, 0.0),  # the seed's "250k"
        (RELATIVE, 1200.0, 1000.0, 1500.0, 90000.0, None),
        (RELATIVE, 1300.0, 1000.0, 1500.0, 90000.0, 0.0),
        (RELATIVE, 800.0, 1000.0, 1500.0, 490000.0, -1400.0),
        (RELATIVE, 5.0, 0.0, 10.0, 100.0, 0.0),
        (RELATIVE, 2.0, -1.0, 8.0, 77.44, 0.0),
    ],
)
def test_the_clipped_loss_of_the_seed_as_worked_out_by_hand(
    settings, new, old, target, expected, slope
):
    value, found, dead = loss(settings, new, old, target)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    if slope is not None:  # on the bound itself both branches are equal
        np.testing.assert_allclose(found, slope, rtol=1e-6)
        assert dead == float(slope == 0.0)


def test_a_value_that_leaves_its_target_is_not_held_back():
    _, slope, dead = loss(ABSOLUTE, 900.0, 1000.0, 1500.0)
    assert slope == pytest.approx(-1200.0)
    assert dead == 0.0


def test_at_zero_the_seeds_bound_is_dead_and_the_sound_one_is_one_deviation_wide():
    assert loss(RELATIVE, 0.1, 0.0, 1.0)[1:] == (0.0, 1.0)
    slope, dead = loss(SOUND, 0.1, 0.0, 1.0)[1:]
    assert slope == pytest.approx(-1.8)
    assert dead == 0.0
    assert loss(SOUND, 0.3, 0.0, 1.0)[1:] == (0.0, 1.0)
    # In a unit a thousand times larger it is a thousand times wider.
    assert loss(SOUND, 100.0, 0.0, 1000.0, deviation=1000.0)[2] == 0.0


@pytest.mark.parametrize("settings", [ABSOLUTE, SOUND])
def test_what_only_rounding_moves_is_not_counted_as_outside(settings):
    wide = settings | {"value_clip_epsilon": 200.0}
    news = np.random.default_rng(0).normal(size=50)
    # 0.7 + (new - 0.7) differs from new in the last place for many of them.
    dead = [loss(wide, new, 0.7, 1.0, deviation=0.3)[2] for new in news]
    assert dead == [0.0] * 50


def test_the_rollback_value_is_no_bound_at_all():
    wide = loss(ABSOLUTE | {"value_clip_epsilon": 200.0}, 1150.0, 1000.0, 1500.0)
    none = loss({"normalize_returns": False}, 1150.0, 1000.0, 1500.0)
    assert wide[:2] == none[:2]


def test_two_hot_heads_are_trained_by_a_gradient_that_does_not_grow():
    config = Config(return_normalization="symlog_two_hot")

    def total(heads, target):
        aim = jnp.full((1, 2), target)
        return jnp.sum(value_losses(heads, heads, aim, jnp.ones((2,)), config).losses)

    slope = in_haste(jax.grad(total))
    slopes = [
        float(jnp.linalg.norm(slope(jnp.zeros((1, 510)), target)))
        for target in (1.0, 1e3, 1e6)
    ]
    # A softmax less a two-hot, for two components: at most 2 whatever the target is.
    assert 1.0 < min(slopes) <= max(slopes) < 2.0
