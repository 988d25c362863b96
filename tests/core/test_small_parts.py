"""Packing, running means, names of leaves, and how verdicts combine."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import stats_of
from hypothesis import given
from hypothesis import strategies as st

from stabjax.core.judge import combine_verdicts, init_core, judge
from stabjax.core.layout import layout_of
from stabjax.core.packing import pack, unpack
from stabjax.core.running import count_where, running_geometric_mean, running_mean
from stabjax.guards import back_off, clip_by_global_norm, clip_by_group_norm
from stabjax.types import Alert, GroupScale, Guard, Layout, verdict


def test_a_tree_of_scalars_and_vectors_survives_packing_bit_for_bit():
    tree = {
        "flag": jnp.asarray(True),
        "big": jnp.asarray(2**31 - 1, jnp.int32),
        "nan": jnp.asarray([np.nan, -0.0, 1e-45], jnp.float32),
        "flags": jnp.asarray([True, False]),
        "none": (),
    }
    back = unpack(pack(tree), tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for ours, given_ in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert ours.dtype == given_.dtype
        assert np.asarray(ours).tobytes() == np.asarray(given_).tobytes()


@pytest.mark.parametrize("tree", [{"a": jnp.float32(1)}, {"a": jnp.int32(1)}])
def test_a_tree_of_one_kind_is_packed_too(tree):
    packed = pack(tree)
    assert packed.floats.shape == packed.ints.shape
    assert unpack(packed, tree)["a"] == 1


finite = st.floats(-1e3, 1e3, width=32)


@given(st.lists(finite, min_size=1, max_size=30))
def test_a_running_mean_starts_as_the_plain_average(values):
    mean = np.float32(0)
    for seen, value in enumerate(values):
        mean = running_mean(
            jnp.float32(mean), jnp.float32(value), jnp.int32(seen), 0.99
        )
    np.testing.assert_allclose(mean, np.mean(values, dtype=np.float64), atol=1e-2)


def test_a_running_mean_then_forgets_exponentially():
    mean = running_mean(jnp.float32(2.0), jnp.float32(12.0), jnp.int32(1000), 0.9)
    np.testing.assert_allclose(mean, 3.0, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("mean_of", [running_mean, running_geometric_mean])
def test_no_running_mean_takes_what_is_not_finite(mean_of, value):
    assert mean_of(jnp.float32(2.0), jnp.float32(value), jnp.int32(3), 0.9) == 2.0


def test_a_mean_stays_finite_between_the_ends_of_the_range():
    largest = jnp.float32(np.finfo(np.float32).max)
    mean = running_mean(-largest, largest, jnp.int32(3), 0.9)
    assert jnp.isfinite(mean)


def test_a_count_saturates_instead_of_wrapping_around():
    largest = jnp.asarray(np.iinfo(np.int32).max)
    assert count_where(largest, jnp.asarray(True)) == largest
    assert count_where(jnp.int32(4), jnp.asarray([True, False])).tolist() == [5, 4]


def test_leaves_are_named_by_their_path():
    tree = {"b": [1.0, {"c": 2.0}], "a": 3.0}
    assert layout_of(tree).leaves == ("a", "b/0", "b/1/c")
    assert layout_of(1.0).leaves == ("parameters",)


def test_verdicts_combine_whatever_their_order():
    one = verdict(gradient_scale=0.5, update_scale=0.5, alerts=1)
    groups = GroupScale((jnp.float32(0.2), jnp.float32(0.9)), (0, 1, 1))
    two = verdict(accept=False, gradient_scale=groups, alerts=4)
    three = verdict(update_scale=0.5, halt=True, roll_back=True, waive=True)
    left = combine_verdicts(combine_verdicts(one, two), three)
    right = combine_verdicts(three, combine_verdicts(two, one))
    chex.assert_trees_all_equal(left, right)
    np.testing.assert_allclose(left.gradient_scale.factors, [0.2, 0.5])
    assert left.gradient_scale.group_of_leaf == (0, 1, 1)
    assert (left.update_scale, left.alerts) == (0.25, 5)
    assert not left.accept
    assert left.halt & left.roll_back & left.waive


def test_two_clips_take_the_smaller_bound_of_each_leaf():
    guards = (clip_by_global_norm(max_norm=5.0), clip_by_group_norm(groups=["head"]))
    stats = stats_of(grad_norm=10.0, leaf_norms=[6.0, 0.0, 8.0])
    decision = judge(guards, init_core(guards), stats, squarable=False).decision
    scale = decision.gradient_scale
    np.testing.assert_allclose(scale.per_leaf(), [1 / 6, 1 / 6, 1 / 8], rtol=1e-6)


def test_groups_that_differ_are_split_where_they_cross():
    rows = GroupScale((jnp.float32(0.1), jnp.float32(0.4)), (0, 0, 1, 1))
    columns = GroupScale((jnp.float32(0.3), jnp.float32(0.2)), (0, 1, 0, 1))
    one, two = verdict(gradient_scale=rows), verdict(gradient_scale=columns)
    both = combine_verdicts(one, two).gradient_scale
    np.testing.assert_allclose(both.per_leaf(), [0.1, 0.1, 0.3, 0.2])
    np.testing.assert_allclose(both.smallest(), 0.1)


@pytest.mark.parametrize(
    ("bound", "head", "accepted"),
    [(2.0**70, 2.0**61, True), (2.0**70, 2.0**63, False), (1.0, 2.0**63, True)],
)
def test_a_group_is_refused_if_its_square_overflows_after_clipping(
    bound, head, accepted
):
    clip = clip_by_group_norm(max_norm=bound, groups=["head"])
    stats = stats_of(grad_norm=head, leaf_norms=[1.0, 0.0, head])
    decision = judge((clip,), init_core((clip,)), stats, squarable=True).decision
    assert decision.accept == accepted


def test_alerts_of_all_guards_are_one_bit_set():
    guards = (clip_by_global_norm(), back_off(after=1))
    core = init_core(guards)._replace(consecutive_refused=jnp.int32(1))
    decision = judge(
        guards, core, stats_of(core, grad_norm=9.0), squarable=False
    ).decision
    assert decision.alerts == int(Alert.CLIPPED | Alert.BACK_OFF)
    assert decision.accept


@pytest.mark.parametrize("count", [3, 40], ids=["scalars", "a vector"])
def test_one_group_that_stays_too_large_is_enough_to_refuse(count):
    norms = jnp.ones((count,)).at[1].set(1e25)
    layout = Layout(tuple(f"leaf{i}" for i in range(count)), (4,) * count)
    stats = stats_of(grad_norm=1e25, leaf_norms=norms, layout=layout)

    def decision(factor):
        factors = [jnp.float32(1.0)] * count
        factors[1] = jnp.float32(factor)
        scale = GroupScale(tuple(factors), tuple(range(count)))
        said = verdict(gradient_scale=scale)
        one = Guard("one", tuple, lambda state, _: (state, said))
        return judge([one], init_core([one]), stats, squarable=True).decision

    assert decision(1e-10).accept
    assert not decision(1.0).accept
    assert decision(1.0).alerts == int(Alert.GRADIENT_RANGE)
