"""The error with which the host ends a run that a guard has halted."""

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
