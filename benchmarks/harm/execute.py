"""Run a `Run` under one setting: compiled once, for every seed and every fault.

The steps are scanned in `CHUNKS` pieces of equal length, so that one program serves
the whole run, and the state can be damaged, or kept for later, between two of them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import stabjax
from harm.faults import Fault, breakable, rate_of, signals
from harm.outcome import Columns, Outcome
from harm.run import Run, compiler_options
from harm.settings import Setting

CHUNKS = 5
START = 3  # the piece in which most faults begin, so that what is before is run once
SNAPSHOT_EVERY = 20
TWIN = 1000  # seed of the first twin of seed 0


class Case:
    """A run and its batches, which all settings share."""

    def __init__(self, run: Run) -> None:
        if run.steps % CHUNKS:
            raise ValueError(
                f"{run.name}: steps must be a multiple of {CHUNKS}, got {run.steps}."
            )
        self.run = run
        self.batches = functools.lru_cache(maxsize=8)(run.batches)

    @functools.cached_property
    def first(self) -> Any:
        """Return one batch."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0], self.batches(0))

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what the loss reports besides components."""
        state = self.model_state(0)
        more = {} if state is None else {"model_state": state}
        # Some train to begin with, and are not to be traced.
        params, key = self.run.init(0), jax.random.key(0)
        _, aux = jax.eval_shape(lambda: self.run.loss(params, self.first, key, **more))
        return tuple(n for n in aux if not n.startswith(("raw/", "weighted/")))

    def model_state(self, seed: int) -> Any:
        """Return the model state before the first step, or None."""
        make = self.run.model_state
        return None if make is None else make(seed)


class Scanned:
    """A run under one setting, compiled.

    Args:
        case: The run.
        setting: How it is guarded.
        faulty: Whether faults can be put in. They need a program of their own: a loss
            that obeys signals in the batch, and a factor on the learning rate.
    """

    def __init__(self, case: Case, setting: Setting, *, faulty: bool = False) -> None:
        run = case.run
        self.case, self.faulty = case, faulty
        optimizer = setting.around(run.optimizer())
        if faulty:
            optimizer = optax.chain(optimizer, rate_of())
        guards = setting.guards
        rolls_back = any(guard.rolls_back for guard in guards or ())
        self.train = stabjax.make_train_step(
            breakable(run.loss) if faulty else run.loss,
            optimizer,
            guards=guards,
            window=1,  # `many_steps` returns every row by itself
            snapshot_every=SNAPSHOT_EVERY if rolls_back else None,
        )
        self._first: dict[int, Any] = {}
        self._begun: dict[int, tuple[Any, list]] = {}
        pieces = self._pieces(0, None)
        state = self._first_state(0)
        self.schema = self.train.schema(state)
        lowered = self.train.many_steps.lower(state, pieces[0], jax.random.key(0))
        options = compiler_options()
        if faulty and options is not None:
            # So many runs of one program that half of the time each is worth more.
            options = {**options, "xla_backend_optimization_level": "1"}
        self._many = lowered.compile(options)

    def play(self, seed: int, *, twin: int = 0, fault: Fault | None = None) -> Outcome:
        """Return what comes of the run.

        Args:
            seed: Random seed of data, parameters and the keys of the steps.
            twin: With a number >= 1 the same data with other parameters and keys.
            fault: What is put in, if anything.
        """
        columns, state = self.trace(seed, twin=twin, fault=fault)
        score = self.case.run.score(state.params, state.model_state, seed)
        return columns.outcome(score)

    def trace(
        self, seed: int, *, twin: int = 0, fault: Fault | None = None
    ) -> tuple[Columns, Any]:
        """Return the telemetry of every step, and the last state; see `play`."""
        start = seed + TWIN * twin
        key = jax.random.key(start)
        pieces = self._pieces(seed, fault)
        state, rows = None, []
        late = fault is not None and fault.begins(self.case.run.steps) >= self._boundary
        if late and start in self._begun:
            kept, rows = self._begun[start]
            state, rows = _copied(kept), list(rows)
        if state is None:
            state = self._first_state(start)
        for piece in range(len(rows), CHUNKS):
            if piece == START:
                if self.faulty and fault is None and not twin:
                    self._begun[start] = _copied(state), list(rows)
                if fault is not None and fault.state is not None:
                    state = state._replace(opt_state=fault.state(state.opt_state))
            state, row = self._many(state, pieces[piece], key)
            rows.append(row)
        floats, ints = (
            np.concatenate([np.asarray(part) for part in parts])
            for parts in zip(*rows, strict=True)
        )
        return Columns(self.schema, floats, ints), state

    @property
    def _boundary(self) -> int:
        return self.case.run.steps // CHUNKS * START

    def _first_state(self, seed: int) -> Any:
        run, case = self.case.run, self.case
        if seed not in self._first:
            batch = {"batch": case.first, "signal": np.int32(0)}
            self._first[seed] = self.train.init(
                run.init(seed),
                batch if self.faulty else case.first,
                model_state=case.model_state(seed),
            )
        return _copied(self._first[seed])

    def _pieces(self, seed: int, fault: Fault | None) -> list[Any]:
        run = self.case.run
        batches = self.case.batches(seed)
        if self.faulty:
            if fault is not None:
                batches = fault.batches(run, batches, seed)
            batches = {"batch": batches, "signal": signals(fault, run.steps)}
        length = run.steps // CHUNKS
        places = [slice(at, at + length) for at in range(0, run.steps, length)]
        return [
            jax.tree.map(lambda leaf, here=here: leaf[here], batches) for here in places
        ]


def _copied(state: Any) -> Any:
    # A step donates its state.
    return jax.tree.map(jnp.copy, state)
