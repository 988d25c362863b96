import dataclasses
import json
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest
from compilations import compilations
from line_config import LINE

from stabjax.config import ConfigError, loads
from stabjax.run import Preempted, build_task, lock, train
from stabjax.run.checksums import seal
from stabjax.run.records import read_lines
from stabjax.train_step import TrainingHalted


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def health(folder):
    return (folder / "health.jsonl").read_bytes()


def events(folder, name):
    return [e for e in read_lines(folder / "events.jsonl") if e["event"] == name]


@pytest.fixture(scope="module")
def task():
    """The task of the configuration as it stands, traced once for all tests."""
    return build_task(loads(LINE, source="line.yaml"))


@pytest.fixture
def go(tmp_path, config_of, task):
    """Train quietly; returns (result, folder)."""

    def run(name, *overrides, **options):
        folder = tmp_path / "runs" / name
        if not overrides:
            options = {"task": task} | options
        result = train(config_of(*overrides), folder, progress=False, **options)
        return result, folder

    return run


@pytest.fixture(scope="module")
def uninterrupted(task, tmp_path_factory):
    """The same of a run that nothing interrupts; its folder is only read."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    config = loads(LINE, source="line.yaml")
    return train(config, folder, task=task, progress=False), folder


def test_a_run_trains_and_logs_each_step_once(go):
    result, folder = go("a", "train.evaluate_every=20")
    rows = read_lines(folder / "health.jsonl")
    assert [row["step"] for row in rows] == list(range(40))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(row["accepted"] for row in rows)
    assert [e["step"] for e in events(folder, "evaluation")] == [20, 40]
    assert [e["step"] for e in events(folder, "checkpoint")] == [20, 40]
    assert result.evaluation == events(folder, "evaluation")[-1]["scores"]
    assert (result.steps, result.diverged) == (40, False)
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["outcome"], facts["step"], facts["model"]) == ("finished", 40, "line")


@pytest.mark.parametrize("stop_at", [20, 13])
def test_twenty_and_twenty_steps_are_forty_bit_for_bit(go, stop_at, uninterrupted):
    straight, straight_folder = uninterrupted
    go("halves", f"train.steps={stop_at}")
    halves, halves_folder = go("halves")
    assert bits(halves.state) == bits(straight.state)
    assert health(halves_folder) == health(straight_folder)


def test_a_finished_run_is_left_as_it_is(go):
    first, folder = go("a")
    before = health(folder)
    second, _ = go("a")
    assert health(folder) == before
    assert bits(second.state) == bits(first.state)
    assert second.evaluation == first.evaluation


def test_rows_past_the_checkpoint_and_a_torn_tail_are_written_again(go, uninterrupted):
    straight, straight_folder = uninterrupted
    _, folder = go("a")
    shutil.rmtree(folder / "checkpoints" / "00000040")
    with open(folder / "health.jsonl", "ab") as file:
        file.write(b'{"step":40,"loss":1}\n{"step":41,"lo')
    again, _ = go("a")
    assert health(folder) == health(straight_folder)
    assert bits(again.state) == bits(straight.state)


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(go, uninterrupted):
    straight, straight_folder = uninterrupted
    _, folder = go("a")
    arrays = folder / "checkpoints" / "00000040" / "stabjax.json"
    arrays.write_bytes(arrays.read_bytes().replace(b"40", b"41", 1))
    again, _ = go("a")
    assert bits(again.state) == bits(straight.state)
    assert health(folder) == health(straight_folder)
    (event,) = events(folder, "checkpoint_damaged")
    assert "00000040 is skipped: stabjax.json is damaged" in event["message"]


def test_a_built_task_is_shared_between_seeds_without_compiling_again(go, config_of):
    task = build_task(config_of())
    first, _ = go("s0", "train.seed=0", task=task)
    second, _ = go("s1", "train.seed=1", task=task)
    assert bits(first.state.params) != bits(second.state.params)
    with compilations() as compiled:
        resumed, _ = go("s1", "train.seed=1", "train.steps=50", task=task)
    assert resumed.steps == 50
    assert "jit(one)" not in compiled


def test_a_run_without_guards_ends_when_nearly_half_of_its_steps_are_refused(go):
    with pytest.raises(TrainingHalted, match=r"step 119: nonfinite_loss.* raw/error"):
        go("a", "guards=[]", "train.steps=300", "model.bad_from=30")
    plain, _ = go("b", "guards=null", "train.steps=120", "model.bad_from=30")
    assert plain.steps == 120


def test_a_clipped_run_says_so_once(go):
    result, folder = go("a", "guards.0.max_norm=1e-3")
    rows = read_lines(folder / "health.jsonl")
    assert sum(bool(row["alerts"]) for row in rows) == 40
    (event,) = events(folder, "alert")
    assert (event["step"], event["alert"], event["leaf"]) == (0, "clipped", None)
    assert result.alerts == {"clipped": 40}
    again, _ = go("a", "guards.0.max_norm=1e-3", "train.steps=50")
    assert again.alerts == {"clipped": 50}
    assert len(events(folder, "alert")) == 1


def test_a_non_finite_batch_is_logged_as_strict_json_with_its_cause(go):
    result, folder = go("a", "model.bad_from=7", "model.bad_until=9")
    rows = read_lines(folder / "health.jsonl")
    assert [row["step"] for row in rows if not row["accepted"]] == [7, 8]
    assert rows[7]["loss"] == "nan"
    alerts = [e for e in events(folder, "alert") if e["alert"] == "nonfinite_loss"]
    assert [(e["step"], e["component"]) for e in alerts] == [(7, "raw/error")]
    assert result.alerts["nonfinite_loss"] == 2
    assert not result.diverged


def test_an_unguarded_run_that_turned_nan_finishes_as_diverged(go):
    result, folder = go("a", "guards=null", "model.bad_from=5")
    assert result.diverged
    assert read_lines(folder / "health.jsonl")[-1]["loss"] == "nan"
    again, _ = go("a", "guards=null", "model.bad_from=5")
    assert again.diverged


def test_a_halted_run_names_step_component_and_leaf(go):
    overrides = (
        "model.bad_from=25",
        "guards=[{kind: skip_nonfinite, max_consecutive: 5}]",
    )
    with pytest.raises(TrainingHalted, match="raw/error") as caught:
        go("a", *overrides)
    halted = caught.value
    assert (halted.step, halted.component, halted.leaf) == (29, "raw/error", "b")
    with pytest.raises(TrainingHalted):  # from the checkpoint at 20, the same again
        go("a", *overrides)


def test_a_halted_run_leaves_its_rows_its_record_and_a_good_checkpoint(go, tmp_path):
    guards = "guards=[{kind: skip_nonfinite, max_consecutive: 5}]"
    with pytest.raises(TrainingHalted):
        go("a", "model.bad_from=25", guards)
    folder = tmp_path / "runs" / "a"
    rows = read_lines(folder / "health.jsonl")
    assert [row["step"] for row in rows] == list(range(30))
    assert [bool(row["halted"]) for row in rows[-2:]] == [False, True]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000020"]
    assert json.loads((folder / "run.json").read_text())["outcome"] == "halted"
    assert len(list((folder / "crash").iterdir())) == 1


def test_a_loader_that_raises_keeps_its_message_the_log_and_the_checkpoint(
    go, tmp_path, uninterrupted
):
    straight, straight_folder = uninterrupted
    with pytest.raises(StopIteration, match="the loader broke"):
        go("a", "model.raise_at=27")
    folder = tmp_path / "runs" / "a"
    assert [r["step"] for r in read_lines(folder / "health.jsonl")] == list(range(27))
    record = json.loads((folder / "crash" / "00000027.json").read_text())
    assert (record["exception"], record["step"]) == ("StopIteration", 27)
    assert record["config"]["model"]["raise_at"] == 27
    assert record["last_rows"][-1]["step"] == 26
    assert "batch_at" in record["traceback"]
    assert (folder / "checkpoints" / "00000027").is_dir()
    # The fixed loader is a changed configuration, so the resumed run shares its bits
    # only if the model option is put back by hand.
    text = (
        (folder / "config.yaml").read_text().replace("raise_at: 27", "raise_at: null")
    )
    (folder / "config.yaml").write_text(text)
    again, _ = go("a")
    assert bits(again.state) == bits(straight.state)
    assert health(folder) == health(straight_folder)


def test_a_fault_in_scoring_does_not_cost_the_steps(go, tmp_path, task, uninterrupted):
    straight, _ = uninterrupted

    def broken(state):
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError, match="no score"):
        go("a", task=dataclasses.replace(task, evaluate=broken))
    assert (tmp_path / "runs" / "a" / "checkpoints" / "00000040").is_dir()
    again, _ = go("a", task=task)
    assert bits(again.state) == bits(straight.state)
    assert again.evaluation == straight.evaluation


def test_a_step_that_raises_leaves_the_log_and_the_last_checkpoint(go, tmp_path, task):
    step = task.train.step

    def failing(state, batch, key):
        after = step(state, batch, key)
        if int(after[1].ints[0]) == 24:
            jax.tree.map(lambda leaf: leaf.delete(), after)
            raise RuntimeError("device lost")
        return after

    failing.trace = step.trace
    broken = dataclasses.replace(task.train, step=failing)
    with pytest.raises(RuntimeError, match="device lost"):
        go("a", task=dataclasses.replace(task, train=broken))
    folder = tmp_path / "runs" / "a"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000020"]
    assert len(read_lines(folder / "health.jsonl")) >= 20
    assert json.loads((folder / "run.json").read_text())["outcome"] == "failed"


def test_a_full_disk_ends_the_run_and_spares_the_last_checkpoint(
    go, tmp_path, monkeypatch, uninterrupted
):
    def full(path):
        if "00000040" in str(path):
            raise OSError(28, "No space left on device")
        seal(path)

    straight, straight_folder = uninterrupted
    with monkeypatch.context() as patch:
        patch.setattr("stabjax.run.checkpoints.seal", full)
        with pytest.raises(OSError, match="No space left"):
            go("b")
    folder = tmp_path / "runs" / "b"
    assert json.loads((folder / "run.json").read_text())["outcome"] == "failed"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000020"]
    again, _ = go("b")
    assert bits(again.state) == bits(straight.state)
    assert health(folder) == health(straight_folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_current_step_and_the_run_goes_on_from_there(
    go, tmp_path, config_of, number, uninterrupted
):
    straight, straight_folder = uninterrupted
    task = build_task(config_of())
    seen = []

    def batch_at(position):
        seen.append(position)
        if position == 16:
            for late in (number, signal.SIGINT, signal.SIGTERM):  # the first counts
                os.kill(os.getpid(), late)
        return task.batch_at(position)

    with pytest.raises(Preempted) as caught:
        go("a", task=dataclasses.replace(task, batch_at=batch_at))
    assert caught.value.exit_code == 128 + number
    assert caught.value.step == 17
    folder = tmp_path / "runs" / "a"
    assert (folder / "checkpoints" / "00000017").is_dir()
    again, _ = go("a", task=task)
    assert bits(again.state) == bits(straight.state)
    assert health(folder) == health(straight_folder)
    assert [e["step"] for e in events(folder, "preempted")] == [17]


def test_a_thread_may_train_without_touching_signal_handlers(go):
    before = signal.getsignal(signal.SIGTERM)
    found = []
    thread = threading.Thread(target=lambda: found.append(go("a")))
    thread.start()
    thread.join()
    assert found[0][0].steps == 40
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_are_put_back(go):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    go("a")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_run_on_the_folder_is_refused(go, tmp_path):
    _, folder = go("a")
    before = sorted(p.name for p in folder.rglob("*"))
    with lock.hold(folder), pytest.raises(lock.RunLocked):
        go("a", "train.steps=80")
    assert sorted(p.name for p in folder.rglob("*")) == before


def test_a_changed_configuration_is_refused_on_resume(go):
    go("a")
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: 0\.05 -> 0\.1"):
        go("a", "optimizer.learning_rate=0.1")
    with pytest.raises(ConfigError, match=r"train\.steps must be at least 40"):
        go("a", "train.steps=39")


@pytest.mark.parametrize(
    "overrides",
    [
        ["guards=[{kind: clip_by_group_norm, max_norm: 1, groups: [nowhere]}]"],
        ["guards=[{kind: skip_nonfinite, on_exhausted: roll_back}]"],
    ],
)
def test_pieces_that_do_not_fit_are_refused_before_anything_is_created(
    go, tmp_path, overrides
):
    with pytest.raises(ConfigError, match=r"line\.yaml"):
        go("a", *overrides)
    assert not (tmp_path / "runs").exists()


def test_tensorboard_gets_every_step(go):
    pytest.importorskip("tensorboardX")
    _, folder = go("a", tensorboard=True)
    (file,) = (folder / "tensorboard").iterdir()
    assert file.stat().st_size > 40 * 20


def test_missing_tensorboard_is_a_clear_error_before_anything_is_created(
    go, tmp_path, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"pip install 'stabjax\[tensorboard\]'"):
        go("a", tensorboard=True)
    assert not (tmp_path / "runs").exists()
