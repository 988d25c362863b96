import os
import stat
import subprocess
import sys

import pytest

from stabjax.config import ConfigError
from stabjax.run import lock
from stabjax.run.folder import (
    check_config,
    check_folder,
    check_name,
    make_folder,
    write_atomically,
    write_config,
)

BAD_NAMES = [
    *("", ".", "..", "-a", ".a", "_a", "a..b", "../a", "a/b", "/a", "a\\b", "a b"),
    *("a\nb", "a\0b", "a" * 129, "ä", "a;b", "a$b", "~", "a*", "a:b", "a|b", "\u202ea"),
    *("a\n", "\ta", "a%2f", "a'b", 'a"b', "a`b`", "$(a)", "a&b", "a<b", "a#b"),
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_run_name_is_refused_and_nothing_created(name, tmp_path):
    with pytest.raises(ConfigError, match="run name"):
        check_name(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["a", "A1", "0", "a.b", "a-b_c.d", "run.v1.2", "x" * 128]
)
def test_a_good_run_name_is_kept(name):
    assert check_name(name) == name


def test_a_symbolic_link_never_leads_out_of_the_run(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "link"
    link.symlink_to(outside)
    with pytest.raises(ConfigError, match="symbolic link"):
        check_folder(link)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("")
    (run / "checkpoints").symlink_to(outside)
    with pytest.raises(ConfigError, match="symbolic link"):
        check_folder(run)
    assert not list(outside.iterdir())


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    check_folder(tmp_path / "run")
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is not a run"):
        check_folder(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="must be a folder"):
        check_folder(tmp_path / "file")


def test_what_is_written_is_not_writable_by_others(tmp_path):
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b")
        write_atomically(tmp_path / "a" / "b" / "f", "text")
    finally:
        os.umask(before)
    for path in (tmp_path / "a" / "b", tmp_path / "a" / "b" / "f"):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    assert (tmp_path / "a" / "b" / "f").read_text() == "text"


def test_only_length_and_saving_may_change_once_a_run_has_begun(tmp_path, config_of):
    write_config(tmp_path, config_of())
    check_config(tmp_path, config_of("optimizer.learning_rate=1"))  # not begun yet
    (tmp_path / "health.jsonl").write_text("{}\n")
    check_config(tmp_path, config_of("train.steps=80", "train.keep=9"))
    check_config(tmp_path, config_of("compare.seeds=[3]"))
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: 0\.05 -> 1\.0"):
        check_config(tmp_path, config_of("optimizer.learning_rate=1"))
    with pytest.raises(
        ConfigError, match=r"guards\.0\.kind: 'clip_by_global_norm' -> 's"
    ):
        check_config(tmp_path, config_of("guards=[{kind: skip_nonfinite}]"))


def test_a_second_writer_is_refused_and_named(tmp_path):
    with (
        lock.hold(tmp_path),
        pytest.raises(lock.RunLocked, match=rf"in use by pid {os.getpid()} on"),
        lock.hold(tmp_path),
    ):
        pass
    with lock.hold(tmp_path):  # released, though the file stays
        assert (tmp_path / "lock").exists()


def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path):
    program = (
        "import sys, pathlib, time\nfrom stabjax.run import lock\n"
        "with lock.hold(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(lock.RunLocked), lock.hold(tmp_path):
            pass
        process.kill()
        process.wait()
    with lock.hold(tmp_path):
        pass
