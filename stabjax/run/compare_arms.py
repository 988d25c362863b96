"""The arms of a comparison: the base configuration with overrides, on every seed."""

import dataclasses
import re
from collections.abc import Sequence

from stabjax.config.errors import ConfigError, show
from stabjax.config.schema import RunConfig, override

BASELINE = "before"  # what a single fix is added to


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm: the base configuration with overrides, on every seed.

    Attributes:
        name: As in the configuration.
        folder: Its folder inside the comparison's.
        overrides: ``key=value``, applied in order.
        configs: One checked configuration per random seed.
        ablation: Whether it is one fix added to the baseline.
    """

    name: str
    folder: str
    overrides: tuple[str, ...]
    configs: dict[int, RunConfig]
    ablation: bool


def arms_of(
    config: RunConfig, seeds: tuple[int, ...], *, ablate: bool = False
) -> list[Arm]:
    """Return the checked arms, so that a typo costs seconds, not hours.

    Args:
        config: The base configuration.
        seeds: Random seeds.
        ablate: Add the single fixes, each on top of the baseline.

    Raises:
        ConfigError: If an arm is not a configuration, or two have the same name.
    """
    section = config.compare
    if section is None or not section.arms:
        raise ConfigError(f"{config.source}: compare.arms must name at least one arm.")
    listed = [(name, tuple(lines), False) for name, lines in section.arms.items()]
    if ablate:
        if BASELINE not in section.arms or not section.ablate:
            raise ConfigError(
                f"{config.source}: an ablation needs an arm {BASELINE!r} and fixes "
                "under compare.ablate."
            )
        before = section.arms[BASELINE]
        listed += [(n, (*before, *lines), True) for n, lines in section.ablate.items()]
    arms = []
    for name, lines, ablation in listed:
        source = f"{config.source}, arm {name!r}"
        configs = {
            seed: override(config, [*lines, f"train.seed={seed}"], source=source)
            for seed in seeds
        }
        slug = ("ablate-" if ablation else "") + _slug(name)
        arms.append(Arm(name, slug, lines, configs, ablation))
    for names in ([arm.name for arm in arms], [arm.folder for arm in arms]):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{config.source}: arms must differ, got {twice} twice.")
    return arms


def _slug(name: str) -> str:
    """Return a folder name for an arm, however it is called."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")
    if not slug:
        raise ConfigError(
            f"an arm's name must hold a letter or a digit, got {show(name)}."
        )
    return slug[:64]


def seeds_of(config: RunConfig, seeds: Sequence[int] | None) -> tuple[int, ...]:
    """Return the random seeds asked for, else those of the configuration.

    Raises:
        ConfigError: If there is none, or one twice.
    """
    if seeds is None:
        seeds = config.compare.seeds if config.compare else (config.train.seed,)
    chosen = tuple(seeds)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(
            f"compare: seeds must be different and at least one, got {show(chosen)}."
        )
    return chosen
