"""Optimizers and learning-rate schedules by name; optax's signatures are the schema."""

from collections.abc import Callable, Mapping
from typing import Any

import optax

from stabjax.config.bind import as_plain, bind, resolve
from stabjax.config.errors import ConfigError, join, show


def constant(*, value: float) -> optax.Schedule:
    """Return the same learning rate at every applied step.

    Args:
        value: Learning rate, >= 0.

    Raises:
        ValueError: If ``value`` is negative.
    """
    _at_least_zero("constant", value=value)
    return optax.constant_schedule(value)


def warmup_cosine(
    *,
    peak: float,
    warmup_steps: int,
    decay_steps: int,
    initial: float = 0.0,
    final: float = 0.0,
) -> optax.Schedule:
    """Rise linearly to ``peak``, then fall along half a cosine to ``final``.

    Args:
        peak: Largest learning rate, >= 0.
        warmup_steps: Applied steps of the rise, >= 0.
        decay_steps: Applied steps until ``final`` is reached, the rise included.
        initial: Learning rate of the first step, >= 0.
        final: Learning rate from ``decay_steps`` on, >= 0.

    Raises:
        ValueError: If a rate is negative or ``decay_steps <= warmup_steps``.

    Source: Loshchilov & Hutter (2017), SGDR.
    """
    _at_least_zero("warmup_cosine", peak=peak, initial=initial, final=final)
    _at_least_zero("warmup_cosine", warmup_steps=warmup_steps)
    if decay_steps <= warmup_steps:
        raise ValueError(
            f"warmup_cosine: decay_steps must be > warmup_steps = {warmup_steps}, "
            f"got {decay_steps}."
        )
    return optax.warmup_cosine_decay_schedule(
        initial, peak, warmup_steps, decay_steps, final
    )


def _at_least_zero(function: str, **values: float | int) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{function}: {name} must be >= 0, got {value}.")


SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {
    "constant": constant,
    "warmup_cosine": warmup_cosine,
}

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "adabelief": optax.adabelief,
    "adafactor": optax.adafactor,
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adamw": optax.adamw,
    "lamb": optax.lamb,
    "lion": optax.lion,
    "nadamw": optax.nadamw,
    "novograd": optax.novograd,
    "radam": optax.radam,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
    "yogi": optax.yogi,
}

# optax checks none of these: a decay of 1.5 or a negative rate trains, and diverges.
_BELOW_ONE = frozenset({"b1", "b2", "momentum", "decay", "decay_rate"})
_NEVER_NEGATIVE = frozenset(
    {
        "learning_rate",
        "eps",
        "eps_root",
        "weight_decay",
        "weight_decay_rate",
        "initial_scale",
        "initial_accumulator_value",
        "clipping_threshold",
        "min_dim_size_to_factor",
        "threshold",
    }
)
_WRAPPERS = ("clip", "coupled_weight_decay", "apply_if_finite")


def build_optimizer(
    section: Any, *, source: str = "config", path: str = "optimizer"
) -> optax.GradientTransformation:
    """Build the optimizer an ``optimizer:`` section describes.

    The result is ``apply_if_finite(chain(clip_by_global_norm(clip),
    add_decayed_weights(coupled_weight_decay), kind(...)))``; the wrappers are left out
    where their option is absent or null.

    Args:
        section: ``kind``, options of that optax function, and the optional wrappers
            ``clip`` (largest global gradient norm, > 0), ``coupled_weight_decay``
            (share of the parameters added to the clipped gradient, >= 0: the
            ``weight_decay`` of `torch.optim.Adam`) and ``apply_if_finite``
            (consecutive errors tolerated, >= 1). ``learning_rate`` is a number or
            ``{kind: <schedule>, ...}``.
        source: Named in errors.
        path: Dotted path of the section, named in errors.

    Raises:
        ConfigError: If the section is not such a description.

    Example:
        >>> optimizer = build_optimizer({"kind": "sgd", "learning_rate": 0.1})
    """
    factory, options, rate, wrappers = _resolved(section, source, path)
    if rate is not None:
        options["learning_rate"] = bind(
            SCHEDULES, rate, source=source, path=join(path, "learning_rate")
        )
    try:
        optimizer = factory(**options)
    except Exception as error:
        raise ConfigError(f"{source}: {path}: {error}") from error
    if wrappers["coupled_weight_decay"] is not None:
        decay = optax.add_decayed_weights(wrappers["coupled_weight_decay"])
        optimizer = optax.chain(decay, optimizer)
    if wrappers["clip"] is not None:
        clip = optax.clip_by_global_norm(wrappers["clip"])
        optimizer = optax.chain(clip, optimizer)
    if wrappers["apply_if_finite"] is not None:
        return optax.apply_if_finite(optimizer, wrappers["apply_if_finite"])
    return optimizer


def effective_optimizer(
    section: Any, *, source: str = "config", path: str = "optimizer"
) -> dict[str, Any]:
    """Return the section with every default written out.

    Raises:
        ConfigError: As `build_optimizer`.
    """
    _, options, rate, wrappers = _resolved(section, source, path)
    if rate is not None:
        where = join(path, "learning_rate")
        kind, _, settled = resolve(SCHEDULES, rate, source=source, path=where)
        options["learning_rate"] = {"kind": kind, **settled}
    plain = {key: as_plain(value) for key, value in options.items()}
    kept = {key: value for key, value in wrappers.items() if value is not None}
    return {"kind": section["kind"], **plain, **kept}


def _resolved(section: Any, source: str, path: str) -> tuple[Any, dict, Any, dict]:
    if not isinstance(section, dict):
        raise ConfigError(
            f"{source}: {path} must be a mapping with a kind, got {show(section)}."
        )
    entry = {key: value for key, value in section.items() if key not in _WRAPPERS}
    rate = entry.get("learning_rate")
    if isinstance(rate, dict):
        entry["learning_rate"] = 0.0  # the schedule replaces it after the check
    else:
        rate = None
    _, factory, options = resolve(OPTIMIZERS, entry, source=source, path=path)
    _check_ranges(options, source, path)
    return factory, options, rate, _wrappers(section, source, path)


def _check_ranges(options: Mapping[str, Any], source: str, path: str) -> None:
    for name, value in options.items():
        if value is None or isinstance(value, bool):
            continue
        where = f"{source}: {join(path, name)}"
        if name in _BELOW_ONE and not 0 <= value < 1:
            raise ConfigError(f"{where} must be in [0, 1), got {show(value)}.")
        if name in _NEVER_NEGATIVE and not value >= 0:
            raise ConfigError(f"{where} must be >= 0, got {show(value)}.")


def _wrappers(section: Mapping[str, Any], source: str, path: str) -> dict[str, Any]:
    clip, decay, errors = (section.get(name) for name in _WRAPPERS)
    if clip is not None and not (_number(clip) and clip > 0):
        raise ConfigError(
            f"{source}: {join(path, 'clip')} must be > 0, got {show(clip)}."
        )
    if decay is not None and not (_number(decay) and decay >= 0):
        raise ConfigError(
            f"{source}: {join(path, 'coupled_weight_decay')} must be >= 0, "
            f"got {show(decay)}."
        )
    whole = isinstance(errors, int) and not isinstance(errors, bool)
    if errors is not None and not (whole and 1 <= errors < 2**31):
        raise ConfigError(
            f"{source}: {join(path, 'apply_if_finite')} must be a whole number >= 1, "
            f"got {show(errors)}."
        )
    return {"clip": clip, "coupled_weight_decay": decay, "apply_if_finite": errors}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
