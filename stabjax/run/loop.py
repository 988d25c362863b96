"""The training loop: it never waits for the device, and it can be stopped anywhere."""

import collections
import contextlib
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from stabjax.config.errors import ConfigError
from stabjax.config.schema import RunConfig, effective_data
from stabjax.run import crash, lock
from stabjax.run import progress as displays
from stabjax.run.artifacts import write_artifacts
from stabjax.run.build import build_task, first_state
from stabjax.run.checkpoints import Checkpoints
from stabjax.run.early_stopping import Improvement
from stabjax.run.folder import check_config, check_folder, make_folder, write_config
from stabjax.run.journal import (
    Journal,
    evaluations,
    last_rows,
    open_journal,
    rows_from,
)
from stabjax.run.recovery import Auditor, HostSnapshots, Stuck
from stabjax.run.result import RunResult
from stabjax.run.signals import Preempted, StopRequest
from stabjax.run.sinks import check_tensorboard, diverged
from stabjax.run.telemetry import Backlog, LateFetch
from stabjax.train_step import TrainingHalted
from stabjax.train_step.halted import halted_at


def train(
    config: RunConfig,
    folder: str | os.PathLike,
    *,
    task: Any = None,
    progress: bool = True,
    tensorboard: bool = False,
    stop: StopRequest | None = None,
) -> RunResult:
    """Train into a run folder; on a folder that holds this run already, go on with it.

    On one device kind, an interrupted and resumed run gives the same parameters and the
    same health.jsonl, bit for bit, as one that was never interrupted.

    Args:
        config: A checked configuration.
        folder: The run folder, made if absent; its last part is the run's name.
        task: A task built before, to share its compiled step between seeds; its data
            seed counts, `config.train.seed` still sets parameters and dropout.
        progress: Show progress on standard error.
        tensorboard: Write TensorBoard event files too.
        stop: Watched between steps; SIGINT and SIGTERM by default.

    Returns:
        The result, once all steps are done.

    Raises:
        ConfigError: Before anything is created, if the run cannot be what is asked.
        RunLocked: If another process is writing the folder.
        TrainingHalted: If a guard halted the run.
        Preempted: After a signal; the current step is checkpointed.
        CheckpointDamaged: If no checkpoint of the run is intact.
    """
    path = check_folder(folder)
    if tensorboard:
        check_tensorboard()
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(StopRequest())
        existed = path.exists()
        if existed:  # first of all: a second writer is refused before it does any work
            stack.enter_context(lock.hold(path))
            check_config(path, config)
        stop.answer()
        task = task or build_task(config)
        stop.answer()
        init_key, run_key = jax.random.split(jax.random.key(config.train.seed))
        state = first_state(task, init_key, run_key, config)
        if not existed:
            make_folder(path)
            stack.enter_context(lock.hold(path))
            check_config(path, config)
        write_config(path, config)
        show = displays.make(progress)
        stack.callback(show.close)
        run = _Run(config, path, task, state, run_key, show, stop, tensorboard)
        return run.go()


class _Run:
    """One process's part of a run; `train` holds the lock around it."""

    def __init__(
        self,
        config: RunConfig,
        folder: pathlib.Path,
        task: Any,
        state: Any,
        key: Any,
        show: displays.Silent,
        stop: StopRequest,
        tensorboard: bool,
    ):
        self.config, self.folder, self.task = config, folder, task
        self.state, self.key, self.show, self.stop = state, key, show, stop
        self.tensorboard = tensorboard
        self.step = 0
        self.saved: int | None = None
        self.evaluated: tuple[int, dict[str, float]] | None = None
        self.stuck = Stuck(config.guards)
        self.recent: collections.deque[dict[str, Any]] = collections.deque(maxlen=50)
        self.followed: list[dict[str, Any]] = []  # all rows, for a task that asks
        self.ring = state.telemetry.ints.shape[0]
        self.backlog = Backlog(most=2 * self.ring)
        self.started = time.monotonic()
        self.skipped: list[str] = []
        self.checkpoints = Checkpoints(
            folder / "checkpoints", config.train.keep, self.skipped.append
        )
        # A plain run, without guards, may go wherever it goes.
        every = 0 if config.guards is None else config.train.audit_every
        self.auditor = Auditor(task.train, state, every)
        self.improvement = Improvement(config.train.early_stopping)
        self.journal = self._resume()
        self.late = LateFetch(task.train.schema(self.state), self.step)
        self.snapshots = self._host_snapshots()

    def go(self) -> RunResult:
        """Train, and record how it ended."""
        try:
            self._begin()
            self._steps()
            return self._finish()
        except Preempted as error:
            self._end("preempted", signal=error.signal)
            raise
        except TrainingHalted as error:
            component, leaf = error.component, error.leaf
            self._end("halted", component=component, leaf=leaf, at=error.step)
            self._record(error)
            raise
        except ConfigError:
            raise
        except BaseException as error:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._log(self.late.drain())
                self._settle()
            with contextlib.suppress(Exception):
                self._end("failed", exception=type(error).__name__, message=str(error))
            self._record(error)
            raise
        finally:
            with contextlib.suppress(OSError):
                self.journal.close()

    def _resume(self) -> Journal:
        found = self.checkpoints.restore_latest(self.state)
        extra: dict[str, Any] = {}
        if found is not None:
            self.step, self.state, extra = found
            self.saved = self.step
            if extra["evaluated"]:
                step, scores = extra["evaluated"]
                self.evaluated = step, {k: float(v) for k, v in scores.items()}
        if self.step > self.config.train.steps:
            raise ConfigError(
                f"{self.config.source}: train.steps must be at least {self.step}, the "
                f"steps already done in {self.folder}, got {self.config.train.steps}."
            )
        schema = self.task.train.schema(self.state)
        journal = open_journal(
            self.folder, schema, extra, step=self.step, tensorboard=self.tensorboard
        )
        for scores in evaluations(self.folder, self.config.train.evaluate_every):
            self.improvement.see(scores)
        return journal

    def _begin(self) -> None:
        for message in self.skipped:
            self.show.say(f"stabjax: {message}")
            self.journal.event("checkpoint_damaged", self.step, message=message)
        self.recent.extend(last_rows(self.folder))
        if self.task.follow is not None:
            self.followed = rows_from(self.folder)
        resumed = self.saved is not None
        self.journal.begin(self.config, resumed=resumed, step=self.step)
        where = f"resuming after step {self.step}" if resumed else "starting"
        self.show.say(f"{self.folder}: {where}; the first step compiles")
        self.show.start(self.step, self.config.train.steps)

    def _steps(self) -> None:
        train, task = self.config.train, self.task
        while self.step < train.steps and not self.improvement.exhausted:
            if self.stop.signal is not None:
                self._save()
                raise Preempted(self.stop.signal, self.step)
            with self._saving_on_failure():
                batch = task.batch_at(self.step)
            # One program for every step: a scan over a window is another program, with
            # other rounding, and a resume in mid-window would no longer be bit-exact.
            self.state, row = task.train.step(self.state, batch, self.key)
            self.step += 1
            self.backlog.add(row)
            if self.step % self.ring == 0:
                self._log(self.late.push(self.state.telemetry))
                self._renew_snapshot()
            if self.auditor.due(self.step):
                self.auditor.check(self.state, self.step)
            if _due(self.step, train.evaluate_every):
                self._evaluate()
                self._judge_improvement()
            if _due(self.step, train.checkpoint_every) and self.step < train.steps:
                self._save()  # the last one is saved after the last evaluation

    def _host_snapshots(self) -> HostSnapshots | None:
        train = self.config.train
        if train.snapshot_memory == "device":
            return None
        every = train.snapshot_every or self.ring
        return HostSnapshots(self.task.train, self.state, self.step, every)

    def _renew_snapshot(self) -> None:
        if self.snapshots is None:
            return
        self.state, restored = self.snapshots.renew(self.state, self.step)
        if restored is not None:
            self.journal.event("rollback", self.step, restored_step=restored)

    def _log(self, rows: list[dict[str, Any]]) -> None:
        journal = self.journal
        if self.snapshots is not None:
            self.snapshots.see(rows)
        for number, row in enumerate(rows):
            journal.row(row)
            self.recent.append(row)
            if row["halted"] or self.stuck.see(row):
                journal.flush()
                self._show(rows[: number + 1])
                raise halted_at(self.task.train.schema(self.state), self.recent)
        journal.flush()
        self._show(rows)

    def _show(self, rows: list[dict[str, Any]]) -> None:
        text = ""
        if self.task.follow is not None and rows:
            self.followed += rows
            text, files = self.task.follow(self.followed)
            write_artifacts(self.folder, files)
        self.show.rows(rows, self.journal.alerts.counts, text)

    def _settle(self) -> None:
        self._log(self.late.drain(self.state.telemetry))
        self.backlog.clear()

    def _evaluate(self) -> None:
        self._settle()
        with self._saving_on_failure():
            scores = {k: float(v) for k, v in self.task.evaluate(self.state).items()}
        self.evaluated = (self.step, scores)
        self.journal.event("evaluation", self.step, scores=scores)

    def _judge_improvement(self) -> None:
        assert self.evaluated is not None
        with self._saving_on_failure():
            self.improvement.see(self.evaluated[1])

    @contextlib.contextmanager
    def _saving_on_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # a fault of data or scoring must not cost the steps done
            with contextlib.suppress(OSError):
                self._save()
            raise

    def _save(self) -> None:
        self._settle()
        if self.saved == self.step:
            return
        # The last good checkpoint is not replaced by a damaged one.
        self.auditor.check(self.state, self.step)
        self.journal.event("checkpoint", self.step)
        self.journal.flush(durable=True)
        extra = {**self.journal.mark(), "evaluated": self.evaluated}
        self.checkpoints.save(self.step, self.state, extra)
        self.saved = self.step

    def _finish(self) -> RunResult:
        if self.evaluated is None or self.evaluated[0] != self.step:
            self._evaluate()
        self._save()
        if self.task.artifacts is not None:
            write_artifacts(self.folder, self.task.artifacts(self.state))
        result = RunResult(
            folder=self.folder,
            steps=self.step,
            state=self.state,
            evaluation=self.evaluated[1] if self.evaluated else {},
            alerts=dict(self.journal.alerts.counts),
            seconds=time.monotonic() - self.started,
            diverged=diverged(list(self.recent)),
        )
        early = self.step < self.config.train.steps
        self._end("finished", diverged=result.diverged, early=early)
        return result

    def _end(self, outcome: str, **details: Any) -> None:
        seconds = time.monotonic() - self.started
        self.journal.end(outcome, self.step, seconds, **details)

    def _record(self, error: BaseException) -> None:
        crash.write(
            self.folder,
            error,
            step=self.step,
            config=effective_data(self.config),
            rows=list(self.recent)[-20:],
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
