"""Optimizers at rates that people choose, on regression from a random teacher."""

import dataclasses

import optax

from harm.run import Run
from harm.runs.data import drawn, loss_on, spirals, teacher
from harm.runs.models import classify, mlp, regress

STEPS = 600

TEACHER = Run(
    name="teacher_adamw_cosine",
    kind="cosine",
    steps=STEPS,
    init=mlp(8, 32, 1),
    loss=regress,
    optimizer=lambda: optax.adamw(optax.cosine_decay_schedule(1e-2, STEPS)),
    batches=lambda seed: drawn(teacher()[0], STEPS, 32, seed),
    score=loss_on(regress, lambda: teacher()[1]),
)

SPIRALS = Run(
    name="spirals_schedule_free_adamw",
    kind="schedule-free",
    steps=800,
    init=mlp(2, 32, 32, 2, gain=1.4),
    loss=classify,
    optimizer=lambda: optax.contrib.schedule_free_adamw(1e-2, warmup_steps=50),
    batches=lambda seed: drawn(spirals(), 800, 32, seed),
    score=loss_on(classify, spirals),
)

RUNS = (
    TEACHER,
    # The score is that of the point where gradients are taken; the schedule-free run
    # of `harm.runs.loops` is scored at the average.
    SPIRALS,
    dataclasses.replace(
        TEACHER,
        name="teacher_lion_to_zero",
        kind="Lion",
        optimizer=lambda: optax.lion(
            optax.linear_schedule(1e-3, 0.0, STEPS), weight_decay=1e-2
        ),
        clip=1.0,
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_lamb_warm_up",
        kind="LAMB",
        optimizer=lambda: optax.lamb(
            optax.warmup_cosine_decay_schedule(0.0, 2e-2, 60, STEPS)
        ),
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_adafactor",
        kind="Adafactor",
        optimizer=lambda: optax.adafactor(
            optax.cosine_decay_schedule(3e-2, STEPS), min_dim_size_to_factor=8
        ),
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_muon",
        kind="Muon",
        optimizer=lambda: optax.contrib.muon(
            optax.cosine_decay_schedule(2e-2, STEPS), adam_learning_rate=3e-3
        ),
    ),
)
