"""The sentences about the graph follow from the figures."""

import math

from stabjax.models.causal import SUMMARY, reading

TITLES = {
    "reached": "gradient of the data in the graph, highest",
    "fit": "validation R2",
    "distance": "SHD",
    "empty": "SHD of the empty graph",
    "by_chance": "SHD by chance",
}
AREA = "AUROC (chance: 0.5)"


def figures(area=(0.4, 0.6), **values):
    known = {
        "reached": 0.0,
        "fit": 0.99,
        "distance": 25.0,
        "empty": 13.0,
        "by_chance": 24.5,
    } | values
    row = {
        TITLES[name]: dict.fromkeys(("min", "max", "median"), value)
        for name, value in known.items()
    }
    low, high = area
    return row | {AREA: {"min": low, "max": high, "median": low}}


def test_every_title_it_reads_is_in_the_summary():
    assert {*TITLES.values(), AREA} <= {column.title for column in SUMMARY}


def test_a_graph_without_the_gradient_of_the_data_is_told_with_the_fit():
    blind, distance, area = reading({"seed": figures()})
    assert "exactly zero on every step" in blind
    assert "explains 0.990 of the variance all the same" in blind
    assert distance == (
        "seed: what it learned is no closer to the known graph than an empty one is "
        "(SHD 25 against 13; as many random edges have 24.5)."
    )
    assert "0.40 to 0.60 over seeds, holds that of chance" in area


def test_a_bad_fit_is_not_called_a_good_one():
    blind, *_ = reading({"before": figures(fit=-40.0)})
    assert "of the variance" not in blind


def test_a_learned_graph_is_not_accused():
    row = figures((0.9, 1.0), reached=4.2, distance=2.0)
    (sentence,) = reading({"sound": row})
    assert "closer to the known graph than an empty one is (SHD 2" in sentence
    assert "no closer" not in sentence


def test_what_was_not_measured_is_not_read():
    row = figures((0.9, 1.0), reached=math.nan, distance=math.nan)
    row[AREA] = dict.fromkeys(("min", "max", "median"), math.nan)
    assert reading({"nothing": row}) == []
