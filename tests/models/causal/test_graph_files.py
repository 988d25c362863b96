"""Files of a graph: read back, they say what went in."""

import csv
import io
import xml.etree.ElementTree as ElementTree

import networkx
import numpy as np
import pytest

from stabjax.models.causal.graph_files import graph_artifacts

NAMES = ["rain", "sprinkler & co", "wet"]
SCORES = np.array([[9.0, 0.0, 0.8], [0.0, 0.0, -0.5], [0.1, 0.0, 0.0]])
TRUTH = np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]])


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_edge_list_holds_what_is_above_the_threshold_strongest_first():
    rows = table(graph_artifacts(SCORES, NAMES, 0.3)["graph_edges.csv"])
    assert rows == [
        {"cause": "rain", "effect": "wet", "score": "0.8"},
        {"cause": "sprinkler & co", "effect": "wet", "score": "-0.5"},
    ]


def test_a_known_truth_is_told_in_every_file():
    files = graph_artifacts(SCORES, NAMES, 0.3, TRUTH)
    assert [row["true"] for row in table(files["graph_edges.csv"])] == ["1", "0"]
    graph = networkx.parse_graphml(files["graph.graphml"])
    assert graph.edges["0", "2"]["true"] is True
    assert graph.edges["1", "2"]["true"] is False
    for word in ("right", "wrong", "missing", "2 edges, 1 of them right"):
        assert word in files["graph.svg"]


def test_graphml_is_read_back_with_names_and_weights():
    graph = networkx.parse_graphml(graph_artifacts(SCORES, NAMES, 0.3)["graph.graphml"])
    assert graph.is_directed()
    assert [graph.nodes[n]["label"] for n in graph.nodes] == NAMES
    found = {(a, b): data["weight"] for a, b, data in graph.edges(data=True)}
    assert found == {("0", "2"): 0.8, ("1", "2"): -0.5}


def test_the_picture_stands_alone_and_names_every_node():
    svg = graph_artifacts(SCORES, NAMES, 0.3)["graph.svg"]
    ElementTree.fromstring(svg)
    for name in ("rain", "sprinkler &amp; co", "wet", "positive", "negative"):
        assert name in svg
    assert "prefers-color-scheme: dark" in svg
    assert "#0100" not in svg  # no placeholder of a color is left
    assert svg == graph_artifacts(SCORES, NAMES, 0.3)["graph.svg"]


@pytest.mark.parametrize("scores", [np.zeros((3, 3)), np.ones((3, 3))])
def test_an_empty_and_a_cyclic_graph_have_a_picture_too(scores):
    svg = graph_artifacts(scores, NAMES, 0.5)["graph.svg"]
    assert all(f">{name}<" in svg for name in ("rain", "wet"))


def test_a_name_that_is_too_long_is_cut_in_the_picture_alone():
    files = graph_artifacts(SCORES, ["rain", "s" * 40, "wet"], 0.3)
    assert "s" * 40 in files["graph_edges.csv"]
    assert "s" * 40 not in files["graph.svg"]


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"scores must be \[3, 3\] for 3 names"):
        graph_artifacts(np.zeros((2, 2)), NAMES, 0.3)
    with pytest.raises(ValueError, match=r"truth must be \[3, 3\]"):
        graph_artifacts(SCORES, NAMES, 0.3, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="scores must be finite"):
        graph_artifacts(np.full((3, 3), np.nan), NAMES, 0.3)
