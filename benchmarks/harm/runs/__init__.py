"""Every healthy run of the bench."""

from harm.run import OwnLoop, Run

RUNS: tuple[Run | OwnLoop, ...] = ()
