"""The counts as a table for a terminal."""

import io
from collections.abc import Callable

import rich.box
import rich.console
import rich.table

from stabjax.cost.measure import Cost, ProgramCost

_COLUMNS: dict[str, Callable[[ProgramCost, int], str]] = {
    "bytes/N": lambda row, unit: _ratio(row.bytes, unit),
    "temp/N": lambda row, unit: _ratio(row.temporary, unit),
    "kernels": lambda row, _: "-" if row.kernels is None else str(row.kernels),
    "conditionals": lambda row, _: str(row.conditionals),
    "collectives": lambda row, _: str(row.collectives),
    "compile s": lambda row, _: f"{row.compile_seconds:.1f}",
}


def cost_table(cost: Cost, *, width: int = 100) -> str:
    """Return the counts as plain text, in units of N.

    Args:
        cost: From `stabjax.cost.measure`.
        width: Columns of the terminal.
    """
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("one step, gradient given", no_wrap=True)
    for title in _COLUMNS:
        table.add_column(title, justify="right", overflow="fold")
    for row in (cost.optimizer, cost.clipped, cost.guarded):
        table.add_row(row.name, *(cell(row, cost.unit) for cell in _COLUMNS.values()))
    out = io.StringIO()
    console = rich.console.Console(
        file=out, width=max(100, width), color_system=None, markup=False
    )
    console.print(table, highlight=False)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([*lines, "", *_reading(cost)])


def _reading(cost: Cost) -> list[str]:
    head = (
        f"N = {cost.unit} bytes, {cost.leaves} arrays of parameters; compiled for "
        f"{cost.backend}."
    )
    bare, clipped = cost.share("optimizer"), cost.share("clipped")
    if bare is None or clipped is None:
        return [head]
    return [
        head,
        f"With the guards a step moves {bare:.2f} times the bytes of the optimizer "
        f"alone,",
        f"and {clipped:.2f} times those of optax's clip_by_global_norm with it.",
    ]


def _ratio(value: float | int | None, unit: int) -> str:
    return "-" if value is None else f"{value / max(unit, 1):.2f}"
