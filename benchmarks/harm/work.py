"""All that is to be done for one run, in one process."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax

from harm.execute import Case, Scanned
from harm.faults import FAULTS, Fault
from harm.outcome import Outcome
from harm.own_loop import Wrapped
from harm.plan import SHARED, TELLING
from harm.run import OwnLoop, Run
from harm.settings import REFERENCES, Setting, Subject, build, together

Line = Mapping[str, Any]
What = Literal["healthy", "faults"]
CLEAN = "none"
TWINS = 2
_KNOWS_NOTHING = (0.0, 0.0, ())


@dataclasses.dataclass
class Worker:
    """Runs one run under several settings, and leaves out what is there already.

    Args:
        run: The run.
        what: Healthy, or with every fault as well.
        seeds: Random seeds, from 0.
        lines: Lines that are there.
        emit: Takes each new line.
    """

    run: Run | OwnLoop
    what: What
    seeds: int
    lines: list[Line]
    emit: Callable[[Line], None]

    def __post_init__(self) -> None:
        self.case = Case(self.run) if isinstance(self.run, Run) else None
        self.there = {self._key(line) for line in self.lines}

    def work(self, settings: Sequence[str]) -> None:
        """Run what is asked for, and the plain settings it is compared with."""
        clip = None if self.case is None else self.case.run.clip
        blind = Subject(clip, *_KNOWS_NOTHING, own_loop=self.case is None)
        self._ensure("unguarded", build("unguarded", blind), clean_only=True)
        subject = self._subject(blind)
        apart = settings
        if self.what == "healthy":
            apart = self._shared(settings, subject)
        for name in apart:
            setting = build(name, subject)
            if setting is None:
                continue
            reference = build(setting.reference, subject)
            self._ensure(setting.reference, reference, clean_only=True)
            self._ensure(name, setting)

    def _subject(self, blind: Subject) -> Subject:
        """Return what settings may know, from the unguarded run of the first seed."""
        key = ("unguarded", 0, CLEAN)
        line = next(line for line in self.lines if self._key(line) == key)
        return dataclasses.replace(
            blind,
            largest_norm=line["largest_norm"],
            first_loss=line["first_loss"],
            metrics=() if self.case is None else self.case.metrics(),
        )

    def _shared(self, settings: Sequence[str], subject: Subject) -> list[str]:
        """Run guards that share a program; return the settings to be run alone."""
        names = [name for name in settings if name in SHARED]
        names = [name for name in names if build(name, subject) is not None]
        alone = [name for name in settings if name not in SHARED]
        missing = [n for n in names if any(True for _ in self._missing(n, [None]))]
        setting = together(missing, subject)
        if not missing or setting is None:
            return alone
        program = self._program(setting)
        outcomes = [program.play(seed) for seed in range(self.seeds)]
        if not all(_is_calm(outcome) for outcome in outcomes):
            return alone + missing
        for name in missing:
            for seed, outcome in enumerate(outcomes):
                if (name, seed, CLEAN) not in self.there:
                    self._add(name, setting, seed, CLEAN, _share(outcome, name), {})
        return alone

    def _ensure(
        self, name: str, setting: Setting | None, *, clean_only: bool = False
    ) -> None:
        """Add the lines of one setting that are missing."""
        assert setting is not None
        faults = [None] if clean_only or self.what == "healthy" else self._faults()
        missing = list(self._missing(name, faults))
        if not missing:
            return
        began = time.process_time()
        program = self._program(setting)
        for fault, seed in missing:
            outcome = program.play(seed, fault=fault)
            more = {}
            if fault is None and name in REFERENCES:
                twins = range(1, TWINS + 1)
                more["twins"] = [program.play(seed, twin=k).score for k in twins]
            more["cpu_seconds"] = round(time.process_time() - began, 2)
            began = time.process_time()
            self._add(name, setting, seed, _name(fault), outcome, more)

    def _missing(
        self, name: str, faults: Sequence[Fault | None]
    ) -> Iterator[tuple[Fault | None, int]]:
        for fault in faults:
            for seed in range(self.seeds):
                if (name, seed, _name(fault)) not in self.there:
                    yield fault, seed

    def _faults(self) -> list[Fault | None]:
        run, batches, opt_state = self.run, None, None
        if isinstance(run, Run):
            assert self.case is not None
            batches = self.case.batches(0)
            opt_state = jax.eval_shape(run.optimizer().init, run.init(0))
        fitting = [f for f in FAULTS if f.applies(run, batches, opt_state)]
        return [None, *fitting]

    def _program(self, setting: Setting) -> Scanned | Wrapped:
        if isinstance(self.run, OwnLoop):
            return Wrapped(self.run, setting)
        assert self.case is not None
        return Scanned(self.case, setting, faulty=self.what == "faults")

    def _add(
        self,
        name: str,
        setting: Setting,
        seed: int,
        fault: str,
        outcome: Outcome,
        more: dict[str, Any],
    ) -> None:
        line = {
            "run": self.run.name,
            "kind": self.run.kind,
            "setting": name,
            "reference": setting.reference,
            "seed": seed,
            **({"fault": fault} if self.what == "faults" else {}),
            **dataclasses.asdict(outcome),
            **more,
        }
        self.lines.append(line)
        self.there.add(self._key(line))
        self.emit(line)

    def _key(self, line: Line) -> tuple[str, int, str]:
        return line["setting"], line["seed"], line.get("fault", CLEAN)


def _name(fault: Fault | None) -> str:
    return CLEAN if fault is None else fault.name


def _is_calm(outcome: Outcome) -> bool:
    """Return whether nothing happened but alerts of guards that only tell."""
    told = set(outcome.alerts) <= {*TELLING.values(), "clipped"}
    return told and not (outcome.refused or outcome.halted or outcome.rollbacks)


def _share(outcome: Outcome, name: str) -> Outcome:
    """Return the outcome with the alerts of one guard of several."""
    own = (TELLING.get(name), "clipped")
    alerts = {alert: n for alert, n in outcome.alerts.items() if alert in own}
    return dataclasses.replace(outcome, alerts=alerts)
