"""Every healthy run of the bench."""

from harm.run import OwnLoop, Run
from harm.runs import (
    accumulation,
    digits,
    frozen,
    language,
    optimizers,
    precision,
    schedules,
)

TOPICS = (digits, optimizers, schedules, accumulation, precision, frozen, language)

RUNS: tuple[Run | OwnLoop, ...] = tuple(run for topic in TOPICS for run in topic.RUNS)
