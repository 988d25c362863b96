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
    gan,
    generative,
    heavy_tails,
    interpolation,
    language,
    loops,
    optimizers,
    physics,
    ppo,
    precision,
    recurrent,
    sac,
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
    loops,
    gan,
    ppo,
    sac,
)

RUNS: tuple[Run | OwnLoop, ...] = tuple(run for topic in TOPICS for run in topic.RUNS)
