"""Guards on what the loss reports: shares, counts, sentinels, baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    KEY,
    Face,
    adamw,
    batch_of,
    bits,
    judge_series,
    model_state,
    params_of,
    rows_of,
    run,
    stateful_loss,
    train_face,
)

from stabjax.guards import (
    dead_gradient,
    empty_set,
    metric_range,
    reduce_on_plateau,
    saturation,
    sentinel,
    skip_nonfinite,
    trivial_baseline,
)
from stabjax.train_step import make_train_step
from stabjax.transforms import guard
from stabjax.types import Alert

SATURATED, EMPTY, SENTINEL, TRIVIAL, DEAD, OUTSIDE, HALT = (
    int(alert)
    for alert in (
        Alert.SATURATED,
        Alert.EMPTY,
        Alert.SENTINEL,
        Alert.TRIVIAL,
        Alert.DEAD_GRADIENT,
        Alert.OUT_OF_RANGE,
        Alert.HALT,
    )
)


def series_of(given, values, **others):
    return judge_series(given, metrics={"m": values}, **others)


def steps(alerts, bit):
    return ((alerts & bit) != 0).nonzero()[0].tolist()


def test_saturation_fires_after_so_many_steps_above_the_share():
    share = np.full(30, 0.1)
    share[5:8], share[10:20] = 0.95, 0.95
    trace = series_of(saturation(metric="m", max_share=0.9, patience=4), share)
    assert steps(trace.alerts, SATURATED) == list(range(13, 20))
    assert trace.accepted.all()


def test_a_metric_outside_its_range_is_reported_after_warmup_and_patience():
    values = np.full(20, 0.7, np.float32)
    values[:4], values[8:12], values[15] = 0.1, 0.1, np.inf
    guard = metric_range(metric="m", low=0.5, high=0.9, warmup=4, patience=2)
    trace = series_of(guard, values)
    assert steps(trace.alerts, OUTSIDE) == [9, 10, 11]
    at_once = metric_range(metric="m", high=0.9)
    assert steps(series_of(at_once, values).alerts, OUTSIDE) == [15]


def test_a_metric_that_is_not_measured_neither_ends_nor_prolongs_a_streak():
    values = np.asarray([0.1, np.nan, 0.1, np.nan, 0.7, 0.1], np.float32)
    trace = series_of(metric_range(metric="m", low=0.5, patience=2), values)
    assert steps(trace.alerts, OUTSIDE) == [2]


def test_a_range_needs_a_bound():
    with pytest.raises(ValueError, match="low or high must be given"):
        metric_range(metric="m")


def test_a_share_at_the_limit_is_fine_and_one_not_measured_changes_nothing():
    share = np.asarray([0.9, 0.9, 1.0, np.nan, 1.0, np.nan, np.nan, 1.0, 0.9])
    guard = saturation(metric="m", max_share=0.9, patience=3)
    trace = series_of(guard, share.astype(np.float32))
    limit = saturation(metric="m", max_share=float(np.float32(0.9)), patience=1)
    assert steps(trace.alerts, SATURATED) == [7]
    assert steps(series_of(limit, share[:2]).alerts, SATURATED) == []


@pytest.mark.parametrize(
    ("guard", "bad", "bit"),
    [
        (saturation(metric="m", patience=2, action="halt"), 1.0, SATURATED),
        (sentinel(metric="m", patience=2, action="halt"), -1.0, SENTINEL),
        (dead_gradient(metric="m", patience=2, action="halt"), 0.0, DEAD),
        (metric_range(metric="m", high=1.0, patience=2, action="halt"), 5.0, OUTSIDE),
        (
            trivial_baseline(
                metric="m", baseline=1.0, decay=0.0, patience=12, action="halt"
            ),
            5.0,
            TRIVIAL,
        ),
    ],
    ids=["saturation", "sentinel", "dead_gradient", "metric_range", "trivial_baseline"],
)
def test_it_halts_where_asked(guard, bad, bit):
    calm = 0.0 if bad else 0.5
    trace = series_of(guard, np.where(np.arange(20) < 10, calm, bad))
    assert trace.halt.argmax() == 11
    assert trace.alerts[11] == bit | HALT
    assert not trace.accepted[11:].any()


def test_an_empty_set_is_refused_and_counted():
    count = np.asarray([8.0, 0.0, 4.0, 0.0, 0.0, 1.0])
    trace = series_of(empty_set(metric="m"), count)
    assert (~trace.accepted).nonzero()[0].tolist() == [1, 3, 4]
    assert steps(trace.alerts, EMPTY) == [1, 3, 4]
    assert trace.state.total[-1] == 3
    trace = series_of(empty_set(metric="m", min_count=5.0), count)
    assert (~trace.accepted).nonzero()[0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("end", ["halt", "roll_back", "accept"])
def test_a_streak_of_empty_sets_ends_as_asked(end):
    count = np.where(np.arange(20) < 5, 8.0, 0.0)
    guard = empty_set(metric="m", max_consecutive=4, on_exhausted=end)
    trace = series_of(guard, count)
    assert not trace.accepted[5:9].any()
    assert trace.accepted[9:].all() == (end == "accept")
    halts = list(range(8, 20)) if end == "halt" else []
    assert trace.halt.nonzero()[0].tolist() == halts
    backs = [8, 12, 16] if end == "roll_back" else []
    assert trace.roll_back.nonzero()[0].tolist() == backs
    assert steps(trace.alerts, EMPTY) == list(range(5, 20))


def test_a_count_that_is_not_measured_refuses_nothing_and_ends_no_streak():
    count = np.asarray([8.0, 0.0, np.nan, 0.0, np.nan, 8.0])
    trace = series_of(empty_set(metric="m", max_consecutive=3), count)
    assert (~trace.accepted).nonzero()[0].tolist() == [1, 3]
    assert trace.state.streak.tolist() == [0, 1, 1, 2, 2, 0]


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_train_step_refuses_the_empty_batch_and_nothing_moves(form):
    guards = [empty_set(metric="raw/extra", min_count=0.5)]
    face = train_face(guards, form, optax.sgd(0.1, momentum=0.9))
    state = run(face, [batch_of(0, component=3.0), batch_of(1, component=1.0)])
    before = bits(face.held(state))
    state = face.step(state, batch_of(2, component=0.0))
    assert bits(face.held(state)) == before
    row = rows_of(state)[-1]
    assert row["alerts"] == EMPTY
    assert (row["empty_set/total"], row["accepted"]) == (1, 0)


@pytest.mark.parametrize(
    ("value", "near"), [(-1.0, -0.9999999), (0.0, 1e-37), (1e9, 1e9 + 64), (0.1, 0.0)]
)
def test_a_sentinel_is_the_exact_number_and_no_neighbor(value, near):
    values = np.asarray([2.0, value, near, np.nan, value], np.float32)
    trace = series_of(sentinel(metric="m", value=value), values)
    assert steps(trace.alerts, SENTINEL) == [1, 4]
    assert trace.state.total[-1] == 2
    assert trace.accepted.all()


def test_a_sentinel_waits_for_its_patience():
    values = np.asarray([-1.0, 2.0, -1.0, np.nan, -1.0, -1.0, 0.0])
    trace = series_of(sentinel(metric="m", patience=2), values)
    assert steps(trace.alerts, SENTINEL) == [4, 5]


def test_a_sentinel_through_bfloat16_is_the_number_that_the_docstring_names():
    assert float(jnp.bfloat16(1e9)) == 998244352.0
    trace = series_of(sentinel(metric="m", value=998244352.0), [998244352.0])
    assert steps(trace.alerts, SENTINEL) == [0]


def test_a_classifier_that_learns_is_not_trivial_and_one_that_does_not_is():
    baseline = float(np.log(10))
    guard = trivial_baseline(baseline=baseline, patience=100, decay=0.9)
    noise = 0.05 * np.random.default_rng(0).normal(size=400)
    learns = judge_series(guard, loss=baseline * np.exp(-np.arange(400) / 100) + noise)
    assert not learns.alerts.any()
    stuck = judge_series(guard, loss=np.full(400, baseline))
    assert steps(stuck.alerts, TRIVIAL) == list(range(99, 400))
    assert stuck.accepted.all()


@pytest.mark.parametrize("baseline", [-5.0, 5.0])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_margin_is_a_share_of_the_size_of_the_baseline(mode, baseline):
    guard = trivial_baseline(
        metric="m", baseline=baseline, margin=0.1, mode=mode, patience=1, decay=0.0
    )
    better = -1.0 if mode == "min" else 1.0
    values = baseline + better * np.asarray([-1.0, 0.0, 0.4, 0.6, 3.0])
    assert steps(series_of(guard, values).alerts, TRIVIAL) == [0, 1, 2]


def test_what_is_not_finite_or_refused_does_not_enter_the_mean():
    guard = trivial_baseline(baseline=2.0, patience=3, decay=0.5)
    losses = np.asarray([1.0, np.nan, 1.0, np.inf, 1e6, 1.0])
    norms = np.asarray([1.0, 1.0, 1.0, 1.0, np.nan, 1.0])
    trace = judge_series(guard, loss=losses, grad_norm=norms)
    assert trace.state.seen[-1] == 3
    assert trace.state.mean[-1] == 1.0
    assert not (trace.alerts & TRIVIAL).any()


def test_a_gradient_is_dead_only_at_exactly_zero_and_where_it_was_measured():
    norm = [1e-30, 0.0, -0.0, np.nan, 0.0, 1.2e-38, 0.0]
    trace = series_of(dead_gradient(metric="m", patience=2), norm)
    assert steps(trace.alerts, DEAD) == [2, 4]
    assert trace.accepted.all()
    assert trace.state.total[-1] == 4


def test_a_plateau_of_a_metric_lowers_the_updates_too():
    guard = reduce_on_plateau(
        metric="m", factor=0.5, patience=1, mode="max", accumulation_size=1
    )
    trace = series_of(guard, [1.0, 2.0, 2.0, np.nan, 2.0, 2.0])
    np.testing.assert_array_equal(trace.update_scale, [1, 1, 1, 1, 0.5, 0.5])


WATCHERS = {
    "saturation": saturation,
    "empty_set": empty_set,
    "sentinel": sentinel,
    "dead_gradient": dead_gradient,
    "metric_range": lambda metric: metric_range(metric=metric, low=0.0),
    "trivial_baseline": lambda metric: trivial_baseline(baseline=1.0, metric=metric),
    "reduce_on_plateau": reduce_on_plateau,
}


@pytest.mark.parametrize("name", WATCHERS)
def test_an_unknown_metric_is_an_error_while_tracing_that_names_the_nearest(name):
    face = train_face([WATCHERS[name](metric="outpt")], "select")
    expected = (
        rf"{name}: metric must be one of loss, grad_norm, output, raw/extra, "
        r"raw/task, valid, weighted/task, got 'outpt'\. Did you mean 'output'\?"
    )
    with pytest.raises(ValueError, match=expected):
        face.step(face.init(params_of()), batch_of())


@pytest.mark.parametrize("name", WATCHERS)
def test_behind_optax_there_is_no_metric_of_the_loss(name):
    gradient = {"w": jnp.ones(2)}
    optimizer = guard(optax.sgd(1.0), WATCHERS[name](metric="valid"))
    state = optimizer.init(gradient)
    expected = "metric must be one of loss, grad_norm, got 'valid'"
    with pytest.raises(ValueError, match=expected):
        optimizer.update(gradient, state, gradient, value=1.0)


def test_the_norm_of_the_gradient_can_be_watched():
    norms = np.where(np.arange(30) == 20, 5.0, 1.0)
    given = metric_range(metric="grad_norm", high=2.0, warmup=0, patience=1)
    trace = judge_series(given, grad_norm=norms)
    assert steps(trace.alerts, OUTSIDE) == [20]


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_run_that_nothing_guards_can_be_watched(form):
    """A step that is waived whatever it is, beside guards that tell, is unguarded."""
    watched = [
        skip_nonfinite(0, compat="optax"),
        metric_range(metric="loss", high=3.0, warmup=0, patience=1),
    ]
    batches = [batch_of(0), batch_of(1, loss=5.0), batch_of(2, loss=np.nan)]
    plain = run(unguarded(form), batches)
    ours = run(train_face(watched, form), batches)
    for a, b in zip(*map(jax.tree.leaves, (plain.params, ours.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    rows = rows_of(ours)
    assert [row["accepted"] for row in rows] == [1, 1, 1]
    assert [bool(row["alerts"] & OUTSIDE) for row in rows] == [False, True, False]


def unguarded(form):
    train = make_train_step(stateful_loss, adamw(), guards=None, form=form, window=8)
    return Face(
        init=lambda p: train.init(p, batch_of(), model_state=model_state()),
        step=lambda state, batch: train.step(state, batch, KEY)[0],
        jitted=train.step,
        held=None,
        core=None,
    )


@pytest.mark.parametrize("name", sorted(set(WATCHERS) - {"empty_set"}))
def test_a_guard_on_the_loss_asks_for_it_behind_optax(name):
    gradient = {"w": jnp.ones(2)}
    optimizer = guard(optax.sgd(1.0), WATCHERS[name](metric="loss"))
    with pytest.raises(ValueError, match=f"{name} judges on the loss"):
        optimizer.update(gradient, optimizer.init(gradient), gradient)


def test_every_scalar_that_the_loss_reports_can_be_watched():
    _, aux = stateful_loss(
        params_of(),
        batch_of(),
        None,
        model_state={"mean": jnp.zeros(2), "seen": 0, "best": 0.0},
    )
    names = sorted(set(aux) - {"model_state"})
    guards = [sentinel(metric=name, value=-1e9) for name in names]
    rows = rows_of(run(train_face(guards, "select"), [batch_of(0)]))
    assert rows[-1]["accepted"] == 1
