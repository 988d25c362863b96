"""Options are checked when a guard is built, and every guard is documented."""

import doctest
import importlib
import inspect
import re

import optax
import pytest
from helpers import QUIET

from stabjax.guards import GUARDS
from stabjax.train_step import make_train_step
from stabjax.transforms import guard

BAD = [
    ("clip_by_global_norm", "max_norm", 0.0, "(0, inf)"),
    ("clip_by_global_norm", "max_norm", -1.0, "(0, inf)"),
    ("clip_by_global_norm", "max_norm", float("nan"), "(0, inf)"),
    ("clip_by_global_norm", "max_norm", float("inf"), "(0, inf)"),
    ("clip_by_global_norm", "max_norm", True, "(0, inf)"),
    ("clip_by_global_norm", "max_norm", "1.0", "(0, inf)"),
    ("clip_by_group_norm", "max_norm", 0, "(0, inf)"),
    ("clip_by_group_norm", "groups", "core", "a list of path prefixes"),
    ("clip_by_group_norm", "groups", ["a", "a"], "distinct"),
    ("clip_by_group_norm", "groups", ["rest"], "distinct and not 'rest'"),
    ("clip_by_group_norm", "groups", [""], "a list of path prefixes"),
    ("skip_nonfinite", "max_consecutive", 0, ">= 1"),
    ("skip_nonfinite", "max_consecutive", 1.5, ">= 1"),
    ("skip_nonfinite", "on_exhausted", "stop", "'halt', 'roll_back', 'accept'"),
    ("skip_spikes", "signals", ["losses"], "'loss', 'gradient_norm', 'update_norm'"),
    ("skip_spikes", "signals", "loss", "a list"),
    ("skip_spikes", "signals", [], "a list"),
    ("skip_spikes", "signals", ["loss", "loss"], "distinct"),
    ("skip_spikes", "deviations", 0.0, "(0, inf)"),
    ("skip_spikes", "decay", 1.0, "[0, 1)"),
    ("skip_spikes", "warmup", 1, ">= 2"),
    ("skip_spikes", "rebase_after", 0, ">= 1"),
    ("reduce_on_plateau", "factor", 1.0, "(0, 1)"),
    ("reduce_on_plateau", "patience", -1, ">= 0"),
    ("reduce_on_plateau", "threshold", -1e-4, "[0, inf)"),
    ("reduce_on_plateau", "threshold_mode", "relative", "'rel', 'abs'"),
    ("reduce_on_plateau", "mode", "low", "'min', 'max'"),
    ("reduce_on_plateau", "cooldown", -1, ">= 0"),
    ("reduce_on_plateau", "min_scale", 1.5, "[0, 1]"),
    ("reduce_on_plateau", "min_change", -1.0, "[0, inf)"),
    ("reduce_on_plateau", "accumulation_size", 0, ">= 1"),
    ("back_off", "factor", 0.0, "(0, 1)"),
    ("back_off", "after", 0, ">= 1"),
    ("back_off", "recovery", 0, ">= 1"),
    ("back_off", "min_scale", 0.0, "(0, 1]"),
    ("escalate", "roll_back_after", 0, ">= 1"),
    ("escalate", "max_rollbacks", -1, ">= 0"),
    ("escalate", "halt_after", 0, ">= 1"),
    ("skip_nonfinite", "compat", "torch", "'optax'"),
    ("zclip", "threshold", 0.0, "(0, inf)"),
    ("zclip", "decay", 1.0, "[0, 1)"),
    ("zclip", "warmup", 1, ">= 2"),
    ("zclip", "rebase_after", 0, ">= 1"),
    ("skip_large", "max_norm", 0.0, "(0, inf)"),
    ("skip_large", "max_norm", float("inf"), "(0, inf)"),
    ("skip_large", "max_consecutive", 0, ">= 1"),
    ("skip_large", "on_exhausted", "stop", "'halt', 'roll_back', 'accept'"),
    ("clip_by_block_rms", "threshold", 0.0, "(0, inf)"),
    ("clip_by_block_rms", "groups", "core", "a list of path prefixes"),
    ("clip_by_block_rms", "groups", ["a", "a"], "distinct"),
    ("update_ratio_band", "low", -1e-3, "[0, inf)"),
    ("update_ratio_band", "high", 1e-5, "(1e-05, inf)"),
    ("update_ratio_band", "patience", 0, ">= 1"),
    ("update_ratio_band", "action", "clip", "'alert', 'scale', 'halt'"),
    ("update_ratio_band", "min_scale", 0.0, "(0, 1]"),
    ("update_ratio_band", "recovery", 0, ">= 1"),
    ("saturation", "max_share", 1.0, "[0, 1)"),
    ("saturation", "patience", 0, ">= 1"),
    ("saturation", "action", "scale", "'alert', 'halt'"),
    ("metric_range", "low", float("nan"), "(-inf, inf)"),
    ("metric_range", "high", -2e9, "[-1e+09, inf)"),
    ("metric_range", "warmup", -1, ">= 0"),
    ("metric_range", "patience", 0, ">= 1"),
    ("metric_range", "action", "clip", "'alert', 'halt'"),
    ("empty_set", "min_count", 0, "(0, inf)"),
    ("empty_set", "max_consecutive", 0, ">= 1"),
    ("empty_set", "on_exhausted", "stop", "'halt', 'roll_back', 'accept'"),
    ("dead_gradient", "patience", 0, ">= 1"),
    ("dead_gradient", "action", "skip", "'alert', 'halt'"),
    ("sentinel", "value", float("inf"), "(-inf, inf)"),
    ("sentinel", "patience", 0, ">= 1"),
    ("sentinel", "action", "skip", "'alert', 'halt'"),
    ("trivial_baseline", "baseline", float("nan"), "(-inf, inf)"),
    ("trivial_baseline", "mode", "low", "'min', 'max'"),
    ("trivial_baseline", "margin", -0.1, "[0, inf)"),
    ("trivial_baseline", "patience", 0, ">= 1"),
    ("trivial_baseline", "decay", 1.0, "[0, 1)"),
    ("trivial_baseline", "action", "skip", "'alert', 'halt'"),
    ("dynamic_loss_scale", "initial", 3.0, "a power of two in [1, 1.67772e+07]"),
    ("dynamic_loss_scale", "initial", 0.5, "[1, 1.67772e+07]"),
    ("dynamic_loss_scale", "growth_interval", 0, ">= 1"),
    ("dynamic_loss_scale", "factor", 1.0, "[2, 65536]"),
    ("dynamic_loss_scale", "factor", 3.0, "a power of two"),
    ("dynamic_loss_scale", "hysteresis", 0, ">= 1"),
    ("dynamic_loss_scale", "floor", 0.0, "[7.88861e-31, 1.26765e+30]"),
    ("dynamic_loss_scale", "ceiling", 0.5, "[1, inf)"),
    ("dynamic_loss_scale", "on_floor", "raise", "'alert', 'halt'"),
    ("reset_moments", "every", 0, ">= 1"),
    ("reset_moments", "after_refusals", 0, ">= 1"),
    ("reset_moments", "warmup", -1, ">= 0"),
    ("repair_nonfinite", "max_share", 1.5, "[0, 1]"),
    ("repair_nonfinite", "max_consecutive", 0, ">= 1"),
    ("repair_nonfinite", "on_exhausted", "stop", "'halt', 'roll_back', 'accept'"),
]


def unchecked(name, **options):
    """Return the guard as a user has it, without the type checks of the tests."""
    return inspect.unwrap(GUARDS[name])(**QUIET.get(name, {}) | options)


@pytest.mark.parametrize(("name", "option", "value", "range_"), BAD)
def test_an_option_out_of_range_names_function_argument_range_and_value(
    name, option, value, range_
):
    with pytest.raises(ValueError, match=f"^{name}: {option} must be ") as caught:
        unchecked(name, **{option: value})
    assert range_ in str(caught.value)
    assert f"{value!r}".strip("[]") in str(caught.value).split("got ")[1]


@pytest.mark.parametrize("name", sorted(GUARDS))
def test_every_numeric_option_is_checked(name):
    for parameter in inspect.signature(GUARDS[name]).parameters.values():
        if type(parameter.default) in (int, float):
            with pytest.raises(ValueError, match=rf"{name}: {parameter.name} must be"):
                unchecked(name, **{parameter.name: float("nan")})


@pytest.mark.parametrize("name", sorted(GUARDS))
def test_every_guard_documents_its_arguments_and_shows_an_example(name):
    text = inspect.getdoc(GUARDS[name]) or ""
    for part in ("Args:", "Returns:", "Raises:", "Example:", ">>>"):
        assert part in text
    documented = re.findall(r"^    (\w+):", text.split("Args:")[1], re.M)
    for option in inspect.signature(GUARDS[name]).parameters:
        assert option in documented


@pytest.mark.parametrize(
    "module",
    [f"guards.{name}" for name in sorted(GUARDS)]
    + ["core.judge", "core.headroom", "core.layout", "core.packing", "types"]
    + ["transforms", "transforms.guard", "health.alerts", "train_step"],
)
def test_the_examples_in_the_docstrings_run(module):
    assert doctest.testmod(importlib.import_module(f"stabjax.{module}")).failed == 0


def test_what_is_no_guard_is_refused_by_both_faces():
    with pytest.raises(TypeError, match="every guard must be a Guard, got 'clip'"):
        inspect.unwrap(guard)(optax.sgd(1.0), "clip")
    with pytest.raises(TypeError, match="every guard must be a Guard, got 'clip'"):
        inspect.unwrap(make_train_step)(min, optax.sgd(1.0), guards=["clip"])
