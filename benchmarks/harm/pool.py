"""Processes that work on one run at a time, and the progress they make."""

import concurrent.futures as futures
import contextlib
import dataclasses
import multiprocessing
import queue
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

Line = Mapping[str, Any]
_results: Any = None  # of a worker: where its lines go


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be done for one run.

    Attributes:
        what: ``"healthy"`` or ``"faults"``.
        run: Its name.
        settings: Names of the settings.
        seeds: How many random seeds.
        lines: Lines that are there.
    """

    what: str
    run: str
    settings: tuple[str, ...]
    seeds: int
    lines: tuple[Line, ...]


def run_all(
    jobs: Sequence[Job], workers: int, keep: Callable[[Line], None]
) -> dict[str, str]:
    """Work on all jobs; return the traceback of each that failed, by run.

    Args:
        jobs: The jobs.
        workers: Processes, one per core.
        keep: Takes each new line, in this process.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    failed = {}
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn()) as progress,
        futures.ProcessPoolExecutor(workers, context, _begin, (results,)) as pool,
    ):
        bar = progress.add_task("runs", total=len(jobs))
        waiting = {pool.submit(_work, job): job.run for job in jobs}
        while waiting:
            done, _ = futures.wait(waiting, 0.5, futures.FIRST_COMPLETED)
            for line in _drained(results):
                keep(line)
                fault = line.get("fault", "")
                text = f"{line['run']}: {line['setting']} {fault}"
                progress.update(bar, description=f"{text[:60]:60}")
            for future in done:
                name = waiting.pop(future)
                progress.advance(bar)
                if error := future.result():
                    failed[name] = error
                    progress.console.print(f"{name} failed: {error.splitlines()[-1]}")
        for line in _drained(results):
            keep(line)
    return failed


def _drained(results: Any) -> Iterator[Line]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield results.get(timeout=0.1)


def _begin(results: Any) -> None:
    global _results
    _results = results


def _work(job: Job) -> str | None:
    """Do one job; return the traceback if it failed."""
    # Here, so that the process that waits needs no JAX.
    import jax

    from harm.runs import RUNS
    from harm.work import Worker

    run = next(run for run in RUNS if run.name == job.run)
    try:
        worker = Worker(run, job.what, job.seeds, list(job.lines), _results.put)  # pyright: ignore[reportArgumentType]
        worker.work(job.settings)
    except Exception:
        return traceback.format_exc()
    finally:
        jax.clear_caches()  # hundreds of programs would stay
    return None
