"""Learning from few events: sparse rewards, a rare class, words by frequency."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, loss_on
from harm.runs.models import Aux, Params, apply_mlp, mlp, named, normal

STEPS = 600
WORDS = 64
ARMS = 4


def logged(seed: int, steps: int = STEPS, size: int = 16, often: float = 0.2) -> Data:
    """Return contexts, arms drawn at random, and rewards: none in 4 of 5 batches."""
    rng = np.random.default_rng([seed, 23])
    weights = np.random.default_rng(23).normal(size=(6, ARMS))
    x = rng.normal(size=(steps, size, 6))
    arm = rng.integers(0, ARMS, (steps, size))
    right = arm == np.argmax(x @ weights, axis=-1)
    open_ = rng.random((steps, 1)) < often
    return {
        "x": x.astype(np.float32),
        "arm": arm.astype(np.int32),
        "y": np.where(right & open_, 1.0, 0.0).astype(np.float32),
    }


def off_policy(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return minus the reward of the policy by importance weights: 0 without reward."""
    del key
    chances = jax.nn.softmax(apply_mlp(params, batch["x"], jnp.tanh))
    chosen = jnp.take_along_axis(chances, batch["arm"][:, None], axis=1)[:, 0]
    return named("reward", -jnp.mean(batch["y"] * chosen * ARMS))


@functools.cache
def every_reward() -> Data:
    """Return 2048 examples in which every right arm is rewarded."""
    return {name: array[0] for name, array in logged(10_000, 1, 2048, 1.0).items()}


def rare(seed: int, steps: int = STEPS, size: int = 16) -> Data:
    """Return points of which 2 % are events, and the weights that make up for it."""
    rng = np.random.default_rng([seed, 24])
    event = rng.random((steps, size)) < 0.02
    x = rng.normal(size=(steps, size, 6))
    x[..., :2] += np.where(event, 1.5, 0.0)[..., None]
    weight = np.where(event, 50.0, 1.0)
    return {
        "x": x.astype(np.float32),
        "y": event.astype(np.float32),
        "weight": weight.astype(np.float32),
    }


def weighted(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the weighted binary cross-entropy."""
    del key
    logit = apply_mlp(params, batch["x"])[:, 0]
    losses = jax.nn.softplus(logit) - batch["y"] * logit
    return named("cross_entropy", jnp.mean(batch["weight"] * losses))


@functools.cache
def rare_held_out() -> Data:
    """Return 8192 points of the same kind."""
    return {name: array[0] for name, array in rare(10_000, 1, 8192).items()}


def words(seed: int) -> Params:
    """Return vectors of words and of their contexts, as word2vec starts them."""
    rng = np.random.default_rng([seed, 25])
    return {
        "word": normal(rng, WORDS, 16, scale=0.1),
        "context": jnp.zeros((WORDS, 16), jnp.float32),
    }


def pairs(seed: int, steps: int = STEPS, size: int = 32) -> Data:
    """Return words by Zipf's law, a context of the same topic, and 4 random words."""
    rng = np.random.default_rng([seed, 26])
    law = 1 / np.arange(1, WORDS + 1)
    law = law / law.sum()
    word = rng.choice(WORDS, (steps, size), p=law)
    # The topic of a word is its remainder; its context has mostly the same.
    other = rng.choice(WORDS, (steps, size), p=law)
    same = other - other % 8 + word % 8
    context = np.where(rng.random((steps, size)) < 0.9, same, other)
    noise = rng.choice(WORDS, (steps, size, 4), p=law)
    named_arrays = {"x": word, "context": context, "noise": noise}
    return {name: array.astype(np.int32) for name, array in named_arrays.items()}


def skip_gram(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the loss of skip-gram with negative samples (Mikolov et al. 2013)."""
    del key
    word = params["word"][batch["x"]]
    true = jnp.sum(word * params["context"][batch["context"]], axis=-1)
    false = jnp.einsum("nd,nkd->nk", word, params["context"][batch["noise"]])
    aux = {
        "raw/true": jnp.mean(jax.nn.softplus(-true)),
        "raw/noise": jnp.mean(jnp.sum(jax.nn.softplus(false), axis=-1)),
    }
    return aux["raw/true"] + aux["raw/noise"], aux


@functools.cache
def pairs_held_out() -> Data:
    """Return 4096 pairs that were not trained on."""
    return {name: array[0] for name, array in pairs(10_000, 1, 4096).items()}


RUNS = (
    Run(
        name="sparse_rewards_adam",
        kind="sparse events",
        steps=STEPS,
        init=mlp(6, 16, ARMS),
        loss=off_policy,
        optimizer=lambda: optax.adam(1e-2),
        batches=logged,
        score=loss_on(off_policy, every_reward),
    ),
    Run(
        name="rare_class_weighted_adamw",
        kind="sparse events",
        steps=STEPS,
        init=mlp(6, 16, 1),
        loss=weighted,
        optimizer=lambda: optax.adamw(optax.cosine_decay_schedule(5e-3, STEPS)),
        batches=rare,
        score=loss_on(weighted, rare_held_out),
        clip=5.0,
    ),
    Run(
        name="skip_gram_zipf_adam",
        kind="sparse events",
        steps=STEPS,
        init=words,
        loss=skip_gram,
        optimizer=lambda: optax.adam(1e-2),
        batches=pairs,
        score=loss_on(skip_gram, pairs_held_out),
        inputs=None,
        labels=None,
    ),
)
