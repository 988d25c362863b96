"""Gradients accumulated over micro-batches; the update is zero in between."""

import dataclasses

import optax

from harm.runs.data import drawn, teacher
from harm.runs.digits import MLP
from harm.runs.optimizers import TEACHER
from stabjax import transforms


def multi_steps(
    inner: optax.GradientTransformation, every: int
) -> optax.GradientTransformation:
    """Return optax's accumulation as a transformation."""
    return optax.MultiSteps(inner, every).gradient_transformation()


RUNS = (
    dataclasses.replace(
        MLP,
        name="digits_mlp_multi_steps_adamw",
        kind="accumulation",
        optimizer=lambda: multi_steps(optax.adamw(5e-3), 4),
        every_step_moves=False,
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_accumulate_adamw",
        kind="accumulation",
        optimizer=lambda: transforms.accumulate(optax.adamw(5e-3), 4),
        every_step_moves=False,
    ),
    # The clip inside sees the mean, as in training scripts of language models.
    dataclasses.replace(
        TEACHER,
        name="teacher_multi_steps_clip_inside_warm_up",
        kind="accumulation",
        optimizer=lambda: multi_steps(
            optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 2e-2, 15, 150)),
            ),
            4,
        ),
        every_step_moves=False,
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_accumulate_eight_of_one_sgd",
        kind="accumulation",
        steps=1200,
        optimizer=lambda: transforms.accumulate(optax.sgd(0.05, momentum=0.9), 8),
        batches=lambda seed: drawn(teacher()[0], 1200, 1, seed),
        every_step_moves=False,
    ),
)
