"""The way back: damage is found before it is saved, snapshots lie on the host."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import optax
import pytest

from stabjax import TrainingHalted
from stabjax.run import build_task, train
from stabjax.run.records import read_lines
from stabjax.run.recovery import HostSnapshots
from stabjax.train_step import StateDamaged, make_train_step
from stabjax.types import Alert

QUICK_ROLLBACK = (
    "guards.1.max_consecutive=2",
    "guards.1.on_exhausted=roll_back",
    "train.snapshot_memory=pinned_host",
)


class Damaging:
    """A jitted step that sets a second moment to infinity after some step."""

    def __init__(self, step, at):
        self._step, self.trace, self._at = step, step.trace, at
        self._calls = 0

    def __call__(self, state, batch, key):
        state, row = self._step(state, batch, key)
        self._calls += 1
        if self._calls == self._at:
            damage = lambda path, x: (
                jnp.full_like(x, jnp.inf) if "nu" in jax.tree_util.keystr(path) else x
            )
            damaged = jax.tree_util.tree_map_with_path(damage, state.opt_state)
            state = state._replace(opt_state=damaged)
        return state, row


def damaged_run(config, folder, at):
    task = build_task(config)
    step = Damaging(task.train.step, at)
    task = dataclasses.replace(task, train=dataclasses.replace(task.train, step=step))
    return train(config, folder, task=task, progress=False)


def rows(folder):
    return read_lines(folder / "health.jsonl")


@pytest.mark.parametrize(
    ("every", "error", "message"),
    [
        (10, StateDamaged, r"step 30: not finite: opt_state.*nu"),
        # Without an audit the steps are refused, until the streak is exhausted.
        (0, TrainingHalted, r"step 34: halt, damaged_before"),
    ],
)
def test_damage_ends_the_run_and_is_never_saved(
    tmp_path, config_of, every, error, message
):
    folder = tmp_path / "run"
    config = config_of(f"train.audit_every={every}")
    with pytest.raises(error, match=message):
        damaged_run(config, folder, at=25)
    crash = json.dumps([str(p.read_text()) for p in (folder / "crash").rglob("*.json")])
    assert error.__name__ in crash
    result = train(config, folder, progress=False)
    assert result.steps == 40
    assert rows(folder)[-1]["loss"] < rows(folder)[0]["loss"]


def test_the_loop_restores_the_snapshot_on_the_host_when_a_guard_asks(
    tmp_path, config_of
):
    folder = tmp_path / "run"
    bad = ("model.bad_from=22", "model.bad_until=24")
    result = train(config_of(*QUICK_ROLLBACK, *bad), folder, progress=False)
    events = read_lines(folder / "events.jsonl")
    events = [e for e in events if e["event"] == "rollback"]
    # Asked for in step 23, told by the rows that arrive after step 40.
    assert [(e["step"], e["restored_step"]) for e in events] == [(40, 20)]
    assert result.steps == 40


def test_what_was_asked_before_a_restore_is_answered_by_it(tmp_path, config_of):
    folder = tmp_path / "run"
    bad = ("model.bad_from=22", "model.bad_until=36", "train.steps=90")
    train(config_of(*QUICK_ROLLBACK, *bad), folder, progress=False)
    events = read_lines(folder / "events.jsonl")
    assert len([e for e in events if e["event"] == "rollback"]) == 1
    assert rows(folder)[-1]["rollbacks"] == 7
    assert all(row["accepted"] for row in rows(folder)[36:])


def snapshots_after(rows_per_window, *, every=10):
    """Return what `HostSnapshots.renew` gives at each window end, on step numbers."""
    train = make_train_step(lambda p, b, k: (p, {}), optax.sgd(0.1))
    train = dataclasses.replace(
        train, keep=lambda state: state, restore=lambda state, kept: kept
    )
    kept = HostSnapshots(train, 0, 0, every)
    found = []
    for window, (alerts, rollbacks) in enumerate(rows_per_window):
        # The rows that arrive at the end of a window are those of the one before.
        first = 10 * (window - 1)
        if window:
            steps = range(first, first + 10)
            shared = {"alerts": alerts, "rollbacks": rollbacks}
            kept.see([{"step": step, **shared} for step in steps])
        found.append(kept.renew(10 * (window + 1), 10 * (window + 1))[1])
    return found


def test_a_snapshot_after_a_spike_is_not_taken_for_good():
    calm, spike = (0, 0), (int(Alert.LOSS_SPIKE), 0)
    assert snapshots_after([calm, calm, calm, (0, 1)]) == [None, None, None, 20]
    assert snapshots_after([calm, calm, spike, (0, 1)]) == [None, None, None, 10]


def test_snapshots_are_taken_no_more_often_than_asked():
    calm = (0, 0)
    series = [calm, calm, calm, calm, (0, 1)]
    assert snapshots_after(series, every=40) == [None] * 4 + [0]
    assert snapshots_after(series, every=20) == [None] * 4 + [20]
