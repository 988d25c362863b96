"""The sentences about the MCMC loss follow from the figures."""

import math

from stabjax.models.ctm import SUMMARY, reading


def figures(lowest, outside, dead):
    values = {
        "MCMC loss, lowest": lowest,
        "target outside hull": outside,
        "steps with a dead MCMC head": dead,
    }
    return {title: {"min": value, "max": value} for title, value in values.items()}


def test_every_title_it_reads_is_in_the_summary():
    assert set(figures(0, 0, 0)) <= {column.title for column in SUMMARY}


def test_a_loss_inside_the_hull_is_read_against_its_floor():
    (above,) = reading({"sound": figures(-0.4, 0.0, 0)})
    assert above == (
        "sound: the MCMC loss stayed above its floor of -2.303 nats per cell; "
        "lowest -0.4."
    )
    (below,) = reading({"sound": figures(-2.4, 0.0, 0)})
    assert "fell below its floor" in below


def test_a_target_outside_the_hull_means_no_floor():
    (sentence,) = reading({"before": figures(-1.2e6, 2.8, 0)})
    assert "no floor" in sentence
    assert "-1.2e+06" in sentence


def test_a_dead_head_is_counted_and_said():
    sentences = reading({"seed": figures(-107.0, 2.8, 586)})
    assert "586 steps" in sentences[1]
    assert "exactly zero" in sentences[1]


def test_an_arm_without_the_loss_is_passed_over():
    assert reading({"nothing": figures(math.nan, math.nan, math.nan)}) == []
