"""What the figures of a comparison say about the graph, by rule."""

import math
from collections.abc import Mapping

__all__ = ["reading"]


def reading(cells: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Read each arm's graph against the data's gradient and against chance.

    Args:
        cells: Arm name to title of `SUMMARY` to the median, min and max of its cell,
            NaN where there is no figure.

    Returns:
        Sentences with the figures they follow from.
    """
    sentences = []
    for arm, row in cells.items():
        sentences += [f"{arm}: {said}" for said in (*_data(row), *_graph(row))]
    return sentences


def _data(row: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say whether the data could move the graph at all."""
    reached = row["gradient of the data in the graph, highest"]["max"]
    fit = row["validation R2"]["median"]
    if reached != 0.0:  # or NaN: not measured
        return []
    said = (
        "the gradient of the reconstruction in the graph was exactly zero on every "
        "step: no choice of weights lets the data find an edge."
    )
    if fit > 0.9:
        said += (
            f" The reconstruction explains {fit:.3f} of the variance all the same, so "
            "it says nothing of the graph."
        )
    return [said]


def _graph(row: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Compare the graph with the empty one and with as many random edges."""
    distance = row["SHD"]["median"]
    empty = row["SHD of the empty graph"]["median"]
    by_chance = row["SHD by chance"]["median"]
    if not math.isfinite(distance + empty + by_chance):
        return []
    verdict = "closer" if distance < empty else "no closer"
    said = [
        f"what it learned is {verdict} to the known graph than an empty one is (SHD "
        f"{distance:.4g} against {empty:.4g}; as many random edges have "
        f"{by_chance:.4g})."
    ]
    area = _range(row, "AUROC (chance: 0.5)")
    if area[0] <= 0.5 <= area[1]:
        said.append(
            f"its AUROC, {area[0]:.2f} to {area[1]:.2f} over seeds, holds that of "
            "chance, 0.5."
        )
    return said


def _range(row: Mapping[str, Mapping[str, float]], title: str) -> tuple[float, float]:
    return row[title]["min"], row[title]["max"]
