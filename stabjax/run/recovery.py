"""The way back that the loop keeps between steps: audits, snapshots on the host."""

from collections.abc import Sequence
from typing import Any

from stabjax.guards.streak import MAX_SHARE, SHARE_WINDOW
from stabjax.train_step import StateDamaged, TrainStep
from stabjax.train_step.audit import new_damage
from stabjax.types import Alert

# Guards that end a run which refuses too much.
_BOUNDED = {"skip_nonfinite", "escalate", "recommended"}
# After these a state is not taken for a good one.
_UNSURE = int(Alert.LOSS_SPIKE | Alert.GRADIENT_SPIKE | Alert.UPDATE_SPIKE)


class Auditor:
    """Compares the state with the first one, which may hold infinities on purpose.

    Args:
        train: The train step.
        state: The state a run starts from, before a checkpoint is restored.
        every: Steps between two audits; 0 never audits.
    """

    def __init__(self, train: TrainStep, state: Any, every: int):
        self._audit, self._every = train.audit, every
        self._first = train.audit(state) if every else {}

    def due(self, step: int) -> bool:
        """Return whether it is time."""
        return self._every > 0 and step % self._every == 0

    def check(self, state: Any, step: int) -> None:
        """Raise `StateDamaged` if an element was lost since the first state."""
        if self._every == 0:
            return
        damage = new_damage(self._audit(state), self._first)
        if damage:
            raise StateDamaged(step, damage)


class Stuck:
    """Tells when nearly half of the steps of late were refused, whatever the guards.

    The finite contract alone refuses for ever, and a run that trains on half of its
    batches is not one that anybody asked for.

    Args:
        guards: The entries of the configuration. Where a guard bounds refusals by
            itself, or None refuses nothing, this stays silent.
    """

    def __init__(self, guards: Sequence[dict[str, Any]] | None):
        kinds = {entry["kind"] for entry in guards or ()}
        self._watches = guards is not None and not kinds & _BOUNDED
        self._share = 0.0

    def see(self, row: dict[str, Any]) -> bool:
        """Take note of a row; return whether it is one refusal too many."""
        refused = not row["accepted"]
        self._share += (refused - self._share) / SHARE_WINDOW
        return self._watches and refused and self._share >= MAX_SHARE


class HostSnapshots:
    """Snapshots in pinned host memory, taken at window ends, restored on request.

    Telemetry arrives late. A snapshot is therefore on trial until the rows before it
    are seen, and a rollback that a guard asked for is done up to two windows later;
    the steps in between are given up.

    Args:
        train: The train step.
        state: The state to fall back to first.
        step: Steps done.
        every: Least number of steps between two snapshots.
    """

    def __init__(self, train: TrainStep, state: Any, step: int, every: int):
        self._train, self._every = train, every
        self._good = self._trial = (step, train.keep(state))
        self._restored_at = self._seen = step
        self._calm, self._wanted = True, False
        self._rollbacks: int | None = None

    def see(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take note of telemetry that has arrived."""
        for row in rows:
            count, before = row["rollbacks"], self._rollbacks
            # What was asked for before the last restore has been answered by it.
            new = count > (0 if before is None else before)
            self._wanted |= new and row["step"] >= self._restored_at
            if row["step"] < self._trial[0]:
                self._calm &= row["alerts"] & _UNSURE == 0
            self._rollbacks, self._seen = count, row["step"] + 1

    def renew(self, state: Any, step: int) -> tuple[Any, int | None]:
        """Restore the last good snapshot if a guard asked for it, or take a new one.

        Args:
            state: The state after ``step`` steps.
            step: Steps done.

        Returns:
            The state to go on from, and the step it is of if it was restored.
        """
        if self._wanted:
            self._wanted, self._restored_at = False, step
            self._trial = self._good
            return self._train.restore(state, self._good[1]), self._good[0]
        if self._seen >= self._trial[0]:
            self._good = self._trial if self._calm else self._good
            if step - self._trial[0] >= self._every:
                self._trial, self._calm = (step, self._train.keep(state)), True
        return state, None
