"""What the guards cost on CPU, read from the compiled program."""

import programs
import pytest

from stabjax.guards import GUARDS

pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def costs():
    """Bytes in units of N, and the temporary memory, of each program."""
    tree = programs.mlp()
    unit = programs.bytes_of(tree)
    found = {}
    for name, program in programs.programs("branch").items():
        compiled = programs.compile_for(program, tree)
        temporary = compiled.memory_analysis().temp_size_in_bytes
        found[name] = programs.accessed(compiled) / unit, temporary / unit
    return found


@pytest.mark.parametrize("name", ["guarded", programs.FAMILY])
def test_all_guards_cost_at_most_an_eighth_of_bare_adamw(costs, name):
    assert costs[name][0] <= 1.12 * costs["adamw"][0]


def test_the_whole_family_is_the_registry_without_the_reset():
    family = {guard.name for guard in programs.whole_family()}
    assert family == set(GUARDS) - {"reset_moments"}


def test_all_guards_read_and_write_less_than_clipping_with_optax(costs):
    assert costs["guarded"][0] <= 0.75 * costs["clip+adamw"][0]
    assert costs["guarded"][0] <= 0.60 * costs["apply_if_finite(clip+adamw)"][0]


def test_no_temporary_has_the_size_of_the_parameters(costs):
    assert costs["guarded"][1] <= 0.05
    # Repair takes its rare second pass in blocks of half a megabyte.
    assert costs[programs.FAMILY][1] <= 0.15
    assert costs["clip+adamw"][1] >= 1.0, "the measure sees what optax allocates"


@pytest.mark.slow
def test_the_same_holds_for_150_leaves():
    tree = programs.transformer()
    unit = programs.bytes_of(tree)
    bare, ours = (
        programs.compile_for(programs.programs("branch")[name], tree)
        for name in ("adamw", "guarded")
    )
    assert programs.accessed(ours) <= 1.12 * programs.accessed(bare)
    assert ours.memory_analysis().temp_size_in_bytes <= 0.1 * unit
