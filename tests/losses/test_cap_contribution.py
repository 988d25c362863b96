"""The share of auxiliary losses, where it holds and where the seed's does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import cap_contribution, cap_gradient_share

LOSS = st.floats(
    -float(np.float32(1e30)), float(np.float32(1e30)), width=32, allow_subnormal=False
)
TERMS = hnp.arrays(np.float32, 3, elements=LOSS)
RATIOS = st.sampled_from([0.0, 0.05, 0.25, 0.5, 0.999])
cap = jax.jit(cap_contribution, static_argnames=("ratio", "compare"))
share = jax.jit(cap_gradient_share, static_argnums=2)
ONE = jnp.asarray(1.0)


@given(LOSS, TERMS, RATIOS)
def test_the_share_of_the_total_is_at_most_the_ratio(main, terms, ratio):
    total, factor = cap(np.float32(main), terms, ratio=ratio)
    exact = np.asarray(terms, np.float64)
    size = float(factor) * np.abs(exact).sum()
    # Below the smallest normal number the auxiliary part is flushed to zero.
    assert size <= ratio * (abs(main) + size) * (1 + 1e-6) + 1e-37
    assert 0.0 <= float(factor) <= 1.0
    expected = np.float64(main) + float(factor) * exact.sum()
    scale = abs(main) + size
    np.testing.assert_allclose(total, expected, rtol=1e-6, atol=1e-6 * scale + 1e-37)


@given(LOSS, TERMS, RATIOS)
def test_it_takes_no_more_than_it_must(main, terms, ratio):
    size = np.abs(np.asarray(terms, np.float64)).sum()
    _, factor = cap(np.float32(main), terms, ratio=ratio)
    if size > 1e-30 and (abs(main) > 1e-30 or main == 0.0):
        exact = min(1.0, ratio / (1 - ratio) * abs(main) / size)
        np.testing.assert_allclose(factor, exact, rtol=2e-6, atol=1e-37)


def test_below_the_ratio_nothing_changes():
    total, factor = cap(ONE, jnp.array([0.125, 0.125]), ratio=0.25)
    assert (float(total), float(factor)) == (1.25, 1.0)


@pytest.mark.parametrize(
    ("main", "total", "factor"), [(0.0, 0.0, 0.0), (-1.0, 0.0, 0.25), (1.0, 2.0, 0.25)]
)
def test_a_main_loss_of_zero_switches_off_and_a_negative_one_counts_by_size(
    main, total, factor
):
    got = cap(jnp.float32(main), jnp.array([3.0, 1.0]), ratio=0.5)
    assert [float(x) for x in got] == [total, factor]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible_in_the_total(bad):
    terms, broken = np.float32([1.0, 2.0]), np.float32([bad, 2.0])
    total, factor = cap(np.float32(bad), terms, ratio=0.25)
    np.testing.assert_equal([float(total), float(factor)], [bad, 1.0])
    total, factor = cap(ONE, broken, ratio=0.25)
    np.testing.assert_equal([float(total), float(factor)], [bad, 1.0])
    assert not np.isfinite(cap(np.float32(0.0), broken, ratio=0.0)[0])


def test_the_factor_carries_no_gradient():
    def total(main, terms):
        return cap_contribution(main, terms, 0.5)[0]

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(ONE, np.float32([3.0, -1.0]))
    assert float(gradients[0]) == 1.0
    assert gradients[1].tolist() == [0.25, 0.25]


WEIGHTS = np.full(2, 0.25, np.float32)


def test_weights_are_part_of_what_is_compared():
    total, factor = cap(ONE, jnp.array([8.0, 2.0]), ratio=0.5, weights=WEIGHTS)
    np.testing.assert_allclose([total, factor], [2.0, 0.4], rtol=1e-6)


def seed_factor(main, weights, ratio):
    """Return the factor as the seed's text computes it."""
    factor = 1.0
    if main > 0:
        allowed = ratio / (1 - ratio) * main
        if sum(weights) > allowed:
            factor = max(0.01, min(1.0, allowed / sum(weights)))
    return factor


@given(
    st.floats(-2.0, 2.0, width=32, allow_subnormal=False),
    st.floats(0.0, 2.0, width=32, allow_subnormal=False),
    RATIOS,
)
def test_the_seeds_setting_is_the_seeds_formula(main, weight, ratio):
    weights, terms = np.array([weight, 0.25], np.float32), np.array([4.0, 1.0])
    total, factor = cap(
        jnp.float32(main),
        jnp.asarray(terms, jnp.float32),
        ratio=ratio,
        weights=jnp.asarray(weights),
        compare="weights",
    )
    exact = seed_factor(main, weights.astype(float), ratio)
    np.testing.assert_allclose(factor, exact, rtol=1e-5)
    np.testing.assert_allclose(total, main + exact * weights @ terms, atol=1e-5)


def test_the_seeds_setting_lets_through_what_the_sound_one_caps():
    main, terms, weights = np.float32(0.5), np.float32([4.0]), np.float32([0.08])
    seed, factor = cap(main, terms, ratio=0.25, weights=weights, compare="weights")
    assert float(factor) == 1.0
    assert 1 - float(main / seed) > 0.38
    sound, _ = cap(main, terms, ratio=0.25, weights=weights)
    np.testing.assert_allclose(1 - float(main / sound), 0.25, rtol=1e-6)


@given(st.floats(0.0, 2.0**99), hnp.arrays(np.float32, 3, elements=LOSS), RATIOS)
def test_gradients_keep_to_their_share(main, norms, ratio):
    norms = np.abs(norms)
    factor = float(share(np.float32(main), norms, ratio))
    scaled = factor * np.float64(norms).sum()
    assert scaled <= ratio / (1 - ratio) * main * (1 + 1e-6) + 1e-37
    assert 0.0 <= factor <= 1.0


def test_a_main_gradient_of_zero_silences_the_others_and_nan_is_left_to_the_guards():
    norms = np.float32([1.0, 2.0])
    assert float(share(np.float32(0.0), norms, 0.5)) == 0.0
    assert float(share(np.float32(np.nan), norms, 0.5)) == 1.0


def test_it_maps_over_members_of_an_ensemble():
    mains, terms = np.arange(3, dtype=np.float32), np.ones((3, 2), np.float32)
    mapped = jax.jit(jax.vmap(lambda m, t: cap_contribution(m, t, 0.5)))
    totals, factors = mapped(mains, terms)
    np.testing.assert_allclose(totals, [0.0, 2.0, 4.0])
    np.testing.assert_allclose(factors, [0.0, 0.5, 1.0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_losses_are_added_in_float32(dtype):
    total, factor = cap(np.asarray(256.0, dtype), np.ones(3, dtype), ratio=0.5)
    assert (total.dtype, float(total), float(factor)) == (jnp.float32, 259.0, 1.0)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, np.nan])
def test_a_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(ValueError, match="cap_contribution: ratio must be in"):
        cap_contribution(ONE, jnp.ones(1), ratio)
    with pytest.raises(ValueError, match="cap_gradient_share: ratio must be in"):
        cap_gradient_share(ONE, jnp.ones(1), ratio)


def test_comparing_weights_without_weights_is_refused():
    with pytest.raises(ValueError, match="weights must be given"):
        cap_contribution(ONE, jnp.ones(1), 0.5, compare="weights")
