"""A GAN in two dimensions: two optimizers against each other."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from harm.run import OwnLoop
from harm.runs.data import Data, drawn, moons
from harm.runs.loops import Damage, Program, Wrap, counted, looped
from harm.runs.models import Params, apply_mlp, mlp

STEPS = 800
CODE = 4


def players(seed: int) -> tuple[Params, Params]:
    """Return generator and discriminator."""
    return mlp(CODE, 32, 2)(seed), mlp(2, 32, 1)(seed + 500)


def energy_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return twice the mean distance between the sets less those within each."""

    def apart(x: jax.Array, y: jax.Array) -> jax.Array:
        squares = jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)
        return jnp.mean(jnp.sqrt(squares + 1e-12))

    return 2 * apart(a, b) - apart(a, a) - apart(b, b)


def gan_loop(wrap: Wrap, damage: Damage) -> Program:
    """Return the non-saturating game with R1, and averaged generator weights."""
    # Adam with these moments is what GANs are trained with since Radford et al. 2016.
    schedule = optax.linear_schedule(4e-3, 0.0, STEPS)
    generator = wrap(optax.adam(schedule, b1=0.5, b2=0.99))
    discriminator = wrap(optax.adam(schedule, b1=0.5, b2=0.99))

    def real_minus(d: Params, real: jax.Array, fake: jax.Array) -> jax.Array:
        slope = jax.vmap(jax.grad(lambda x: apply_mlp(d, x, jax.nn.silu)[0]))(real)
        penalty = 0.1 * jnp.mean(jnp.sum(slope**2, axis=-1))
        right = jax.nn.softplus(-apply_mlp(d, real, jax.nn.silu))
        wrong = jax.nn.softplus(apply_mlp(d, fake, jax.nn.silu))
        return jnp.mean(right) + jnp.mean(wrong) + penalty

    def fooled(g: Params, d: Params, code: jax.Array) -> jax.Array:
        fake = apply_mlp(g, code, jax.nn.silu)
        return jnp.mean(jax.nn.softplus(-apply_mlp(d, fake, jax.nn.silu)))

    def step(carry: Any, numbered: Any) -> tuple[Any, None]:
        g, d, g_state, d_state, average, key = carry
        real = damage(*numbered)["x"]
        key, code_key = jax.random.split(key)
        code = jax.random.normal(code_key, (len(real), CODE))
        fake = apply_mlp(g, code, jax.nn.silu)
        loss, gradients = jax.value_and_grad(real_minus)(d, real, fake)
        updates, d_state = discriminator.update(gradients, d_state, d, value=loss)
        d = optax.apply_updates(d, updates)
        loss, gradients = jax.value_and_grad(fooled)(g, d, code)
        updates, g_state = generator.update(gradients, g_state, g, value=loss)
        g = optax.apply_updates(g, updates)
        average = jax.tree.map(lambda a, new: 0.98 * a + 0.02 * new, average, g)
        return (g, d, g_state, d_state, average, key), None

    def program(key: jax.Array, seed: Any, data: Any) -> tuple[Any, list]:
        batches, real = data
        g, d = seed
        start = g, d, generator.init(g), discriminator.init(d), g, key
        carry, _ = jax.lax.scan(step, start, counted(batches))
        _, _, g_state, d_state, average, _ = carry
        code = jax.random.normal(jax.random.key(1), (512, CODE))
        fake = apply_mlp(average, code, jax.nn.silu)
        return energy_distance(fake, real), [g_state, d_state]

    return program


def data(seed: int) -> tuple[Data, Any]:
    """Return batches of 64 points, and 512 to compare with."""
    return drawn(moons(), STEPS, 64, seed), moons()["x"][:512]


RUNS = (
    OwnLoop("gan_moons_adam", "GAN", STEPS, looped(gan_loop, players, data)),
)  # fmt: skip
