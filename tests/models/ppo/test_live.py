"""A switch that is set and changes nothing is an error before anything is trained."""

import pytest

from stabjax.models.ppo import live
from stabjax.models.ppo.environments import make_environment
from stabjax.models.ppo.live import check_live, dead_switches
from stabjax.models.ppo.preparation import Preparation

UNREAD = {
    "use_relative_value_clip": True,
    "value_clip_epsilon": 200.0,
    "normalize_returns": False,
    "return_scale": 10.0,
}


def dead(config):
    return dead_switches(config.model_dump_json(), make_environment(config).of)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        # Values are not clipped, so it does not matter how; returns are not
        # normalized, so their scale is not read.
        (
            UNREAD,
            ("use_relative_value_clip", "value_clip_epsilon", "return_scale"),
        ),
        # A cross-entropy over bins has neither a bound nor a scale.
        pytest.param(
            {
                "return_normalization": "symlog_two_hot",
                "enable_value_clipping": True,
                "return_scale": 10.0,
            },
            ("enable_value_clipping", "return_scale"),
            marks=pytest.mark.slow,
        ),
        # There is nothing to remember in a unit of the batch.
        pytest.param(
            {"return_normalization": "batch", "normalization_decay": 0.5},
            ("normalization_decay",),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_switch_that_nothing_reads_is_named(tiny, settings, names):
    assert dead(tiny(**settings)) == names


def test_building_refuses_a_dead_switch(tiny):
    config = tiny(**UNREAD)
    with pytest.raises(ValueError, match="ppo: use_relative_value_clip must change"):
        check_live(config, make_environment(config))


def test_a_fix_in_code_that_nothing_calls_is_found(tiny, monkeypatch):
    """The fault of the original: its normalization sat in a function nobody called."""
    config = tiny(return_normalization="seed", return_scale=10.0)
    true = Preparation.__call__

    def without_targets(self, params, before, environments, experience):
        ready = true(self, params, before, environments, experience)
        # Normalized, and then the raw values are learned all the same.
        rows = ready.rows._replace(target=ready.rows.old + 1.0)
        return ready._replace(rows=rows)

    monkeypatch.setattr(Preparation, "__call__", without_targets)
    live.dead_switches.cache_clear()
    try:
        found = dead(config)
    finally:
        live.dead_switches.cache_clear()
    assert {"normalize_returns", "return_scale"} <= set(found)


@pytest.mark.slow
def test_the_bound_on_the_gradient_and_the_limit_on_kl_are_live(tiny):
    config = tiny(max_grad_norm=0.7, target_kl=0.03)
    assert dead(config) == ()


def test_a_switch_that_only_a_metric_reads_does_not_count(tiny, monkeypatch):
    """The log of the original said that its fixes were on, too."""
    true = live._pieces

    def with_a_metric(config, environment):
        iteration, *shapes = true(config, environment)
        loss = iteration.prepare.loss

        def reporting(params, batch, key, **state):
            value, aux = loss(params, batch, key, **state)
            return value, aux | {"share": value * config.value_clip_epsilon}

        object.__setattr__(iteration.prepare, "loss", reporting)
        return iteration, *shapes

    monkeypatch.setattr(live, "_pieces", with_a_metric)
    live.dead_switches.cache_clear()
    try:
        assert dead(tiny(value_clip_epsilon=0.5)) == ("value_clip_epsilon",)
    finally:
        live.dead_switches.cache_clear()
