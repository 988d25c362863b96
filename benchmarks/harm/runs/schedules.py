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


def stable_then_down() -> optax.Schedule:
    """Return warm-up from zero, a constant rate, and a linear decay to zero."""
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, 3e-3, 50),
            optax.constant_schedule(3e-3),
            optax.linear_schedule(3e-3, 0.0, 120),
        ],
        [50, 480],
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
    dataclasses.replace(
        MLP,
        name="digits_mlp_sgd_cosine_restarts",
        kind="restarts",
        optimizer=lambda: optax.sgd(
            optax.join_schedules(
                [optax.cosine_decay_schedule(0.2, 150)] * 4, [150, 300, 450]
            ),
            momentum=0.9,
        ),
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_adamw_stable_then_down",
        kind="to zero",
        optimizer=lambda: optax.adamw(stable_then_down(), weight_decay=1e-2),
    ),
    # Exactly zero from step 480 on: the schedule ends before the loop does.
    dataclasses.replace(
        MLP,
        name="digits_mlp_adam_zero_at_the_end",
        kind="to zero",
        optimizer=lambda: optax.adam(optax.linear_schedule(5e-3, 0.0, 480)),
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_adam_step_decay",
        kind="step decay",
        optimizer=lambda: optax.adam(
            optax.piecewise_constant_schedule(1e-2, {300: 0.1, 500: 0.1})
        ),
    ),
)
