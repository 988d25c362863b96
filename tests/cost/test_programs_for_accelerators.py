"""What the guards cost on a GPU and a TPU, compiled ahead of time without one."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from programs import FAMILY

from stabjax.cost import hlo

ROOT = pathlib.Path(__file__).parents[2]
WHEELS = pathlib.Path(os.environ.get("STABJAX_AOT", ROOT / "build" / "aot"))
CLIP = "clip+adamw"


def compiled_for(target, tree, *options):
    """Run the benchmark in a process of its own: the plugins stay out of ours."""
    needed = "jax_plugins/xla_cuda12" if target == "gpu" else "libtpu"
    if not (WHEELS / needed).exists():
        pytest.skip(f"no compiler for {target} in {WHEELS}; `make aot` installs it")
    script = ROOT / "benchmarks" / "ahead_of_time.py"
    done = subprocess.run(
        [sys.executable, script, target, tree, *options],
        capture_output=True,
        text=True,
        env=os.environ | {"STABJAX_AOT": str(WHEELS), "XLA_FLAGS": ""},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])["programs"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_gpu_program_of_8_leaves_has_few_kernels_and_no_conditional():
    found = compiled_for("gpu", "mlp")
    assert found["adamw"]["bytes"] == pytest.approx(7.0, rel=1e-3)
    assert found["guarded"]["bytes"] <= 1.01 * found[CLIP]["bytes"]
    assert found["guarded"]["kernels"] <= found[CLIP]["kernels"] + 7
    assert found["guarded"]["conditionals"] == 0
    # To foretell an update takes three, and reads as good as nothing.
    assert found[FAMILY]["kernels"] <= found[CLIP]["kernels"] + 14
    assert found[FAMILY]["bytes"] <= 1.01 * found[CLIP]["bytes"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_gpu_program_of_150_leaves_has_no_more_kernels_than_clipping_alone():
    found = compiled_for("gpu", "transformer")
    assert found["guarded"]["bytes"] <= 1.01 * found[CLIP]["bytes"]
    assert found["guarded"]["kernels"] <= found[CLIP]["kernels"]
    assert found["guarded"]["conditionals"] == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_gpu_program_of_300_tiny_leaves_has_far_fewer_kernels():
    found = compiled_for("gpu", "tiny300")
    assert found["guarded"]["kernels"] <= 0.6 * found[CLIP]["kernels"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tree", ["mlp", "transformer"])
def test_tpu_program_moves_no_more_than_clipping_and_has_no_conditional(tree):
    found = compiled_for("tpu", tree)
    assert found["guarded"]["bytes"] <= 1.01 * found[CLIP]["bytes"]
    assert found["guarded"]["conditionals"] == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", ["gpu", "tpu"])
def test_clipping_each_layer_by_itself_moves_no_more(target):
    layers = [f"layer{i}" for i in range(12)]
    found = compiled_for(target, "transformer", "--groups", *layers)
    assert found["guarded"]["bytes"] <= 1.01 * found[CLIP]["bytes"]
    assert found["guarded"]["conditionals"] == 0
    if target == "gpu":
        assert found["guarded"]["kernels"] <= found[CLIP]["kernels"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", ["gpu", "tpu"])
def test_eight_devices_exchange_no_more_than_for_clipping(target):
    found = compiled_for(target, "mlp", "--devices", "8")
    assert found[CLIP]["collectives"] == 1
    assert found["apply_if_finite(clip+adamw)"]["collectives"] == 2
    assert found["guarded"]["collectives"] == 1
    assert found["guarded"]["conditionals"] == 0
    assert found["guarded"]["bytes"] <= 1.01 * found[CLIP]["bytes"]


def test_bytes_are_read_from_a_program_as_a_person_would():
    text = """HloModule m
%fused (p0: f32[8,4], p1: f32[4]) -> f32[4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %slice.1 = f32[1,4]{1,0} slice(%p0), slice={[0:1], [0:4]}
  %bitcast.1 = f32[4]{0} bitcast(%slice.1)
  %p1 = f32[4]{0} parameter(1)
  ROOT %add.1 = f32[4]{0} add(%bitcast.1, %p1)
}
ENTRY %main (a: f32[8,4], b: f32[4]) -> f32[4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %f = f32[4]{0} fusion(%a, %b), kind=kLoop, calls=%fused
  ROOT %c = f32[4]{0} copy(%f)
}
"""
    assert hlo.traffic(text) == hlo.Traffic(1, 1, 0, 0, 16 * 3 + 2 * 16)


def test_bytes_fetched_ahead_into_the_memory_of_the_core_are_counted_once():
    text = """HloModule m
%fused (p0: f32[8,4], p1: f32[4,4]) -> f32[8,4] {
  %p0 = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  %p1 = f32[4,4]{1,0:T(8,128)S(1)} parameter(1)
  ROOT %add.1 = f32[8,4]{1,0:T(8,128)} add(%p0, %p1)
}
ENTRY %main (a: f32[8,4], b: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0:T(8,128)} parameter(0)
  %b = f32[8,4]{1,0:T(8,128)} parameter(1)
  %s = (f32[8,4]{1,0:T(8,128)S(1)}, f32[8,4]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %d = f32[8,4]{1,0:T(8,128)S(1)} copy-done(%s)
  %t = ((f32[8,4]{1,0:T(8,128)}), f32[4,4]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) \
slice-start(%b), slice={[0:4], [0:4]}
  %e = f32[4,4]{1,0:T(8,128)S(1)} slice-done(%t)
  ROOT %f = f32[8,4]{1,0:T(8,128)} fusion(%d, %e), kind=kLoop, calls=%fused
}
""".replace("\\\n", "")
    # Read once: all of a, half of b. Written once: the result.
    assert hlo.traffic(text) == hlo.Traffic(1, 2, 0, 0, 128 + 64 + 128)
