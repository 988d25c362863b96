"""Attention: a language with two tokens of memory, copying, and induction."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, Score, loss_on
from harm.runs.models import (
    Aux,
    Params,
    apply_transformer,
    cross_entropy,
    named,
    transformer,
)
from harm.runs.precision import in_dtype

TOKENS = 8
LENGTH = 16
STEPS = 400


def next_token(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the mean cross-entropy of the next token where ``weight`` is 1."""
    del key
    tokens, weight = batch["x"], batch["weight"]
    losses = cross_entropy(apply_transformer(params, tokens[:, :-1]), tokens[:, 1:])
    loss = jnp.sum(weight * losses) / jnp.maximum(jnp.sum(weight), 1.0)
    return named("cross_entropy", loss)


@functools.cache
def transitions() -> np.ndarray:
    """Return the cumulated probabilities of the next token after the last two."""
    logits = 2.0 * np.random.default_rng(6).normal(size=(TOKENS, TOKENS, TOKENS))
    odds = np.exp(logits)
    return np.cumsum(odds / odds.sum(-1, keepdims=True), axis=-1)


def markov(seed: int, steps: int = STEPS, size: int = 8) -> Data:
    """Return sentences whose next token depends on the last two."""
    rng = np.random.default_rng([seed, 6])
    tokens = rng.integers(0, TOKENS, (steps, size, LENGTH + 1)).astype(np.int32)
    after = transitions()
    for place in range(2, LENGTH + 1):
        odds = after[tokens[..., place - 2], tokens[..., place - 1]]
        chosen = (odds < rng.random((steps, size, 1))).sum(-1)
        tokens[..., place] = np.minimum(chosen, TOKENS - 1)
    return {"x": tokens, "weight": np.ones((steps, size, LENGTH), np.float32)}


def copying(seed: int, steps: int = STEPS, size: int = 8) -> Data:
    """Return random tokens that are repeated; only the repetition is scored."""
    rng = np.random.default_rng([seed, 7])
    half = LENGTH // 2
    first = rng.integers(0, TOKENS, (steps, size, half)).astype(np.int32)
    tokens = np.concatenate([first, first, first[..., :1]], axis=-1)
    weight = np.zeros((steps, size, LENGTH), np.float32)
    weight[..., half:] = 1.0
    return {"x": tokens, "weight": weight}


def induction(seed: int, steps: int = STEPS, size: int = 8) -> Data:
    """Return random tokens that are repeated after a random shift: position is no help.

    The period is 4 to 8 and the phase random; scored is from the second period on.
    """
    rng = np.random.default_rng([seed, 8])
    period = rng.integers(4, 9, (steps, size, 1))
    motif = rng.integers(0, TOKENS, (steps, size, 8)).astype(np.int32)
    place = np.arange(LENGTH + 1) + rng.integers(0, 8, (steps, size, 1))
    tokens = np.take_along_axis(motif, place % period, axis=-1)
    weight = np.arange(1, LENGTH + 1) > period
    return {"x": tokens, "weight": weight.astype(np.float32)}


def on_fresh(batches: Any) -> Score:
    """Return the mean loss on 256 sentences that were not trained on."""

    @functools.cache
    def data() -> Data:
        fresh = batches(10_000, 1, 256)
        return {name: array[0] for name, array in fresh.items()}

    return loss_on(next_token, data)


MARKOV = Run(
    name="markov_lm_adamw_warmup_clip",
    kind="attention LM",
    steps=STEPS,
    init=transformer(TOKENS, LENGTH, 16, 1),
    loss=next_token,
    optimizer=lambda: optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, 1e-2, 50, STEPS), weight_decay=0.1
    ),
    batches=markov,
    score=on_fresh(markov),
    clip=1.0,
    inputs=None,
    labels=None,
)

RUNS = (
    MARKOV,
    dataclasses.replace(
        MARKOV,
        name="copy_lm_adamw_sudden_drop",
        kind="sudden drop",
        optimizer=lambda: optax.adamw(5e-3),
        batches=copying,
        score=on_fresh(copying),
    ),
    dataclasses.replace(
        MARKOV,
        name="induction_lm_adam_sudden_drop",
        kind="sudden drop",
        init=transformer(TOKENS, LENGTH, 16, 2),
        optimizer=lambda: optax.adam(1e-2),
        batches=induction,
        score=on_fresh(induction),
        clip=None,
    ),
    dataclasses.replace(
        MARKOV,
        name="markov_lm_adafactor_bfloat16",
        kind="Adafactor",
        init=in_dtype(MARKOV.init, jnp.bfloat16),
        optimizer=lambda: optax.adafactor(
            optax.warmup_cosine_decay_schedule(0.0, 5e-2, 50, STEPS)
        ),
    ),
)
