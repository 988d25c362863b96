"""The comparison table for a terminal."""

import io
from collections.abc import Mapping, Sequence

import rich.box
import rich.console
import rich.table

from stabjax.run.page_numbers import Cell

LEAST_WIDTH = 80


def comparison_table(
    titles: Sequence[str],
    arms: Mapping[str, Sequence[Cell]],
    outcomes: Mapping[str, str],
    *,
    width: int,
) -> str:
    """Return the table as plain text: median over random seeds, range below it.

    An arm is a row; where there are more figures than arms, a column, so that the
    table stays narrow enough to read.

    Args:
        titles: Headings of the figures.
        arms: Arm name to one cell per figure.
        outcomes: Arm name to how its runs ended.
        width: Columns of the terminal.
    """
    texts = {name: [_text(cell) for cell in cells] for name, cells in arms.items()}
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    if len(titles) > len(arms):
        table.add_column("", overflow="fold")
        for name in arms:
            table.add_column(name, justify="right", overflow="fold")
        for row, title in enumerate(titles):
            table.add_row(title, *(cells[row] for cells in texts.values()))
        table.add_row("ended", *(outcomes[name] for name in arms))
    else:
        table.add_column("arm", overflow="fold")
        for title in [*titles, "ended"]:
            table.add_column(title, justify="right", overflow="fold")
        for name, cells in texts.items():
            table.add_row(name, *cells, outcomes[name])
    out = io.StringIO()
    console = rich.console.Console(
        file=out, width=max(LEAST_WIDTH, width), color_system=None, markup=False
    )
    console.print(table, highlight=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _text(cell: Cell) -> str:
    return "\n".join(line for line in cell.lines() if line)
