"""The errors with which the host ends a run: halted by a guard, or damaged."""

from stabjax.train_step.audit import describe
from stabjax.types import Alert


class TrainingHalted(RuntimeError):
    """Training was halted by a guard; the parameters are the last accepted ones.

    Attributes:
        step: The attempted step that halted, from 0.
        component: First non-finite loss component of that step, or None.
        leaf: First parameter with a non-finite gradient in that step, or None.
        alerts: Bits of `stabjax.types.Alert` of that step.
    """

    def __init__(
        self, step: int, component: str | None, leaf: str | None, alerts: int
    ) -> None:
        self.step, self.component = step, component
        self.leaf, self.alerts = leaf, alerts
        names = [a.name.lower() for a in Alert if a & alerts and a.name]
        where = f"component {component or 'none'}, first bad leaf {leaf or 'none'}"
        super().__init__(
            f"training halted at step {step}: {', '.join(names)} ({where})."
        )


class StateDamaged(TrainingHalted):
    """The state holds elements that were finite once; it was damaged from outside.

    Attributes:
        damage: Path of each damaged leaf to the number of elements.
    """

    def __init__(self, step: int, damage: dict[str, int]) -> None:
        super().__init__(step, None, max(damage, key=damage.__getitem__), 0)
        self.damage = damage
        self.args = (f"state damaged at step {step}: not finite: {describe(damage)}.",)
