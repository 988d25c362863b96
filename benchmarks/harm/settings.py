"""Named ways to guard a run, and the plain optax settings they are compared with.

What a guard does by nature is no harm: a clip clips. So each setting names the plain
setting that does the same with optax, where there is one, as its reference.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import optax

from harm.adagc import adagc
from stabjax import guards as library
from stabjax.types import Guard

Optimizer = optax.GradientTransformation
BOUND = 1.0  # of the global norm, where a run has no clip of its own


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a setting may know of the run it is built for.

    Attributes:
        clip: The run's own bound of the global norm, or None.
        largest_norm: Largest gradient norm of the unguarded run.
        first_loss: First loss of the unguarded run.
        metrics: Names of the metrics that its loss reports.
        own_loop: Whether the run owns its loop, so that only optimizers are wrapped.
    """

    clip: float | None
    largest_norm: float
    first_loss: float
    metrics: tuple[str, ...]
    own_loop: bool

    @property
    def bound(self) -> float:
        """The bound of the clip that people would put here."""
        return BOUND if self.clip is None else self.clip


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way to guard a run.

    Attributes:
        guards: The guards; None: unguarded.
        around: Puts optax's own protection around the optimizer of the run.
        reference: Name of the plain setting that it is compared with; one of
            `REFERENCES`.
    """

    guards: tuple[Guard, ...] | None
    around: Callable[[Optimizer], Optimizer] = lambda optimizer: optimizer
    reference: str = "unguarded"


def build(name: str, subject: Subject) -> Setting | None:
    """Return a setting for a run, or None where it does not apply.

    Args:
        name: One of `PLAIN`, ``"readme"``, ``"recommended"``, ``"family"``, a
            registered guard, ``"zclip+skip_nonfinite"``, or ``"recommended+X"`` and
            ``"recommended-X"`` for a registered guard X.
        subject: The run.

    Raises:
        KeyError: If there is no such setting.
    """
    if name in PLAIN:
        return _plain(name, subject)
    guards = _guards(name, subject)
    if guards is None or (subject.own_loop and any(g.loss_scale for g in guards)):
        return None
    clips = {guard.name for guard in guards} & {
        "clip_by_global_norm",
        "clip_by_group_norm",
        "zclip",
    }
    if subject.clip is not None and not clips:
        guards = (library.clip_by_global_norm(max_norm=subject.clip), *guards)
    return Setting(guards, reference=_reference(name, guards, subject))


def together(names: Sequence[str], subject: Subject) -> Setting | None:
    """Return one setting with several guards that leave a healthy run alone."""
    guards = [guard for guard in (single(name, subject) for name in names) if guard]
    if subject.clip is not None:
        guards.insert(0, library.clip_by_global_norm(max_norm=subject.clip))
    return Setting(tuple(guards)) if guards else None


def single(name: str, subject: Subject) -> Guard | None:
    """Return one guard at its defaults, or None where it does not apply.

    What has no default gets what a user would write who has looked at one run.
    """
    wanted = {
        "skip_large": {"max_norm": 10.0 * subject.largest_norm},
        "reset_moments": {"after_refusals": 5},
        "trivial_baseline": {"baseline": subject.first_loss},
        "metric_range": {"metric": "loss", "high": _far_above(subject.first_loss)},
        "sentinel": {"metric": "loss", "value": -1.0},
        "saturation": _metric(subject, "share"),
        "empty_set": _metric(subject, "count"),
        "dead_gradient": _metric(subject, "gradient/"),
        "clip_by_global_norm": {"max_norm": subject.bound},
        "clip_by_group_norm": {"max_norm": subject.bound},
    }
    options = wanted.get(name, {})
    if options is None:
        return None
    guard = library.GUARDS[name](**options)
    return None if subject.own_loop and guard.loss_scale else guard


def preset(subject: Subject) -> tuple[Guard, ...] | None:
    """Return the guards of `stabjax.guards.recommended`, if there is one."""
    recommended: Callable[..., Any] | None = getattr(library, "recommended", None)
    if recommended is None:
        return None
    takes_bound = "max_norm" in inspect.signature(recommended).parameters
    bound = {"max_norm": subject.bound} if takes_bound else {}
    return tuple(recommended(**bound))


def _guards(name: str, subject: Subject) -> tuple[Guard, ...] | None:
    if name == "readme":
        clip = library.clip_by_global_norm(max_norm=subject.bound)
        return (clip, *library.recommended())
    if name == "zclip+skip_nonfinite":
        return (library.zclip(), library.skip_nonfinite())
    if name == "family":
        return tuple(g for g in (single(n, subject) for n in library.GUARDS) if g)
    if name.startswith("recommended"):
        return _changed_preset(name.removeprefix("recommended"), subject)
    guard = single(name, subject)
    return None if guard is None else (guard,)


def _changed_preset(change: str, subject: Subject) -> tuple[Guard, ...] | None:
    guards = preset(subject)
    if guards is None or not change:
        return guards
    sign, name = change[0], change[1:]
    inside = name in {guard.name for guard in guards}
    if sign == "-" and inside:
        return tuple(guard for guard in guards if guard.name != name)
    added = single(name, subject) if sign == "+" and not inside else None
    return None if added is None else (*guards, added)


def _reference(name: str, guards: tuple[Guard, ...], subject: Subject) -> str:
    alone = {
        "clip_by_block_rms": "clip_by_block_rms in optax",
        "family": "family in optax",
    }
    if name in alone:
        return alone[name]
    clips = {guard.name for guard in guards} & {
        "clip_by_global_norm",
        "clip_by_group_norm",
    }
    return "clip" if clips and subject.clip is None else "unguarded"


def _plain(name: str, subject: Subject) -> Setting | None:
    if name == "clip" and subject.clip is not None:
        return None  # it is the unguarded one
    reference = "unguarded"
    if name == "apply_if_finite+clip" and subject.clip is None:
        reference = "clip"
    return Setting(None, lambda inner: PLAIN[name](inner, subject), reference)


def _clipped(optimizer: Optimizer, bound: float | None) -> Optimizer:
    if bound is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(bound), optimizer)


def _block_rms() -> Optimizer:
    return optax.clip_by_block_rms(1.0)


PLAIN: dict[str, Callable[[Optimizer, Subject], Optimizer]] = {
    "unguarded": lambda inner, run: _clipped(inner, run.clip),
    "clip": lambda inner, run: _clipped(inner, run.bound),
    "clip_by_block_rms in optax": lambda inner, run: optax.chain(
        _block_rms(), _clipped(inner, run.clip)
    ),
    "family in optax": lambda inner, run: optax.chain(
        _block_rms(), _clipped(inner, run.bound)
    ),
    "apply_if_finite+clip": lambda inner, run: optax.apply_if_finite(
        _clipped(inner, run.bound), max_consecutive_errors=10
    ),
    "adagc": lambda inner, run: optax.apply_if_finite(
        optax.chain(adagc(), inner), max_consecutive_errors=10
    ),
}

REFERENCES = (
    "unguarded",
    "clip",
    *(name for name in PLAIN if name.endswith("in optax")),
)


def _far_above(loss: float) -> float:
    return loss + 10.0 * abs(loss) + 1.0


def _metric(subject: Subject, start: str) -> dict[str, str] | None:
    found = [name for name in subject.metrics if name.startswith(start)]
    return {"metric": found[0]} if found else None
