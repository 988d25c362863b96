"""Guards are taken in every way people list them, or the error says what to write."""

import inspect
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import optax
import pytest
from helpers import bits

import stabjax
from stabjax import guards, transforms
from stabjax.guards.given import flattened

PARAMS = {"w": jnp.asarray([1.0, -2.0, 3.0])}
FIRST, SECOND, THIRD = guards.skip_spikes(), guards.back_off(), guards.zclip()
WAYS = {
    "one": ((FIRST,), 1),
    "one by one": ((FIRST, SECOND, THIRD), 3),
    "a list": (([FIRST, SECOND, THIRD],), 3),
    "a tuple and one": (((FIRST, SECOND), THIRD), 3),
    "a list in a list": (([FIRST, [SECOND, THIRD]],), 3),
    "an empty list and one": (([], FIRST), 1),
    "a generator": ((each for each in (FIRST, SECOND)), 2),
    "none": ((), 0),
}


@pytest.mark.parametrize("way", ["one", "one by one", "a tuple and one", "none"])
def test_every_function_takes_guards_in_this_way(way):
    given, count = WAYS[way]
    # Without a word about guards it takes the recommended ones.
    alone = given or ((),)
    states = [
        stabjax.guard(optax.sgd(0.1), *alone).init(PARAMS),
        stabjax.guard(optax.sgd(0.1), list(given)).init(PARAMS),
        transforms.accumulate(optax.sgd(0.1), 2, *given).init(PARAMS),
        transforms.accumulate(optax.sgd(0.1), 2, list(given)).init(PARAMS),
        transforms.adamw(0.1, guards=given).init(PARAMS),
        transforms.sgd(0.1, guards=list(given)).init(PARAMS),
        transforms.lion(0.1, guards=given).init(PARAMS),
    ]
    cores = [state.core for state in states]
    train = stabjax.make_train_step(lambda p, b: 1.0, optax.sgd(0.1), guards=given)
    cores.append(train.guard_states(train.init(PARAMS, None)))
    for core in cores:
        kinds = [type(state).__name__ for state in core.guards]
        names = ["SkipSpikesState", "BackOffState", "ZclipState"]
        assert kinds == names[:count]


@pytest.mark.parametrize("way", WAYS)
def test_they_keep_their_order(way):
    given, count = WAYS[way]
    assert flattened("test", *given) == (FIRST, SECOND, THIRD)[:count]


def test_a_single_guard_needs_no_list():
    train = stabjax.make_train_step(lambda p, b: 1.0, optax.sgd(0.1), guards=FIRST)
    assert len(train.guard_states(train.init(PARAMS, None)).guards) == 1
    state = transforms.adamw(0.1, guards=FIRST).init(PARAMS)
    assert len(state.core.guards) == 1


FIRST_ARGUMENTS = {
    "back_off": ("factor", 0.25),
    "clip_by_block_rms": ("threshold", 0.5),
    "clip_by_global_norm": ("max_norm", 0.5),
    "clip_by_group_norm": ("max_norm", 0.5),
    "clip_update_spikes": ("margin", 5.0),
    "dead_gradient": ("metric", "loss"),
    "dynamic_loss_scale": ("initial", 2.0**10),
    "empty_set": ("metric", "valid"),
    "metric_range": ("metric", "loss"),
    "reduce_on_plateau": ("factor", 0.5),
    "reset_moments": ("every", 7),
    "saturation": ("metric", "loss"),
    "sentinel": ("metric", "loss"),
    "skip_large": ("max_norm", 3.0),
    "skip_nonfinite": ("max_consecutive", 3),
    "skip_spikes": ("signals", ["loss"]),
    "trivial_baseline": ("baseline", 2.0),
    "zclip": ("threshold", 3.0),
}
# Two that nobody could tell apart by their place.
BY_NAME_ALONE = {"escalate", "repair_nonfinite", "update_ratio_band"}


def test_no_guard_is_forgotten():
    assert set(FIRST_ARGUMENTS) | BY_NAME_ALONE == set(guards.GUARDS)


@pytest.mark.parametrize("name", FIRST_ARGUMENTS)
def test_the_first_argument_of_a_guard_may_stand_without_its_name(name):
    option, value = FIRST_ARGUMENTS[name]
    others = {"high": 1.0} if name == "metric_range" else {}
    assert guards.GUARDS[name](value, **others).name == name
    first, *rest = inspect.signature(guards.GUARDS[name]).parameters.values()
    assert first.name == option
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest)


@pytest.mark.parametrize(
    ("by_place", "by_name"),
    [
        (transforms.zclip(3.0), transforms.zclip(threshold=3.0)),
        (transforms.reduce_on_plateau(0.5), transforms.reduce_on_plateau(factor=0.5)),
        (
            transforms.clip_by_block_rms(0.1),
            transforms.clip_by_block_rms(threshold=0.1),
        ),
        (
            transforms.skip_nonfinite(optax.sgd(1.0), 3),
            transforms.skip_nonfinite(optax.sgd(1.0), max_consecutive=3),
        ),
        (
            transforms.skip_large(optax.sgd(1.0), 0.5),
            transforms.skip_large(optax.sgd(1.0), max_norm=0.5),
        ),
    ],
)
def test_so_may_that_of_a_transformation(by_place, by_name):
    gradient = {"w": jnp.asarray([5.0, 1.0, -3.0])}
    ends = []
    for transformation in (by_place, by_name):
        state = transformation.init(PARAMS)
        ends.append(transformation.update(gradient, state, PARAMS, value=1.0))
    assert bits(ends[0]) == bits(ends[1])


# What is written on the left, as a user's program runs it, and what the error must say.
WRONG = {
    "stabjax.guard(adamw, 1.0)": ["got 1.0", "guards.clip_by_global_norm(1.0)"],
    "stabjax.guard(adamw, None)": ["got None", "leave it out"],
    "stabjax.guard(adamw, 'skip_spikes')": ["write guards.skip_spikes()"],
    "stabjax.guard(adamw, guards.skip_spikes)": [
        "got the function skip_spikes", "write guards.skip_spikes()"],
    "stabjax.guard(adamw, [guards.skip_large])": ["guards.skip_large(max_norm=...)"],
    "stabjax.guard(adamw, transforms.skip_spikes)": ["write guards.skip_spikes()"],
    "stabjax.guard(adamw, optax.clip_by_global_norm(1.0))": [
        "got an optax transformation", "write guards.clip_by_global_norm()",
        "optax.chain("],
    "stabjax.guard(adamw, optax.adam(1.0))": ["write optax.chain(it, optimizer)"],
    "stabjax.guard(adamw, transforms.skip_spikes(adamw))": ["list the guard itself"],
    "stabjax.guard(adamw, {'kind': 'skip_large'})": ["guards.skip_large(max_norm=...)"],
    "stabjax.guard(spikes)": [
        "inner must be an optax optimizer, got the guard skip_spikes",
        "write guard(optax.adamw(1e-3)"],
    "stabjax.guard(optax.adamw, spikes)": ["got the function adamw"],
    "step(loss, adamw, guards=[guards.skip_spikes])": [
        "make_train_step: every guard must be a Guard", "write guards.skip_spikes()"],
    "step(loss, adamw, guards=[1.0])": ["got 1.0"],
    "step(loss, adamw, guards=optax.clip(1.0))": ["got an optax transformation"],
    "step(loss, adamw, guards=guards.back_off)": ["write guards.back_off()"],
    "step(loss, spikes)": ["optimizer must be an optax optimizer, got the guard"],
    "step(loss, optax.adamw)": ["got the function adamw", "optax.adamw(1e-3)"],
    "step(adamw, loss)": [
        "the loss must be a function (params, batch, key)",
        "got an optax transformation"],
    "transforms.accumulate(adamw, spikes)": [
        "every must be a whole number", "got the guard skip_spikes",
        "write accumulate(inner, 4, guards)"],
    "transforms.accumulate(adamw, [spikes])": ["write accumulate(inner, 4, guards)"],
    "transforms.accumulate(adamw, guards.skip_spikes)": ["the function skip_spikes"],
    "transforms.accumulate(spikes, 4)": ["inner must be an optax optimizer"],
    "transforms.accumulate(adamw, 4, 2.0)": ["accumulate: every guard must be a Guard"],
    "transforms.adamw(1e-3, guards=[optax.clip(1.0)])": [
        "adamw: every guard must be a Guard", "optax.chain("],
    "transforms.adamw(1e-3, guards=[guards.zclip])": ["write guards.zclip()"],
    "guards.clip_by_global_norm(max_norm=spikes)": [
        "max_norm must be in (0, inf), got the guard skip_spikes",
        "guards=[clip_by_global_norm(...), skip_spikes(...)]"],
    "guards.clip_by_global_norm(adamw)": [
        "got an optax transformation", "stabjax.guard(optimizer, guards)"],
    "guards.skip_nonfinite(adamw)": ["max_consecutive must be a whole number"],
    "guards.skip_spikes(6.0)": ["signals must be a list, such as ['loss'], got 6.0"],
    "guards.skip_spikes(adamw)": ["got an optax transformation", "optimizer first"],
    "transforms.clip_by_global_norm(adamw)": ["max_norm must be in", "optimizer first"],
    "transforms.skip_spikes()": [
        "skip_spikes: the first argument must be the optax optimizer that it guards",
        "got no optimizer", "write transforms.skip_spikes(optax.adamw(1e-3))",
        "stabjax.guard(optax.adamw(1e-3), guards.skip_spikes())"],
    "optax.chain(transforms.skip_nonfinite(max_consecutive=3), adamw)": [
        "transforms.skip_nonfinite(optax.adamw(1e-3))"],
    "transforms.skip_large(1.0)": [
        "got 1.0", "transforms.skip_large(optax.adamw(1e-3), max_norm=...)",
        "guards.skip_large(max_norm=...)"],
    "transforms.back_off(spikes)": ["got the guard skip_spikes"],
    "transforms.escalate(optax.adamw)": ["got the function adamw"],
    "transforms.reset_moments(every=5)": ["got no optimizer"],
    "transforms.trivial_baseline(baseline=1.0)": ["got no optimizer"],
    "transforms.flatten(spikes)": ["flatten: inner must be an optax optimizer"],
}  # fmt: skip

# Without the checks of types that these tests switch on, which would come first.
PROGRAM = """
import json, sys
import optax, stabjax
from stabjax import guards, transforms

adamw, spikes = optax.adamw(1e-3), guards.skip_spikes()
step, loss = stabjax.make_train_step, lambda params, batch: 1.0
said = {}
for written in json.load(sys.stdin):
    try:
        eval(written)
        said[written] = "nothing"
    except Exception as error:
        said[written] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(WRONG)),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("written", WRONG)
def test_what_is_written_wrongly_is_told_at_once_with_what_to_write(said, written):
    kind, _, message = said[written].partition(": ")
    assert kind in ("TypeError", "ValueError")
    for part in WRONG[written]:
        assert part in message
    assert "\n" not in message


def test_a_guard_that_is_listed_twice_judges_twice():
    optimizer = stabjax.guard(optax.sgd(1.0), FIRST, [FIRST])
    assert len(optimizer.init(PARAMS).core.guards) == 2


def test_a_list_of_guards_is_read_once_and_may_change_later():
    listed = [FIRST]
    train = stabjax.make_train_step(lambda p, b: 1.0, optax.sgd(0.1), guards=listed)
    listed.append(SECOND)
    assert len(train.guard_states(train.init(PARAMS, None)).guards) == 1
