"""The update norm from a sample that is kept from one step to the next."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax.core.movement import SAMPLE_SIZE, empty_sample, movement, sample
from stabjax.health import decode
from stabjax.train_step import make_train_step


def norm64(tree):
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    return np.linalg.norm(np.concatenate(leaves))


@pytest.mark.parametrize(
    "shapes", [[()], [(3,), (), (4, 5)], [(0,), (30, 30)], [(1024,)]]
)
def test_the_norm_of_a_small_tree_is_exact(shapes):
    rng = np.random.default_rng(0)
    old = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
    new = [jnp.asarray(x + rng.normal(size=x.shape), jnp.float32) for x in old]
    _, norm, ratio, *_ = movement(new, sample(old))
    exact = norm64(
        [np.asarray(n) - np.asarray(o) for n, o in zip(new, old, strict=True)]
    )
    np.testing.assert_allclose(norm, exact, rtol=1e-5)
    np.testing.assert_allclose(ratio, exact / norm64(new), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_norm_of_a_large_random_tree_is_within_a_fifth(seed):
    rng = np.random.default_rng(seed)
    shapes = [(700, 300), (64,), (50, 20, 30), (100_000,), (9,)]
    old = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
    move = [rng.normal(size=s) * 1e-2 for s in shapes]
    new = [jnp.asarray(o + m, jnp.float32) for o, m in zip(old, move, strict=True)]
    before = sample(old)
    assert before.shape[0] <= 1.3 * SAMPLE_SIZE + len(shapes)
    _, norm, ratio, *_ = movement(new, before)
    np.testing.assert_allclose(norm, norm64(move), rtol=0.2)
    np.testing.assert_allclose(ratio, norm64(move) / norm64(new), rtol=0.2)


def test_without_a_sample_nothing_is_measured_and_the_norm_is_no_mark():
    after, norm, ratio, *_ = movement({"w": jnp.ones(3)}, empty_sample())
    assert after.shape == (0,)
    assert (norm, ratio) == (0.0, 0.0)


def test_an_update_whose_square_overflows_is_measured():
    before = sample({"w": jnp.zeros(3), "b": jnp.zeros(2)})
    _, norm, *_ = movement({"w": jnp.full(3, 1e20), "b": jnp.zeros(2)}, before)
    np.testing.assert_allclose(norm, 1e20 * np.sqrt(3), rtol=1e-6)


def norms(form, **options):
    train = make_train_step(
        lambda p, b, k: (jnp.sum(p["w"] * b), {}), optax.sgd(0.5), form=form, **options
    )
    state = train.init({"w": jnp.zeros(4)}, jnp.ones(4))
    for value in (1.0, 2.0, np.nan, 3.0, 4.0):
        batch = jnp.full((4,), value, jnp.float32)
        state, _ = train.step(state, batch, jax.random.key(0))
    ring = state.telemetry
    rows = decode(ring.schema, np.asarray(ring.floats), np.asarray(ring.ints))
    return [row["update_norm"] for row in rows]


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_row_holds_the_norm_of_the_last_applied_update_before_it(form):
    # A gradient of b in four elements, times 0.5, has the norm b; NaN moves nothing.
    np.testing.assert_allclose(norms(form), [np.nan, 1.0, 2.0, 2.0, 3.0], rtol=1e-6)


def test_the_norm_can_be_switched_off():
    assert np.isnan(norms("select", sample_updates=False)).all()


def test_what_is_infinite_on_purpose_is_no_movement_and_no_damage():
    old = {"mask": jnp.asarray([0.0, -jnp.inf]), "w": jnp.zeros(3)}
    new = {**old, "w": jnp.asarray([3.0, 0.0, 4.0])}
    found = movement(new, sample(old))
    np.testing.assert_allclose((found.norm, found.ratio), (5.0, 1.0), rtol=1e-6)
    assert found.damaged == -1
    broken = {**new, "w": jnp.asarray([3.0, jnp.nan, 4.0])}
    assert movement(broken, found.sample).damaged == 1
