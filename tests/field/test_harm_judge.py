import math

import pytest
from harm.judge import compare, harm, recovered


def line(seed, score, **changes):
    healthy = {"steps": 1000, "refused": 0, "halted": False, "rollbacks": 0}
    return {"seed": seed, "score": score, "alerts": {}, **healthy, **changes}


def lines(*scores):
    return [line(seed, score) for seed, score in enumerate(scores)]


def clean(*scores, twins):
    """Lines of a reference whose twins stand at these factors to each score."""
    return [
        {**line(seed, score), "twins": [score * factor for factor in twins]}
        for seed, score in enumerate(scores)
    ]


def level(name):
    return {"clipped": "information", "halt": "error"}.get(name, "warning")


STEADY = clean(1.0, 2.0, 4.0, twins=[1.0, 1.0])
NOISY = clean(1.0, 2.0, 4.0, twins=[1.1, 1 / 1.1])


def test_a_difference_is_the_mean_logarithm_of_the_ratios_of_paired_seeds():
    found = compare(lines(1.0, 2.2, 4.4), STEADY)
    assert found.difference == pytest.approx(2 * math.log(1.1) / 3)
    assert (found.noise, found.seeds) == (0.0, 3)


def test_the_order_of_the_seeds_does_not_matter():
    assert compare(lines(1.0, 2.2, 4.4)[::-1], STEADY) == pytest.approx(
        compare(lines(1.0, 2.2, 4.4), STEADY)
    )


def test_noise_is_what_twins_differ_by():
    assert compare(lines(1.0, 2.0, 4.0), NOISY).noise == pytest.approx(math.log(1.1))


def test_scores_of_both_signs_are_compared_to_their_mean_size():
    reference = clean(-1.0, 3.0, twins=[1.0])
    found = compare(lines(-0.8, 3.0), reference)
    assert found.difference == pytest.approx(0.5 * 0.2 / 2.0)


def test_scores_of_zero_are_equal_to_themselves_and_below_all_others():
    reference = clean(0.0, 0.0, twins=[1.0])
    assert compare(lines(0.0, 0.0), reference).difference == 0.0
    assert compare(lines(0.0, 0.1), reference).difference == math.inf


@pytest.mark.parametrize(
    ("ratio", "worse"), [(0.5, False), (1.009, False), (1.011, True)]
)
def test_one_percent_is_allowed_where_there_is_no_noise(ratio, worse):
    reasons = harm(lines(ratio, 2 * ratio, 4 * ratio), STEADY, level)
    assert bool(reasons) == worse


# Two standard errors of three seeds are 2 log(1.1) / sqrt(3), or 11.6 %.
@pytest.mark.parametrize(("ratio", "worse"), [(1.12, False), (1.14, True)])
def test_two_standard_errors_of_the_noise_are_allowed_besides(ratio, worse):
    reasons = harm(lines(ratio, 2 * ratio, 4 * ratio), NOISY, level)
    assert bool(reasons) == worse


def test_more_seeds_allow_less():
    many = clean(*[1.0] * 12, twins=[1.1, 1 / 1.1])
    assert harm(lines(*[1.1] * 12), many, level)
    assert not harm(lines(*[1.1] * 3), many, level)


def test_a_score_that_is_not_finite_is_harm_and_no_recovery():
    for reference in (STEADY, NOISY):
        assert harm(lines(1.0, None, 4.0), reference, level)
        assert not recovered(lines(1.0, None, 4.0), reference)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"refused": 6}, "refused 0.6 %"),
        ({"halted": True}, "halted"),
        ({"rollbacks": 1}, "rolled back"),
        ({"alerts": {"loss_spike": 1}}, "alerts: loss_spike"),
    ],
)
def test_what_a_guard_does_in_one_seed_is_harm(changes, reason):
    one = [*lines(1.0, 2.0), line(2, 4.0, **changes)]
    assert harm(one, STEADY, level) == (reason,)


def test_five_refusals_in_a_thousand_and_information_are_no_harm():
    one = [*lines(1.0, 2.0), line(2, 4.0, refused=5, alerts={"clipped": 900})]
    assert harm(one, STEADY, level) == ()


@pytest.mark.parametrize(("ratio", "well"), [(1.05, True), (1.06, False)])
def test_a_run_recovers_within_five_percent(ratio, well):
    assert recovered(lines(ratio, 2 * ratio, 4 * ratio), STEADY) == well


def test_a_run_that_halts_has_not_recovered_however_good_it_was():
    one = [*lines(1.0, 2.0), line(2, 4.0, halted=True)]
    assert recovered(lines(1.0, 2.0, 4.0), STEADY)
    assert not recovered(one, STEADY)


def test_a_run_of_tiny_scores_that_ends_anywhere_may_do_so_but_not_diverge():
    reference = clean(1e-30, 1e-27, 1e-29, twins=[1e3, 1e-3])
    assert recovered(lines(1e-28, 1e-29, 1e-27), reference)
    assert not recovered(lines(1e-2, 1e-2, 1e-2), reference)


def test_a_comparison_needs_a_common_seed_and_a_finite_reference():
    with pytest.raises(ValueError, match="a seed in common"):
        compare([line(7, 1.0)], STEADY)
    with pytest.raises(ValueError, match="must be finite"):
        compare(lines(1.0), [{**line(0, None), "twins": []}])
