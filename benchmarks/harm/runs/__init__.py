"""Every healthy run of the bench."""

from harm.run import OwnLoop, Run
from harm.runs import (
    accumulation,
    arc,
    bandits,
    curricula,
    digits,
    factorization,
    frozen,
    generative,
    heavy_tails,
    interpolation,
    language,
    optimizers,
    physics,
    precision,
    recurrent,
    scales,
    schedules,
    sparse,
)

TOPICS = (
    digits,
    optimizers,
    schedules,
    accumulation,
    precision,
    frozen,
    language,
    recurrent,
    generative,
    scales,
    interpolation,
    curricula,
    sparse,
    heavy_tails,
    bandits,
    physics,
    factorization,
    arc,
)

RUNS: tuple[Run | OwnLoop, ...] = tuple(run for topic in TOPICS for run in topic.RUNS)
