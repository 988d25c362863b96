"""What guards folded into an optimizer cost on CPU, read from the compiled program."""

import folded
import programs
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def costs():
    """What each program moves and allocates, in units of N."""
    tree, made = programs.mlp(), folded.optimizers() | folded.accumulations()
    found = {}

    def measured(name):
        if name not in found:
            row = folded.measure(made[name], tree)
            found[name] = row["bytes"], row["temporary"]
        return found[name]

    return measured


@pytest.mark.parametrize(
    "name", ["adamw", "adamw nesterov", "sgd momentum", "sgd momentum nesterov"]
)
def test_all_guards_folded_in_cost_one_read_of_the_gradient(costs, name):
    assert costs(f"folded {name}")[0] <= costs(f"optax {name}")[0] + 1.05
    assert costs(f"folded {name}")[1] <= 0.05


def test_adamw_costs_what_the_guarded_train_step_costs(costs):
    train = programs.compile_for(programs.programs("branch")["guarded"], programs.mlp())
    unit = programs.bytes_of(programs.mlp())
    assert costs("folded adamw")[0] <= 1.02 * programs.accessed(train) / unit
    assert costs("guard around adamw")[0] >= 2 * costs("folded adamw")[0]


@pytest.mark.parametrize("name", ["adamw mu_dtype", "lion"])
def test_where_the_old_moments_are_read_late_xla_copies_them_as_for_optax(costs, name):
    assert costs(f"folded {name}")[1] <= costs(f"optax {name}")[1] + 0.05
    assert costs(f"folded {name}")[0] <= costs(f"optax {name}")[0] + 2.05


def test_a_micro_step_moves_less_than_that_of_multi_steps(costs):
    theirs = costs("MultiSteps")
    emits, rests = costs("accumulate emits"), costs("accumulate rests")
    assert emits[0] <= 0.75 * theirs[0]
    assert rests[0] <= 0.36 * theirs[0]
    assert emits[1] <= 1.05, "the update, which the contract of optax returns"
    assert costs("accumulate emits, all guards")[0] <= emits[0] + 0.05
