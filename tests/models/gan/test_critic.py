"""What the critic sees of a set, and what it does where there is nothing to see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gan_players import BEFORE, HASTY, TINY

from stabjax.models.gan.config import Config
from stabjax.models.gan.critic import SENTINEL, Critic
from stabjax.models.gan.layers import singular_value
from stabjax.models.gan.penalty import penalty


def critic_of(**changes):
    config = Config(**(TINY | changes))
    return Critic(config, 4, 3, nnx.Rngs(1))


@pytest.fixture(scope="module")
def events():
    """Return three events of 0, 2 and 6 particles, and their conditions."""
    rng = np.random.default_rng(0)
    mask = np.arange(6)[None] < np.array([0, 2, 6])[:, None]
    particles = rng.normal(size=(3, 6, 3)).astype(np.float32) * mask[..., None]
    condition = rng.normal(size=(3, 4)).astype(np.float32)
    return jnp.asarray(particles), jnp.asarray(mask), jnp.asarray(condition)


def test_empty_slots_and_the_order_of_particles_have_no_influence(events):
    particles, mask, condition = events
    critic = critic_of()

    @functools.partial(jax.jit, compiler_options=HASTY)
    def judge(x, m):
        def total(x):
            score = critic(x, m, condition).score
            return jnp.sum(score), score

        slope, score = jax.grad(total, has_aux=True)(x)
        return score, slope

    score, slope = judge(particles, mask)
    filled = jnp.where(mask[..., None], particles, 1e6)
    np.testing.assert_allclose(judge(filled, mask)[0], score, rtol=1e-6)
    turned, _ = judge(particles[:, ::-1], mask[:, ::-1])
    np.testing.assert_allclose(turned, score, rtol=1e-4, atol=1e-6)
    assert np.all(slope[~mask] == 0.0)
    assert np.all(np.any(slope[2] != 0.0, axis=1))


def test_a_maximum_cannot_tell_one_particle_from_three_of_it(events):
    particles, _, condition = events
    copies = jnp.broadcast_to(particles[2:, :1], (1, 6, 3))
    one, three = (jnp.arange(6)[None] < n for n in (1, 3))
    for pooling, blind in (("max", True), ("max_mean_sum", False)):
        critic = critic_of(pooling=pooling)
        scores = [critic(copies, m, condition[2:]).score[0] for m in (one, three)]
        assert (abs(float(scores[0] - scores[1])) < 1e-6) == blind


@pytest.mark.parametrize(
    ("nothing", "smallest"), [("sentinel", SENTINEL), ("zero", -100.0)]
)
def test_an_event_without_particles_is_a_sentinel_or_zero(events, nothing, smallest):
    critic = critic_of(empty_event=nothing, pooling="max", critic_norm="none")
    said = critic(*events)
    assert said.pooled_min >= smallest
    assert (said.pooled_min == SENTINEL) == (nothing == "sentinel")
    assert (abs(said.unbounded[0]) > 1e6) == (nothing == "sentinel")


def test_what_is_replaced_because_it_is_not_finite_is_counted(events):
    particles, mask, condition = events
    broken = particles.at[1, 0, 0].set(jnp.nan)
    said = critic_of(repair=True, critic_norm="none")(broken, mask, condition)
    assert said.repaired == 8.0  # all features of the one particle
    assert np.all(np.isfinite(said.score))
    kept = critic_of(repair=False, critic_norm="none")(broken, mask, condition)
    assert np.isnan(kept.score[1])
    assert kept.repaired == 0.0


def test_scores_are_divided_by_the_root_of_the_batch_where_asked(events):
    plain = critic_of()(*events).score
    divided = critic_of(score_over_root_batch=True)(*events).score
    np.testing.assert_allclose(divided * np.sqrt(3.0), plain, rtol=1e-6)


def test_a_matrix_is_divided_by_its_largest_singular_value():
    kernel = jax.random.normal(jax.random.key(3), (17, 9)) * jnp.linspace(1, 2, 9)[None]
    exact = np.linalg.svd(np.asarray(kernel), compute_uv=False)
    # Power iteration comes from below; the gap of this matrix is small.
    found = float(singular_value(kernel))
    assert 0.97 * exact[0] < found <= exact[0] * 1.0001
    u, _, v = np.linalg.svd(np.asarray(kernel))
    clear = jnp.asarray(3.0 * exact[0] * np.outer(u[:, 0], v[0])) + kernel
    expected = (
        np.linalg.svd(np.asarray(clear))[0][:, :1]
        @ np.linalg.svd(np.asarray(clear))[2][:1]
    )
    np.testing.assert_allclose(jax.grad(singular_value)(clear), expected, atol=1e-3)


def test_a_spectral_norm_takes_the_size_of_the_weights_out(events):
    critic = critic_of(spectral_norm=True, critic_norm="none")
    before = critic(*events).score
    critic.event_out.kernel[...] = 100.0 * critic.event_out.kernel[...]
    np.testing.assert_allclose(critic(*events).score, before, rtol=1e-4)


def steep(factor):
    return lambda x: factor * jnp.sum(x, axis=(1, 2))


def test_the_penalty_over_an_event_is_alive_where_that_over_particles_is_dead(events):
    particles, mask, _ = events
    fake = -particles

    def slope_of(kind, factor):
        config = Config(**(BEFORE | {"gradient_penalty": kind}))
        key = jax.random.key(0)
        value = lambda f: penalty(config, steep(f), particles, fake, mask, key)
        both = jax.jit(jax.value_and_grad(value), compiler_options=HASTY)
        return both(jnp.float32(factor))

    root = np.sqrt(3.0)
    value, slope = slope_of("particle", 2.0)
    np.testing.assert_allclose(value, (2.0 * root - 1.0) ** 2, rtol=1e-5)
    assert slope > 0.0
    value, slope = slope_of("particle", 20.0)
    np.testing.assert_allclose(value, 81.0, rtol=1e-5)
    assert slope == 0.0  # clamped at 10, where it is needed most
    value, slope = slope_of("event", 20.0)
    # Two events hold particles, 2 and 6 of them: the norm is that of the whole event.
    norms = 20.0 * np.sqrt(3.0 * np.array([2.0, 6.0]))
    np.testing.assert_allclose(value, np.mean((norms - 1.0) ** 2), rtol=1e-4)
    assert slope > 0.0
    assert slope_of("none", 20.0) == (0.0, 0.0)
