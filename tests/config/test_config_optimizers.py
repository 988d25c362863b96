import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax.config import OPTIMIZERS, SCHEDULES, ConfigError, build_optimizer
from stabjax.config.optimizers import effective_optimizer

PARAMS = {"w": jnp.asarray([3.0, 4.0], jnp.float32)}


def first_update(section):
    optimizer = build_optimizer(section)
    return optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)[0]["w"]


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_every_optimizer_builds_and_moves(kind):
    update = first_update({"kind": kind, "learning_rate": 0.1})
    assert np.all(np.isfinite(update))
    assert np.any(update != 0)


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_written_defaults_build_the_same_optimizer(kind):
    section = {"kind": kind, "learning_rate": 0.1}
    np.testing.assert_array_equal(
        first_update(section), first_update(effective_optimizer(section))
    )


def test_clip_bounds_the_gradient_before_the_optimizer():
    update = first_update({"kind": "sgd", "learning_rate": 1.0, "clip": 1})
    np.testing.assert_allclose(update, [-0.6, -0.8], rtol=1e-6)


def test_apply_if_finite_wraps_everything():
    section = {"kind": "adam", "learning_rate": 1.0, "clip": 1, "apply_if_finite": 5}
    state = build_optimizer(section).init(PARAMS)
    assert isinstance(state, optax.ApplyIfFiniteState)


def test_warmup_cosine_rises_to_its_peak_and_falls_to_its_end():
    schedule = SCHEDULES["warmup_cosine"](
        peak=1.0, warmup_steps=10, decay_steps=30, final=0.25
    )
    rates = [float(schedule(step)) for step in (0, 5, 10, 20, 30, 99)]
    np.testing.assert_allclose(rates, [0, 0.5, 1, 0.625, 0.25, 0.25], atol=1e-6)


def test_a_schedule_stands_where_a_rate_does():
    rate = {"kind": "constant", "value": 0.5}
    update = first_update({"kind": "sgd", "learning_rate": rate})
    np.testing.assert_allclose(update, [-1.5, -2.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1e-3}, "optimizer.learning_rate must be >= 0, got -0.001"),
        ({"learning_rate": True}, "optimizer.learning_rate"),
        ({"learning_rate": None}, "optimizer.learning_rate must be a valid number"),
        ({"learning_rate": "1e-3"}, "optimizer.learning_rate"),
        ({"learning_rate": {"kind": "cosine"}}, "learning_rate.kind 'cosine'"),
        ({"learning_rate": {"kind": "constant", "value": -1}}, "must be >= 0"),
        ({"learning_rate": {"kind": "constant"}}, "learning_rate.value is missing"),
        ({"learning_rate": 1, "b1": 1.0}, r"optimizer.b1 must be in \[0, 1\), got 1.0"),
        ({"learning_rate": 1, "eps": -1}, "optimizer.eps must be >= 0"),
        ({"learning_rate": 1, "wieght_decay": 0}, "did you mean 'weight_decay'"),
        ({"learning_rate": 1, "mask": "x"}, "optimizer.mask is not an option"),
        ({"learning_rate": 1, "clip": 0}, "optimizer.clip must be > 0, got 0"),
        ({"learning_rate": 1, "clip": True}, "optimizer.clip"),
        ({"learning_rate": 1, "apply_if_finite": 0}, "optimizer.apply_if_finite"),
        ({"learning_rate": 1, "apply_if_finite": 1.5}, "optimizer.apply_if_finite"),
        ({}, "optimizer.learning_rate is missing"),
    ],
)
def test_a_wrong_optimizer_option_names_itself(options, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer({"kind": "adamw", **options})


def test_coupled_weight_decay_is_added_after_the_clip_as_in_torch():
    """Clipped first: (0.6, 0.8); then a tenth of the parameters (3, 4) is added."""
    section = {"kind": "sgd", "learning_rate": 1.0, "clip": 1}
    update = first_update(section | {"coupled_weight_decay": 0.1})
    np.testing.assert_allclose(update, [-0.9, -1.2], rtol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, "much", True])
def test_a_coupled_weight_decay_out_of_range_is_refused(decay):
    with pytest.raises(ConfigError, match="coupled_weight_decay must be >= 0"):
        build_optimizer(
            {"kind": "sgd", "learning_rate": 1.0, "coupled_weight_decay": decay}
        )
