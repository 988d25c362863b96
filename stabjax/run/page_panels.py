"""Panels and strips: which columns are drawn, and what is said of them in words."""

import dataclasses

import numpy as np
from jaxtyping import Int
from markupsafe import Markup

from stabjax.run import page_events, pictures
from stabjax.run.page_numbers import share, show
from stabjax.run.page_records import RunRecord

NEVER = {  # what is marked, and what is said where nothing is
    "refused": "none refused by a guard",
    "clipped": "none clipped by a guard",
    "loss not finite": "the loss always finite",
    "alert": "no alert",
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One picture with its heading, its value scale and its description."""

    title: str
    scale: str
    svg: Markup
    description: str
    non_finite: str

    @property
    def alarming(self) -> bool:
        """Whether non-finite steps mean harm; a metric may have steps without one."""
        return self.title.startswith(("loss", "raw/", "weighted/", "grad_norm"))


@dataclasses.dataclass(frozen=True)
class Strip:
    """One strip of marked steps: what, how many, and where."""

    kind: str
    marked: int
    text: str
    svg: Markup

    @classmethod
    def of(
        cls, kind: str, steps: Int[np.ndarray, " k"], run: RunRecord, last_step: int
    ) -> "Strip":
        """Return the strip of some steps of one run."""
        shares = page_events.bucket_shares([(steps, run.steps)], last_step)
        text = f"{len(steps)} ({share(len(steps), len(run.steps))})"
        return cls(kind, len(steps), text, Markup(pictures.strip(shares)))


def panels(
    arms: dict[str, list[RunRecord]],
    columns: list[str],
    last_step: int,
    *,
    prefix: str,
) -> list[Panel]:
    """Draw one panel per column with a curve per arm; columns nobody has are left out.

    Args:
        arms: Arm name to its runs; the order decides the colors.
        columns: Telemetry columns.
        last_step: Right end of the step axis.
        prefix: Start of the SVG ids, unique on the page.
    """
    drawn = []
    for index, column in enumerate(columns):
        curves = [
            pictures.Curve(arm, slot, [run.column(column) for run in runs])
            for slot, (arm, runs) in enumerate(arms.items())
            if any(len(run.column(column).steps) for run in runs)
        ]
        if not curves:
            continue
        identity = "".join(c for c in prefix.lower() if c.isalnum()) + f"{index}"
        svg, scale = pictures.panel(curves, identity=identity, last_step=last_step)
        drawn.append(
            Panel(
                title=column,
                scale=scale,
                svg=Markup(svg),
                description=_describe(column, curves),
                non_finite=_non_finite(curves),
            )
        )
    return drawn


def strips(runs: list[RunRecord], last_step: int) -> list[Strip]:
    """Return the strips of an arm: refused, clipped, not finite, alerts."""
    shown = []
    for kind in NEVER:
        marked, steps = page_events.counts(runs, kind)
        shares = page_events.step_shares(runs, kind, last_step)
        text = f"{marked} ({share(marked, steps)})"
        shown.append(Strip(kind, marked, text, Markup(pictures.strip(shares))))
    return shown


def never(shown: list[Strip]) -> str:
    """Say in a sentence what happened on no step; empty if everything did."""
    said = [NEVER[strip.kind] for strip in shown if not strip.marked]
    return ", ".join(said).capitalize() + "." if said else ""


def _describe(column: str, curves: list[pictures.Curve]) -> str:
    """Say in words what a panel shows, for those who do not see it."""
    parts = []
    for curve in curves:
        env = pictures.envelope(curve.columns)
        middle = env.middle[np.isfinite(env.middle)]
        who = f"{curve.name}: " if curve.name else ""
        if not len(middle):
            parts.append(f"{who}no finite value")
            continue
        parts.append(
            f"{who}from {show(float(middle[0]))} to {show(float(middle[-1]))}, "
            f"between {show(float(np.nanmin(env.low)))} "
            f"and {show(float(np.nanmax(env.high)))}"
        )
    return f"{column} by step. " + "; ".join(parts) + "."


def _non_finite(curves: list[pictures.Curve]) -> str:
    """Count a panel's non-finite steps, curve by curve; empty if there are none."""
    said = []
    for curve in curves:
        bad = sum(len(column.non_finite_steps) for column in curve.columns)
        steps = sum(len(column.steps) for column in curve.columns)
        if bad:
            who = f"{curve.name} " if curve.name else ""
            said.append(f"{who}{bad} of {steps}")
    return "not finite: " + ", ".join(said) if said else ""
