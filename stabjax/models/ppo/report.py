"""What the original printed and logged, from the rows of telemetry."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import Environment

__all__ = ["health_text", "loss_metrics", "notes"]

_SMOOTHED = 20  # iterations in a smoothed loss
Row = Mapping[str, Any]


def notes(config: Config) -> list[str]:
    """Return what is worth saying about the settings before anything is trained."""
    lines = []
    share = 100.0 * config.value_clip_epsilon
    if config.enable_value_clipping and config.use_relative_value_clip:
        lines.append(f"Using relative value clipping: ±{share:.1f}% of old value")
    if config.normalize_returns:
        scale = config.return_scale
        lines.append(f"Return normalization enabled (scale={scale:.1f})")
    if config.value_clip == "absolute" and not config.normalize_returns:
        lines.append(
            f"Warning: values in the unit of the returns may move by "
            f"{config.value_clip_epsilon:g} per iteration, whatever the returns are."
        )
    weight = config.value_loss_weight * config.return_scale**2
    if config.return_scale != 1.0:
        lines.append(
            f"Warning: return_scale multiplies the value loss; in units of one "
            f"deviation its weight is {weight:g}."
        )
    if config.normalize_returns and config.return_normalization == "seed":
        lines.append("Warning: predictions in deviations meet rewards in raw units.")
    return lines


def health_text(config: Config, environment: Environment, rows: Sequence[Row]) -> str:
    """Return the notes and the health block of the last iteration."""
    lines = notes(config)
    if rows:
        row = rows[-1]
        lines += [
            "📊 PPO Health Metrics:",
            f"   Loss: Policy={row['raw/policy']:.4g} Value={row['raw/value']:.4g} "
            f"Entropy={row['entropy']:.4g} Total={row['loss']:.4g}",
            f"   Value Loss Weight: {config.value_loss_weight:g}",
            f"   KL={row['approx_kl']:.4g} Clip Frac={row['clip_fraction']:.3f} "
            f"Explained Var={row['explained_variance']:.3f}",
            f"   Episode Reward={row['episode_reward']:.4g} "
            f"Success Rate={row['success_rate']:.1%}",
        ]
        lines += [
            f"   {name}: reward {row[f'reward_{name}']:.4g} per step, value loss "
            f"{row[f'value_loss_{name}']:.4g}, explained variance "
            f"{row[f'explained_variance_{name}']:.3f}"
            for name in environment.components
        ]
    return "\n".join(lines) + "\n"


def loss_metrics(
    config: Config, environment: Environment, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Return one entry per iteration, named as in the original's file of that name."""
    entries, best = [], -math.inf
    losses: list[float] = []
    for row in rows:
        if math.isfinite(row["loss"]):
            losses.append(row["loss"])
        if row["episode_reward"] > best:  # False for NaN
            best = row["episode_reward"]
        recent = losses[-_SMOOTHED:]
        entry = {
            "batch": row["step"],
            "loss": row["loss"],
            "smoothed_loss": sum(recent) / len(recent) if recent else math.nan,
            "best_reward": best,
            "total_loss": row["loss"],
            "policy_loss": row["raw/policy"],
            "total_value_loss": row["raw/value"],
            "entropy": row["entropy"],
            "explained_variance": row["explained_variance"],
            "episode_reward": row["episode_reward"],
            "success_rate": row["success_rate"],
            "approx_kl": row["approx_kl"],
            "clip_fraction": row["clip_fraction"],
            "value_loss_weight": config.value_loss_weight,
        }
        for name in environment.components:
            for column in (f"value_loss_{name}", f"reward_{name}"):
                entry[column] = row[column]
        entries.append({key: _strict(value) for key, value in entry.items()})
    return entries


def _strict(value: Any) -> Any:
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite else None
