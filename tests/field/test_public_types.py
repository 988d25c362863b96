"""A program with types is right to pyright and mypy, and a wrong one is wrong."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import stabjax

PROGRAM = pathlib.Path(__file__).with_name("typed_program.py")
ROOT = pathlib.Path(stabjax.__file__).parents[1]
# Each line after the import is wrong.
WRONG = """\
import optax  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

import stabjax
from stabjax import guards, transforms


def told(params: float, batch: float) -> str:
    return "loss"


adam = optax.adam(0.1)
stabjax.make_train_step(told, adam)
stabjax.make_train_step(3, adam)
stabjax.make_train_step(lambda: 1.0, adam, guards=[1.0])
stabjax.make_train_step(lambda: 1.0, adam, guards=guards.skip_spikes)
stabjax.guard(adam, guards.skip_spikes)
transforms.accumulate(adam, guards.skip_spikes())
transforms.skip_spikes()
"""
FIRST_WRONG_LINE = 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("typed")
    (where / "right.py").write_text(PROGRAM.read_text())
    (where / "wrong.py").write_text(WRONG)
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (where / "pyrightconfig.json").write_text(json.dumps(settings))
    return where


def checked(folder, *command):
    """Return what a type checker prints, and the lines it finds wrong by file."""
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr
    found = re.findall(r"(\w+)\.py:(\d+)(?::\d+)?(?: -|:) error", ran.stdout)
    lines = {name: {int(at) for n, at in found if n == name} for name, _ in found}
    return ran.stdout, lines


@pytest.mark.parametrize(
    "command",
    [
        ("pyright", "--pythonpath", sys.executable, "-p", "."),
        ("mypy", "--strict", "--cache-dir", ".cache", "right.py", "wrong.py"),
    ],
    ids=["pyright", "mypy"],
)
def test_every_form_of_loss_and_guards_is_right_and_what_is_none_is_wrong(
    folder, command
):
    said, lines = checked(folder, *command)
    assert "right" not in lines, said
    last = len(WRONG.splitlines())
    expected = set(range(FIRST_WRONG_LINE, last + 1))
    assert expected <= lines["wrong"], said


def test_the_program_itself_runs():
    ran = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=PROGRAM.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


RUN = """
import jax.numpy as jnp
import typed_program as program

params, batch = {"w": jnp.ones(3)}, {"x": jnp.ones((4, 3)), "y": jnp.ones(4)}
steps = program.train_steps()
assert len(steps) == len(program.forms)
for step, form in zip(steps, program.forms, strict=True):
    stateful = form is program.stateful
    step.init(params, batch, model_state=jnp.zeros(()) if stateful else None)
program.train(params, batch)
program.train_by_hand(params, params, jnp.ones(()))
"""
