"""Compile the optimizer step for a GPU and a TPU that are not there, and count.

    python benchmarks/ahead_of_time.py gpu mlp transformer
    python benchmarks/ahead_of_time.py tpu mlp --devices 8

Needs the compilers, which are wheels and need no device (`make aot` installs them
into build/aot, apart from the environment):

    pip install --no-deps --target build/aot \
        jax-cuda12-plugin==<jax version> jax-cuda12-pjrt==<jax version> libtpu

Prints one JSON object per tree. Bytes are in units of N, the bytes of the parameters,
and are those of device memory, counted from the program. For the TPU ``xla_bytes`` is
what XLA says, which counts again what it fetches ahead into the memory of the core.
On several devices, large leaves are sharded along their first axis, and collectives
are counted.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
WHEELS = pathlib.Path(os.environ.get("STABJAX_AOT", HERE.parent / "build" / "aot"))
sys.path[:0] = [str(HERE), str(WHEELS)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax  # noqa: E402
import programs  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from stabjax.cost import hlo  # noqa: E402
from stabjax.cost.shapes import spread_over  # noqa: E402

# What XLA wants to know of the GPU it compiles for: an H200.
_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560 clock_rate_ghz: 1.98
  device_memory_size: 150754820096 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H200"
"""


def mesh(target: str, devices: int) -> jax.sharding.Mesh:
    """Return a mesh of devices of the target, none of which is there."""
    if target == "gpu":
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=_H200, topology=f"1x1x{devices}"
        )
    else:
        topology = topologies.get_topology_desc("v5e:2x4", platform="tpu")
    return jax.sharding.Mesh(topology.devices[:devices], ("device",))


def measure(
    target: str, tree_name: str, devices: int, groups: list[str]
) -> dict[str, dict[str, float]]:
    """Compile every program for the target and count."""
    tree = programs.TREES[tree_name]()
    unit = programs.bytes_of(tree)
    place = spread_over(mesh(target, devices))
    # What `init` does by itself where it finds parameters sharded.
    options: dict[str, Any] = {"sample_updates": devices == 1}
    options["guards"] = programs.all_guards(groups)
    rows = {}
    for name, program in programs.programs("select", **options).items():
        compiled = programs.compile_for(program, tree, place)
        counts = hlo.traffic(compiled.as_text())
        rows[name] = counts._asdict()
        # What lies behind a conditional is not counted.
        moved = None if counts.conditionals else round(counts.bytes / unit, 4)
        rows[name]["bytes"] = moved
        if target == "tpu":
            rows[name]["xla_bytes"] = round(programs.accessed(compiled) / unit, 4)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=("gpu", "tpu"))
    parser.add_argument("trees", nargs="+", choices=sorted(programs.TREES))
    parser.add_argument("--devices", type=int, default=1, choices=(1, 8))
    parser.add_argument(
        "--groups", nargs="+", default=["head"], help="prefixes clipped by themselves"
    )
    arguments = parser.parse_args()
    for tree in arguments.trees:
        rows = measure(arguments.target, tree, arguments.devices, arguments.groups)
        record = {"target": arguments.target, "devices": arguments.devices}
        record["groups"] = len(arguments.groups)
        record |= {"tree": tree, "jax": jax.__version__}
        print(json.dumps(record | {"programs": rows}), flush=True)


if __name__ == "__main__":
    main()
