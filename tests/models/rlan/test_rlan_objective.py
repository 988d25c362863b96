"""The loss as a whole: what reaches what, what is shared out, and what leaks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlan_tiny import ARMS, hasty, parameters, program, solver, tiny

from stabjax.models.arc import PAD
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.objective import (
    hold_out,
    temperature_at,
    weigh_terms,
)

TERMS = (
    "task", "loo", "equivariance", "entropy", "ponder", "minimum_clues",
    "clue_variance", "clue_saturation",
)  # fmt: skip


def _run(config, params, batch):
    """Return value, aux and gradients of a step."""
    (value, aux), grads = program(config)(
        params, batch, jax.random.key(0), step=np.zeros((), np.int32)
    )
    return float(value), aux, grads


def _terms(config):
    return weigh_terms(config, dict.fromkeys(TERMS, jnp.float32(1.0)))


@pytest.mark.parametrize("arm", ARMS)
def test_the_seeds_regularizers_are_computed_and_connected_to_nothing(arm):
    total, aux = _terms(tiny(arm))
    found = {name for name in aux if name.startswith("inactive/")}
    if arm == "sound":
        assert found == {"inactive/minimum_clues"}
    else:
        assert found == {"inactive/clue_variance", "inactive/clue_saturation"}
    weighted = [float(v) for k, v in aux.items() if k.startswith("weighted/")]
    assert float(total) == pytest.approx(sum(weighted))


_SLOW = pytest.mark.slow
_COMPILED = [pytest.param(arm, marks=() if arm == "sound" else _SLOW) for arm in ARMS]


@pytest.mark.parametrize("arm", _COMPILED)
def test_the_total_is_the_sum_of_finite_named_components(arm, random_batch):
    value, aux, grads = _run(tiny(arm), parameters(), random_batch(tiny()))
    weighted = [float(v) for k, v in aux.items() if k.startswith("weighted/")]
    assert value == pytest.approx(sum(weighted), rel=1e-5)
    assert all(v.shape == () and np.isfinite(v) for v in aux.values())
    flat = float(aux["raw/equivariance"]) < 1e-10
    assert flat is (arm != "sound")
    if arm == "sound":  # in the others a logit may be exactly one
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_every_part_of_the_solver_gets_a_gradient(random_batch):
    _, _, grads = _run(tiny(), parameters(), random_batch(tiny()))
    parts = {"pairs", "grid", "injector", "clues", "relative", "lora", "solver"}
    assert set(grads) == parts
    for part in parts:
        assert sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads[part])) > 0.0


def test_a_pair_without_a_companion_is_not_held_out(random_batch):
    batch = random_batch(tiny())
    batch["support"] = batch["support"].copy()
    batch["support"][:, 1] = PAD
    _, aux, grads = _run(tiny(), parameters(), batch)
    assert float(aux["raw/loo"]) == 0.0
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("arm", _COMPILED)
def test_only_the_exact_stablemax_survives_a_head_that_says_one(arm, random_batch):
    """All logits exactly one: the deterministic form of what bfloat16 does."""
    params = jax.tree.map(np.copy, parameters())
    last = params["solver"]["last"]
    last["kernel"][:], last["bias"][:] = 0.0, 1.0
    value, aux, grads = _run(tiny(arm), params, random_batch(tiny()))
    assert np.isfinite(value)
    assert float(aux["logit_max"]) == 1.0
    finite = all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads["solver"]))
    assert finite is (arm == "sound")


SIZES = st.floats(2.0**-10, 2.0**10, width=32)


@functools.cache
def _program_of_terms(config):
    return hasty(lambda values: weigh_terms(config, values)[1])


def _share(config, task, loo, equivariance):
    values = dict.fromkeys(TERMS, np.float32(0.0))
    values |= {"task": np.float32(task), "loo": np.float32(loo)}
    values["equivariance"] = np.float32(equivariance)
    return _program_of_terms(config)(values)


@given(SIZES, SIZES, SIZES, st.sampled_from([0.0, 0.1, 0.25, 0.9]))
def test_the_share_of_the_meta_losses_never_exceeds_the_ratio(
    task, loo, equivariance, ratio
):
    aux = _share(Config(meta_ratio=ratio), task, loo, equivariance)
    assert float(aux["meta_share"]) <= ratio * (1 + 1e-5) + 1e-7


@given(SIZES, SIZES, SIZES)
def test_a_small_enough_share_is_left_alone(task, loo, equivariance):
    aux = _share(Config(meta_ratio=0.25), task, loo, equivariance)
    plain = 0.08 * loo + 0.03 * equivariance
    if plain <= 0.33 * task:
        assert float(aux["meta_factor"]) == 1.0


def test_the_seeds_cap_bounds_no_share():
    config = Config(meta_cap="seed", equivariance_weight=0.0)
    over = _share(config, 0.5, 4.0, 0.0)
    assert float(over["meta_factor"]) == 1.0
    assert float(over["meta_share"]) == pytest.approx(0.39, abs=0.005)
    extreme = _share(config, 0.02, 170.0, 0.0)
    assert float(extreme["meta_share"]) > 0.9


def test_the_seeds_cap_cuts_what_was_small():
    config = Config(meta_cap="seed", equivariance_weight=0.0)
    needless = _share(config, 0.1, 0.2, 0.0)
    assert float(needless["meta_factor"]) < 0.5
    assert 0.08 * 0.2 / (0.1 + 0.08 * 0.2) < 0.25


def test_before_there_is_no_cap():
    aux = _share(Config(meta_cap="before"), 0.5, 4.0, 0.0)
    assert float(aux["meta_factor"]) == 1.0


@pytest.fixture(scope="module")
def held_out(random_batch):
    """Answers to held-out demonstrations, as a function of all demonstrations."""
    config = tiny(holdouts=2)

    @hasty
    def answer(params, pairs):
        network = solver(config, params)
        rows = hold_out(pairs, network.encode(pairs), 2)
        return network(rows.query, rows.support, jnp.float32(1.0)).logits

    pairs = random_batch(config)["support"].reshape(config.batch, 2, 2, 9)
    return lambda pairs: np.asarray(answer(parameters(), pairs), np.float32), pairs


def test_the_answer_to_a_held_out_pair_cannot_be_seen(held_out):
    """Whatever its output is, the logits of its row are the same to the last bit."""
    answer, pairs = held_out
    other = pairs.copy()
    other[:, 0, 1] = (pairs[:, 0, 1] + 3) % 10
    before, after = answer(pairs), answer(other)
    np.testing.assert_array_equal(before[::2], after[::2])
    # The other row is shown this pair, and does change.
    assert not np.array_equal(before[1::2], after[1::2])


def test_what_is_shown_does_change_the_answer(held_out):
    answer, pairs = held_out
    other = pairs.copy()
    other[:, 1, 1] = (pairs[:, 1, 1] + 3) % 10
    assert not np.array_equal(answer(pairs)[::2], answer(other)[::2])


def test_the_temperature_falls_in_a_line_and_stays():
    config = Config(anneal_steps=10)
    steps = [0, 5, 10, 1000]
    found = [float(temperature_at(config, jnp.int32(step))) for step in steps]
    np.testing.assert_allclose(found, [1.0, 0.75, 0.5, 0.5])
