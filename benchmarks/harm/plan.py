"""Which settings are run, and which half of the runs a result belongs to."""

import zlib

from harm.run import OwnLoop, Run
from harm.settings import Subject, preset
from stabjax import guards as library

PEERS = ("apply_if_finite+clip", "adagc", "zclip+skip_nonfinite")
# These change nothing in a healthy run but their alert, or nothing at all before a
# step is refused: they share one program, and are taken apart where something happens.
TELLING = {
    "dead_gradient": "dead_gradient",
    "metric_range": "out_of_range",
    "saturation": "saturated",
    "sentinel": "sentinel",
    "trivial_baseline": "trivial",
    "update_ratio_band": "update_ratio",
}
REACTING = ("back_off", "escalate", "repair_nonfinite", "reset_moments")
SHARED = (*TELLING, *REACTING, "skip_nonfinite")
# One group of all parameters is what the global clip is, and that with the preset is
# what the README shows.
_SAME_AS_ANOTHER = ("clip_by_group_norm", "clip_by_global_norm")


def half_of(run: str) -> str:
    """Return ``"choose"``, runs that defaults may be tuned on, or ``"report"``."""
    return "choose" if zlib.crc32(run.encode()) % 2 else "report"


def healthy_settings() -> tuple[str, ...]:
    """Return what healthy runs are tried with."""
    singles = tuple(library.GUARDS)
    return ("unguarded", *PEERS, "readme", "recommended", *singles, "family")


def faulty_settings(run: Run | OwnLoop) -> tuple[str, ...]:
    """Return what faults are put under: for every other run the pairs as well.

    A run that owns its loop is compiled once for each fault, and does without.
    """
    base = ("unguarded", "clip", *PEERS, "readme", "recommended")
    chosen = zlib.crc32(run.name.encode()) // 2 % 2 == 0
    return base + pairs() if chosen and isinstance(run, Run) else base


def pairs() -> tuple[str, ...]:
    """Return the preset with each guard that acts added, or left out."""
    guards = preset(Subject(None, 1.0, 1.0, (), own_loop=False))
    if guards is None:
        return ()
    inside = tuple(dict.fromkeys(guard.name for guard in guards))
    outside = (
        name
        for name in library.GUARDS
        if name not in (*inside, *TELLING, *_SAME_AS_ANOTHER, "empty_set")
    )
    left_out = tuple(f"recommended-{name}" for name in inside)
    return left_out + tuple(f"recommended+{name}" for name in outside)
