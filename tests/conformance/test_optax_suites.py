"""Optax's own tests, with our functions in place of the ones they replace.

They need a checkout of optax, which is no dependency of the tests:

    git clone https://github.com/google-deepmind/optax /tmp/optax
    STABJAX_OPTAX=/tmp/optax python -m pytest -m slow tests/conformance
"""

import json
import os
import pathlib
import subprocess
import sys

import optax_adapters
import pytest

HERE = pathlib.Path(__file__).parent
CHECKOUT = os.environ.get("STABJAX_OPTAX")
SUITES = {
    "functions": (
        "optax/transforms/_accumulation_test.py",
        "optax/transforms/_clipping_test.py",
        "optax/transforms/_conditionality_test.py",
        "optax/transforms/_constraining_test.py",
        "optax/transforms/_monitoring_test.py",
        "optax/contrib/_reduce_on_plateau_test.py",
        "optax/contrib/_common_test.py",
        "optax/schedules/_inject_test.py",
        "optax/_src/float64_test.py",
    ),
    "optimizers": ("optax/_src/alias_test.py",),
}
REPLACED = {"functions": optax_adapters.REPLACED, "optimizers": optax_adapters.FOLDED}
# What we do otherwise on purpose: the test, and why it cannot pass.
INTENDED = {
    "functions": {
        "ConstraintsTest::test_zero_nans": "an infinity does not pass a repair",
    },
    "optimizers": {},
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        CHECKOUT is None, reason="STABJAX_OPTAX names no checkout of optax"
    ),
]


@pytest.fixture(scope="module", params=sorted(SUITES))
def run(request, tmp_path_factory):
    """Run the suites of a kind in a process of their own, and read the report."""
    report = tmp_path_factory.mktemp("optax") / "report.json"
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(HERE)]),
        "STABJAX_OPTAX_REPORT": str(report),
        "STABJAX_OPTAX_REPLACE": request.param,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "optax_plugin"]
    command += ["-p", "no:cacheprovider", *SUITES[request.param]]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return request.param, json.loads(report.read_text())


def test_only_what_is_meant_to_differ_fails(run):
    kind, report = run
    failed = {
        name.partition("::")[2]
        for name, outcome in report["outcomes"].items()
        if outcome == "failed"
    }
    assert failed == set(INTENDED[kind])
    assert list(report["outcomes"].values()).count("passed") >= 20


def test_every_function_that_we_replace_was_called(run):
    kind, report = run
    assert set(report["calls"]) == set(REPLACED[kind])
