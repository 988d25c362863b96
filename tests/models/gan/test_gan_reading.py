"""The sentences about the game follow from the figures."""

import math

from stabjax.models.gan import SUMMARY, reading


def figures(**given):
    values = {
        "steps with every fake event empty": given.get("empty", 0.0),
        "generator's turns without gradient": given.get("dead", 0.0),
        "smallest number pooled": given.get("pooled", -3.0),
        "W1 of particles over floor": given.get("ratio", 3.0),
    }
    return {title: {"min": value, "max": value} for title, value in values.items()}


def test_every_title_it_reads_is_in_the_summary():
    assert set(figures()) <= {column.title for column in SUMMARY}


def test_empty_events_and_the_sentinel_are_said():
    said = reading(
        {"before": figures(empty=500.0, dead=100.0, pooled=-1e9, ratio=math.nan)}
    )
    assert said == [
        "before: in up to 500 steps every fake event was empty, so the critic compared "
        "data with nothing, and the sentinel -1e+09 went into its last layers.",
        "before: in up to 100 of its turns the generator's gradient was exactly zero: "
        "it did not train.",
        "before: no particle was generated that could be compared with data.",
    ]


def test_empty_events_without_a_sentinel_are_not_blamed_on_one():
    (first, *_) = reading({"no_sentinel": figures(empty=500.0, pooled=0.0)})
    assert first.endswith("compared data with nothing.")


def test_some_empty_events_are_said_too():
    (first, _) = reading({"seed": figures(pooled=-1e9)})
    assert first.startswith(
        "seed: some fake events were empty, and the sentinel -1e+09"
    )


def test_quality_is_read_against_five_floors():
    (inside,) = reading({"sound": figures(ratio=3.2)})
    assert "3.2 times" in inside
    assert "within 5 times" in inside
    (outside,) = reading({"seed": figures(ratio=101.0)})
    assert "beyond 5 times" in outside
