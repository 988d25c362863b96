"""A part of the harm bench: the healthy runs that guards have hurt, and some faults."""

import jax
import pytest
from harm.run import Run
from harm.runs import RUNS
from harm.table import grouped, harms, recoveries
from harm.work import CLEAN, Worker

BY_NAME = {run.name: run for run in RUNS}
# Warm-up from zero, accumulation, restarts, a level that shifts, a zero, heavy tails.
NASTY = (
    "nnx_digits_adamw_warm_up",
    "schedule_free_sgd_average",
    "digits_mlp_adamw_warmup_from_zero",
    "digits_mlp_multi_steps_adamw",
    "teacher_adamw_cosine_restarts",
    "underflow_1e-30_then_new_data",
    "curriculum_harder_after_convergence",
    "tasks_in_turn_every_50_steps",
    "digits_mlp_first_batches_unlabelled",
    "student_t_targets_squared_batch_of_one",
    "deep_linear_saddle_sgd",
)
ALONE = ("skip_spikes", "back_off", "reduce_on_plateau", "skip_nonfinite", "escalate")


@pytest.fixture(autouse=True)
def _as_people_write():
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


def lines_of(name, what, settings, seeds):
    lines = []
    Worker(BY_NAME[name], what, seeds, [], lines.append).work(settings)
    return lines


def test_the_bench_has_sixty_runs_of_names_of_their_own():
    assert len(BY_NAME) == len(RUNS) >= 60
    assert set(NASTY) <= set(BY_NAME)


@pytest.mark.slow
@pytest.mark.parametrize("name", NASTY)
def test_no_default_harms_a_healthy_run(name):
    lines = lines_of(name, "healthy", ("readme", "recommended", *ALONE), 3)
    found = harms(grouped(lines))
    hurt = {setting: of.get(name) for setting, of in found.items() if of.get(name)}
    assert not {s: hurt[s] for s in ("readme", "recommended", *ALONE) if s in hurt}
    refused = {x["setting"]: x["refused"] for x in lines}
    assert all(n <= 0.005 * BY_NAME[name].steps for n in refused.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher_adamw_cosine", "digits_mlp_rmsprop"])
def test_the_recommended_guards_bring_a_run_back(name):
    assert isinstance(BY_NAME[name], Run)
    lines = lines_of(name, "faults", ("unguarded", "recommended"), 2)
    found = recoveries(grouped(lines))
    faults = "one NaN batch", "eight NaN batches, late", "inputs x1000, one batch"
    for fault in faults:
        assert found["recommended", fault, name], fault
    assert not found["unguarded", "one NaN batch", name]
    assert {line["fault"] for line in lines if "fault" in line} >= {CLEAN}
