"""Print what each program reads, writes and allocates on CPU, as XLA counts it.

    python benchmarks/cpu_bytes.py mlp transformer

One JSON object per tree, in units of N, the bytes of the parameters.
"""

import argparse
import json

import jax
import programs


def measure(tree_name: str) -> dict[str, dict[str, float]]:
    """Compile every program and read XLA's analyses."""
    tree = programs.TREES[tree_name]()
    unit = programs.bytes_of(tree)
    rows = {}
    for name, program in programs.programs("branch").items():
        compiled = programs.compile_for(program, tree)
        temporary = compiled.memory_analysis().temp_size_in_bytes
        rows[name] = {
            "bytes": round(programs.accessed(compiled) / unit, 3),
            "temporary": round(temporary / unit, 3),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="+", choices=sorted(programs.TREES))
    for tree in parser.parse_args().trees:
        record = {"target": "cpu", "tree": tree, "jax": jax.__version__}
        print(json.dumps(record | {"programs": measure(tree)}), flush=True)


if __name__ == "__main__":
    main()
