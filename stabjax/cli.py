"""The command line: list, train, compare, report, cost.

Exit codes: 0 finished; 1 the run failed; 2 usage or configuration, nothing created;
3 the run diverged; 4 another process owns the run folder; 130 stopped by Ctrl-C and 143
by SIGTERM, the current step saved.

Everything heavy is imported inside a command, so that ``--help`` is instant.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from stabjax._version import __version__

FINISHED, FAILED, USAGE, DIVERGED, LOCKED = 0, 1, 2, 3, 4

_EXIT_CODES = """\
exit codes:
  0    finished
  1    the run failed; see its crash/ folder
  2    usage or configuration; nothing was created
  3    diverged: a guard halted the run, or it ended without training
  4    another process owns the run folder
  130  stopped by Ctrl-C, the current step is saved
  143  stopped by SIGTERM, the current step is saved
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``stabjax``; ``sys.argv`` by default.

    Returns:
        The exit code.
    """
    os.umask(os.umask(0o077) | 0o022)  # nothing we write is writable by others
    parser = _parser()
    options, extra = parser.parse_known_args(arguments)
    # key=value may stand after an option, where argparse no longer expects it.
    wrong = [word for word in extra if word.startswith("-") or "=" not in word]
    if wrong or (extra and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(wrong or extra)}")
    if extra:
        options.overrides = [*options.overrides, *extra]
    return _guarded(options)


def _guarded(options: argparse.Namespace) -> int:
    from stabjax.config.errors import ConfigError

    try:
        return options.command(options)
    except KeyboardInterrupt:
        return _complain("stopped by Ctrl-C", 130)
    except ConfigError as error:
        return _complain(error, USAGE)
    except BrokenPipeError:  # `stabjax list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINISHED
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> int:
    from stabjax.run.lock import RunLocked
    from stabjax.run.signals import Preempted

    if isinstance(error, RunLocked):
        return _complain(error, LOCKED)
    if isinstance(error, Preempted):
        return _complain(error, error.exit_code)
    # By name, because a failure before jax was imported should not import it.
    if any(kind.__name__ == "TrainingHalted" for kind in type(error).__mro__):
        return _complain(error, DIVERGED)
    if not isinstance(error, OSError) and type(error).__name__ != "CheckpointDamaged":
        import traceback

        traceback.print_exception(error)
    return _complain(f"the run failed: {type(error).__name__}: {error}", FAILED)


def _complain(message: object, code: int) -> int:
    print(f"stabjax: {message}", file=sys.stderr, flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stabjax",
        description="Keeps a JAX training run alive and says why it was dying.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="name what a configuration may use")
    listing.add_argument(
        "what", nargs="?", choices=("models", "configs", "optimizers", "schedules",
                                    "guards", "losses"),
    )  # fmt: skip
    listing.set_defaults(command=_list)

    train = commands.add_parser(
        "train",
        help="run a configuration; the same command again resumes it",
        epilog="example: stabjax train ctm_cpu train.steps=100 --name short",
    )
    _configured(train, "a YAML file, or the name of one in configs/")
    train.add_argument("--dry-run", action="store_true", help="check and print only")
    train.add_argument(
        "--tensorboard", action="store_true", help="write event files too"
    )
    train.set_defaults(command=_train)

    compare = commands.add_parser(
        "compare", help="run a model before and after its fixes, in one table"
    )
    _configured(compare, "a model, a YAML file, or the name of one in configs/")
    compare.add_argument("--seeds", help="comma-separated, as 0,1,2")
    compare.add_argument(
        "--ablate", action="store_true", help="add the fixes one at a time too"
    )
    compare.set_defaults(command=_compare)

    report = commands.add_parser("report", help="write a run's one-file HTML report")
    report.add_argument("run", help="a run folder")
    report.set_defaults(command=_report)

    cost = commands.add_parser(
        "cost",
        help="print what guards add to an optimizer, from the compiled program",
        epilog="example: stabjax cost --shapes w=1024x1024,b=1024 optimizer.kind=adamw "
        "optimizer.learning_rate=1e-3 'guards=[{kind: skip_spikes}]'",
    )
    cost.add_argument(
        "config",
        nargs="?",
        help="as for train; or module:function, which returns "
        "(params, optimizer, guards)",
    )
    cost.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as optimizer.kind=lion"
    )
    cost.add_argument(
        "--shapes", help="parameters as name=1024x512,... or a YAML file of them"
    )
    cost.add_argument(
        "--devices", type=int, default=1, help="shard the parameters over so many (1)"
    )
    cost.set_defaults(command=_cost)
    return parser


def _configured(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("config", help=what)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as train.steps=10"
    )
    parser.add_argument(
        "--out", default="runs", type=pathlib.Path, help="folder of runs (runs/)"
    )
    parser.add_argument("--name", help="name in that folder (default: by the file)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _list(options: argparse.Namespace) -> int:
    from stabjax.run.catalog import describe

    print(describe(options.what))
    return FINISHED


def _train(options: argparse.Namespace) -> int:
    from stabjax.run.signals import StopRequest

    with StopRequest() as stop:  # from here on: a signal while jax loads is not lost
        return _train_until(options, stop)


def _train_until(options: argparse.Namespace, stop: Any) -> int:
    from stabjax.config import load
    from stabjax.run.catalog import find_config
    from stabjax.run.folder import check_folder, check_name

    path = find_config(options.config)
    folder = check_folder(
        options.out / check_name(path.stem if options.name is None else options.name)
    )
    config = load(path, options.overrides)
    if options.dry_run:
        return _dry_run(config, folder)
    from stabjax.run import train

    result = train(
        config,
        folder,
        progress=not options.quiet,
        tensorboard=options.tensorboard,
        stop=stop,
    )
    scores = "  ".join(f"{key} {value:.5g}" for key, value in result.evaluation.items())
    print(f"{result.folder}: {result.steps} steps  {scores}".rstrip())
    if result.diverged:
        return _complain(
            "the run diverged: its last loss is not finite, or none of its last steps "
            "was applied",
            DIVERGED,
        )
    return FINISHED


def _dry_run(config: Any, folder: pathlib.Path) -> int:
    from stabjax.config import effective
    from stabjax.run import build_task
    from stabjax.run.folder import check_config

    check_config(folder, config)
    build_task(config)
    print(effective(config), end="")
    verb = "would go on with" if folder.exists() else "would be written to"
    print(f"# {verb} {folder}")
    return FINISHED


def _compare(options: argparse.Namespace) -> int:
    from stabjax.config import load
    from stabjax.run.catalog import find_config
    from stabjax.run.compare import compare
    from stabjax.run.folder import check_name

    path = find_config(options.config)
    name = f"compare-{path.stem}" if options.name is None else options.name
    result = compare(
        load(path, options.overrides),
        options.out / check_name(name),
        seeds=_seeds(options.seeds),
        ablate=options.ablate,
        progress=not options.quiet,
    )
    print(result)
    return FINISHED


def _seeds(text: str | None) -> tuple[int, ...] | None:
    from stabjax.config.errors import ConfigError, show

    if text is None:
        return None
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise ConfigError(f"--seeds must be whole numbers as 0,1,2, got {show(text)}.")
    return tuple(int(word) for word in words)


def _report(options: argparse.Namespace) -> int:
    from stabjax.config.errors import ConfigError
    from stabjax.run.report import write_report

    folder = pathlib.Path(options.run)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such run folder.")
    print(write_report(folder))
    return FINISHED


def _cost(options: argparse.Namespace) -> int:
    import shutil

    from stabjax.cost.command import report_cost

    what, overrides = options.config, options.overrides
    if what is not None and "=" in what:  # --shapes alone, then key=value
        what, overrides = None, [what, *overrides]
    width = shutil.get_terminal_size((100, 24)).columns
    print(
        report_cost(
            what,
            overrides,
            shapes=options.shapes,
            devices=options.devices,
            width=width,
        )
    )
    return FINISHED
