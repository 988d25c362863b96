"""Run `stabjax compare ppo` and keep one record per arm and random seed.

    python benchmarks/ppo_arms.py arms                  # the arms, seeds 0 and 1
    python benchmarks/ppo_arms.py ablation --seeds 0    # and one change at a time

Writes benchmarks/results/ppo_<what>.jsonl anew. The first line holds the command,
versions, hardware and the CPU-seconds of all runs together, compilation included, as
the system counts them for the finished process; runs that were already in the folder
cost nothing.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
WHAT = {"arms": [], "ablation": ["--ablate"]}


def run(command: list[str]) -> float:
    """Run a command to its end; return the CPU-seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def records(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one record per arm and seed of a comparison.json."""
    titles = [column["title"] for column in comparison["summary"]]
    found = []
    for arm in comparison["arms"]:
        for number, seed in enumerate(arm["seeds"]):
            record = {"arm": arm["name"], "seed": seed["seed"]}
            record |= {"overrides": arm["overrides"]}
            for title, cell in zip(titles, arm["cells"], strict=True):
                record[title] = cell["values"][number]
            found.append(record)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=sorted(WHAT))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs")
    options = parser.parse_args()
    name = f"ppo-{options.what}"
    program = pathlib.Path(sys.executable).parent / "stabjax"
    arguments = ["compare", "ppo", *WHAT[options.what], "--seeds", options.seeds]
    place = ["--out", str(options.out), "--name", name]
    seconds = run([str(program), *arguments, *place])
    comparison = json.loads((options.out / name / "comparison.json").read_text())
    header = {
        "command": " ".join(["stabjax", *arguments]),
        "cpu_seconds": round(seconds, 1),
        "steps": comparison["steps"],
        "versions": comparison["versions"],
        "hardware": comparison["hardware"],
        "reading": comparison["reading"],
    }
    path = ROOT / "benchmarks" / "results" / f"ppo_{options.what}.jsonl"
    lines = [json.dumps(line) for line in (header, *records(comparison))]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
