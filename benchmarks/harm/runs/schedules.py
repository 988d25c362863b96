"""Learning rates that move: from zero, to zero, around, down in steps."""

import dataclasses

import optax

from harm.runs.digits import MLP
from harm.runs.optimizers import SPIRALS, TEACHER


def restarts() -> optax.Schedule:
    """Return three cosines, each twice as long as the one before, from a half on."""
    return optax.sgdr_schedule(
        [
            {
                "init_value": 1e-2,
                "peak_value": 1e-2,
                "warmup_steps": 0,
                "decay_steps": steps,
                "end_value": 0.0,
            }
            for steps in (85, 171, 344)
        ]
    )


RUNS = (
    dataclasses.replace(
        MLP,
        name="digits_mlp_adamw_warmup_from_zero",
        kind="warm-up",
        optimizer=lambda: optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 5e-3, 100, 600)
        ),
        clip=1.0,
    ),
    # Exactly zero for fifty steps, then up: warm-up that starts late.
    dataclasses.replace(
        TEACHER,
        name="teacher_adamw_late_warmup_from_zero",
        kind="warm-up",
        optimizer=lambda: optax.adamw(
            optax.join_schedules(
                [optax.constant_schedule(0.0), optax.linear_schedule(0.0, 5e-3, 200)],
                [50],
            )
        ),
    ),
    dataclasses.replace(
        SPIRALS,
        name="spirals_sgd_one_cycle",
        kind="one-cycle",
        optimizer=lambda: optax.sgd(
            optax.linear_onecycle_schedule(800, 0.3), momentum=0.9, nesterov=True
        ),
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_adamw_cosine_restarts",
        kind="restarts",
        optimizer=lambda: optax.adamw(restarts()),
    ),
    # Exactly zero from step 480 on: the schedule ends before the loop does.
    dataclasses.replace(
        MLP,
        name="digits_mlp_adam_zero_at_the_end",
        kind="to zero",
        optimizer=lambda: optax.adam(optax.linear_schedule(5e-3, 0.0, 480)),
    ),
)
