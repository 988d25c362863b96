"""The sentences about the fixes follow from the figures."""

from stabjax.models.rlan import SUMMARY, reading


def figures(lost=0.0, logit=60.0, share=0.2, equivariance=0.3, std=0.6):
    values = {
        "non-finite batches": lost,
        "largest logit": logit,
        "meta share, highest": share,
        "equivariance loss, highest": equivariance,
        "clue std, last 100": std,
    }
    return {title: {"min": value, "max": value} for title, value in values.items()}


def test_every_title_it_reads_is_in_the_summary():
    assert set(figures()) <= {column.title for column in SUMMARY}


def test_a_sound_run_leaves_nothing_to_say():
    assert reading({"sound": figures()}) == []


def test_lost_batches_are_told_with_the_largest_logit():
    (sentence,) = reading({"before": figures(lost=900.0, logit=4.4)})
    assert "900 batches were not finite with no logit above 4.4" in sentence


def test_a_share_over_the_limit_a_zero_loss_and_a_collapse_are_told():
    sentences = reading({"seed": figures(share=0.41, equivariance=1e-12, std=0.07)})
    assert "up to 41% of the total" in sentences[0]
    assert "equivariance loss is zero" in sentences[1]
    assert "deviation 0.07" in sentences[2]


def test_an_arm_without_a_finite_value_is_passed_over():
    row = figures(1000.0, *[float("nan")] * 4)
    (sentence,) = reading({"apply_if_finite": row})
    assert "1000 batches were not finite:" in sentence
