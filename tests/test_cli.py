import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import stabjax.models
from stabjax.cli import main
from stabjax.config import loads
from stabjax.run import build_task, lock
from stabjax.run.checkpoints import Checkpoints

RUN = pathlib.Path(__file__).parent / "run"
LINE = """
model: {name: line}
train: {steps: 40, window: 10, checkpoint_every: 20, seed: 1}
optimizer: {kind: adamw, learning_rate: 0.05}
guards: [{kind: skip_nonfinite, max_consecutive: 5}]
"""


def program(*arguments, **options):
    """Start the command line, with the line model, as a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    environment |= options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, str(RUN / "line_cli.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def wait_for_rows(folder, least, process, seconds=60):
    """Wait until health.jsonl has ``least`` lines."""
    path = folder / "health.jsonl"
    for _ in range(int(seconds / 0.02)):
        if path.exists() and path.read_bytes().count(b"\n") >= least:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the run did not get that far")


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A folder with line.yaml in it, the line model registered, as working folder."""
    monkeypatch.syspath_prepend(str(RUN))
    monkeypatch.setitem(stabjax.models.MODELS, "line", "line_model")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "line.yaml"
    path.write_text(LINE)
    return path


def test_help_is_instant_and_does_not_import_jax():
    code = (
        "import sys, stabjax.cli\n"
        "try: stabjax.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'flax', 'optax', 'pydantic', 'yaml', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert time.monotonic() - started < 2  # well under a second on an idle machine
    assert done.stderr.strip() == "[]"
    assert "train" in done.stdout
    assert "143" in done.stdout


def test_a_run_from_the_command_line_and_again(line, capsys):
    assert main(["train", str(line), "--quiet"]) == 0
    folder = line.parent / "runs" / "line"
    assert len((folder / "health.jsonl").read_text().splitlines()) == 40
    assert "40 steps  distance" in capsys.readouterr().out
    assert main(["train", "line.yaml", "train.steps=50", "--quiet"]) == 0
    assert len((folder / "health.jsonl").read_text().splitlines()) == 50


def test_overrides_may_stand_after_options(line):
    words = ["train", "line.yaml", "train.steps=5", "--name", "b", "train.seed=3"]
    assert main([*words, "--out", "elsewhere", "--quiet", "train.keep=1"]) == 0
    text = (line.parent / "elsewhere" / "b" / "config.yaml").read_text()
    assert "steps: 5" in text
    assert "seed: 3" in text


def test_a_configuration_is_found_by_its_name_in_configs(line, capsys):
    (line.parent / "configs").mkdir()
    line.rename(line.parent / "configs" / "line_cpu.yaml")
    for name in ("line_cpu", "line_cpu.yaml", "configs/line_cpu.yaml", "line"):
        assert main(["train", name, "--dry-run"]) == 0
        assert "runs/line_cpu" in capsys.readouterr().out
    assert main(["train", "lin_cpu", "--dry-run"]) == 2
    assert "did you mean 'line_cpu'?" in capsys.readouterr().err


def test_a_dry_run_prints_the_effective_configuration_and_creates_nothing(line, capsys):
    assert main(["train", "line.yaml", "train.steps=7", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "steps: 7" in out
    assert "weight_decay: 0.0001" in out
    assert "would be written to" in out
    assert [path.name for path in line.parent.iterdir()] == ["line.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "line.yaml", "train.stpes=3"], "did you mean 'steps'?"),
        (["train", "line.yaml", "model.width=0"], "model.width must be greater than 0"),
        (["train", "line.yaml", "guards.0.kind=skip"], "guards.0.kind 'skip' is unkno"),
        (["train", "line.yaml", "optimizer.b1=2"], r"optimizer.b1 must be in [0, 1)"),
        (["train", "nowhere.yaml"], "configuration 'nowhere.yaml' not found"),
        (["train", "line.yaml", "--name", "../x"], "run name must be"),
        (["train", "line.yaml", "--name", ""], "run name must be"),
        (["train", "a\0b"], "not found"),
        (["train", "."], "configuration '.' is not a file"),
        (["report", "nowhere"], "nowhere: no such run folder"),
        (["compare", "line.yaml", "--seeds", "0;1"], "--seeds must be whole numbers"),
    ],
)
def test_a_configuration_fault_exits_with_2_and_creates_nothing(
    line, capsys, words, message
):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("stabjax: ")
    assert "Traceback" not in captured.err
    assert [path.name for path in line.parent.iterdir()] == ["line.yaml"]


@pytest.mark.parametrize(
    "words", [[], ["tarin"], ["train"], ["train", "a", "b"], ["list", "x"], ["report"],
              ["train", "line.yaml", "--frobnicate", "a=1"], ["list", "a=1"]],
)  # fmt: skip
def test_wrong_usage_exits_with_2(line, words, capsys):
    code = 0
    try:
        code = main(words)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_diverged_run_exits_with_3(line, capsys):
    assert main(["train", "line.yaml", "model.bad_from=9", "--quiet"]) == 3
    error = capsys.readouterr().err
    assert "halted at step 13" in error
    assert "raw/error" in error
    assert "Traceback" not in error
    words = ["model.bad_from=9", "guards=null", "--name", "b", "--quiet"]
    assert main(["train", "line.yaml", *words]) == 3
    assert "diverged" in capsys.readouterr().err


def test_a_failed_run_exits_with_1_and_tells_the_first_error(line, capsys):
    assert main(["train", "line.yaml", "model.raise_at=9", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "the run failed: StopIteration: the loader broke" in error
    assert (line.parent / "runs" / "line" / "crash" / "00000009.json").exists()


def test_compare_and_report_write_their_pages(line, capsys):
    with line.open("a") as file:
        file.write("compare: {seeds: [0], arms: {before: [guards=null], sound: []}}\n")
    words = ["train.steps=10", "train.checkpoint_every=0", "--quiet"]
    assert main(["compare", "line", *words]) == 2
    assert "'line' not found" in capsys.readouterr().err
    assert main(["compare", "line.yaml", *words, "--seeds", "1"]) == 0
    folder = line.parent / "runs" / "compare-line"
    assert (folder / "before" / "seed1" / "health.jsonl").exists()
    assert "before" in capsys.readouterr().out
    assert main(["report", str(folder / "sound" / "seed1")]) == 0
    assert capsys.readouterr().out.strip().endswith("sound/seed1/report.html")


def test_a_folder_in_use_exits_with_4(line, capsys):
    assert main(["train", "line.yaml", "--quiet"]) == 0
    with lock.hold(line.parent / "runs" / "line"):
        assert main(["train", "line.yaml", "--quiet"]) == 4
    error = capsys.readouterr().err
    assert f"in use by pid {os.getpid()}" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("what", ["models", "configs", "optimizers", "schedules",
                                  "guards", "losses", None])  # fmt: skip
def test_list_names_what_there_is(what, capsys):
    assert main(["list", *([what] if what else [])]) == 0
    out = capsys.readouterr().out
    expected = {"models": "ctm", "optimizers": "adamw(learning_rate", "guards": "skip_"}
    assert expected.get(what, "") in out
    assert out.strip()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The files of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "line.yaml").write_text(LINE)
    process = program("train", "line.yaml", "train.steps=60", cwd=folder)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return folder / "runs" / "line"


def digests(folder):
    """What must be equal: the log, and the sealed leaves of the last checkpoint."""
    config = loads((folder / "config.yaml").read_text())
    state = build_task(config).init(jax.random.key(0))
    found = Checkpoints(folder / "checkpoints").restore_latest(state)
    assert found is not None
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found[1])]
    log = (folder / "health.jsonl").read_bytes()
    return found[0], hashlib.sha256(b"".join(leaves)).hexdigest(), log


def settle(folder, *words):
    """Run the command until it ends by itself."""
    process = program("train", "line.yaml", *words, cwd=folder)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def kill_nine(line, least):
    words = ["train.steps=60", "train.checkpoint_every=5", "--name", f"k{least}"]
    process = program("train", "line.yaml", *words, "model.sleep=0.01", cwd=line.parent)
    wait_for_rows(line.parent / "runs" / f"k{least}", least, process)
    process.kill()
    process.communicate()
    settle(line.parent, *words, "model.sleep=0.01")
    return line.parent / "runs" / f"k{least}"


# Optimized, as the process is that is killed: its bits are those of this one.
@pytest.mark.optimized
def test_a_run_killed_with_9_goes_on_and_ends_with_the_same_bits(line):
    words = ["train", "line.yaml", "train.steps=60", "--quiet", "--name"]
    sleepy = ["killed", "train.checkpoint_every=5", "model.sleep=0.01"]
    process = program(*words, *sleepy, cwd=line.parent)
    runs = line.parent / "runs"
    wait_for_rows(runs / "killed", 20, process)
    process.kill()
    process.communicate()
    assert main([*words, *sleepy]) == 0
    assert main([*words, "straight"]) == 0
    assert digests(runs / "killed") == digests(runs / "straight")
    assert not list((runs / "killed" / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("least", range(1, 50, 3))
def test_a_run_killed_anywhere_ends_with_the_same_bits(line, straight, least):
    assert digests(kill_nine(line, least)) == digests(straight)


def die_at(line, call):
    words = ["train", "line.yaml", "train.steps=60", "--quiet"]
    process = program(*words, cwd=line.parent, env={"DIE_AT": str(call)})
    process.communicate(timeout=120)
    assert process.returncode == 9
    settle(line.parent, *words[2:])
    return line.parent / "runs" / "line"


@pytest.mark.slow
def test_a_run_that_dies_inside_a_save_ends_with_the_same_bits(line, straight):
    assert digests(die_at(line, 45)) == digests(straight)


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, 90, 3))
def test_a_run_that_dies_at_any_durable_call_ends_with_the_same_bits(
    line, straight, call
):
    assert digests(die_at(line, call)) == digests(straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_storm_of_signals_saves_and_exits_with_its_code(line, straight, number, code):
    words = ["train.steps=60", "model.sleep=0.02"]
    process = program("train", "line.yaml", *words, cwd=line.parent)
    folder = line.parent / "runs" / "line"
    wait_for_rows(folder, 10, process)
    started = time.monotonic()
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.01)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert time.monotonic() - started < 30
    assert "stopped by" in error
    assert "Traceback" not in error
    step = json.loads((folder / "run.json").read_text())["step"]
    assert (folder / "checkpoints" / f"{step:08d}").is_dir()
    assert (folder / "health.jsonl").read_bytes().count(b"\n") == step
    settle(line.parent, *words)
    assert digests(folder) == digests(straight)


def test_a_signal_at_start_up_exits_with_its_code(line):
    process = program("train", "line.yaml", cwd=line.parent)
    time.sleep(0.3)  # python is up, jax is not
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM)
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_unharmed(line, straight):
    # Long enough for the second to start on a busy machine.
    words = ["train.steps=60", "model.sleep=0.5"]
    first = program("train", "line.yaml", *words, cwd=line.parent)
    folder = line.parent / "runs" / "line"
    wait_for_rows(folder, 10, first)
    second = program("train", "line.yaml", *words, cwd=line.parent)
    _, error = second.communicate(timeout=60)
    assert second.returncode == 4
    assert f"in use by pid {first.pid}" in error
    _, error = first.communicate(timeout=120)
    assert first.returncode == 0, error
    assert digests(folder) == digests(straight)
