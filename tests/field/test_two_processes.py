"""Parameters that no process holds whole: a step starts, runs and judges as in one."""

import json
import pathlib
import socket
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).with_name("process_of_two.py")


def started(port, index):
    return subprocess.Popen(
        [sys.executable, PROGRAM, str(port), index],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_judge_as_one_does():
    alone = ends_of(started(0, "alone"))
    port = free_port()
    both = [started(port, str(index)) for index in range(2)]
    first, second = (ends_of(process) for process in both)
    assert first == second
    for name, row in alone.items():
        # A mean over two processes is added up in another order.
        assert first[name] == pytest.approx(row, rel=1e-4, abs=1e-6), name
    assert alone["recommended"]["applied_total"] == 3
