"""What the comparison page shows of a run."""

from stabjax.models.task import Summary

__all__ = ["CURVES", "SUMMARY"]

SUMMARY: tuple[Summary, ...] = (
    Summary("episode reward, last 5", "episode_reward", "last", 4),
    Summary("episode reward, best", "episode_reward", "max", 4),
    Summary("reward without noise", "eval_reward", "eval", 4),
    Summary("success without noise", "eval_success_rate", "eval"),
    Summary("explained variance", "explained_variance", "last"),
    Summary("explained variance, own unit", "explained_variance_own_unit", "last"),
    Summary("total loss, last", "loss", "last"),
    Summary("value loss, highest", "raw/value", "max"),
    Summary("value loss, last", "raw/value", "last"),
    Summary("value loss of a component, highest", "value_loss_largest", "max"),
    Summary("share of values in the trunk", "value_gradient_share", "last", 5),
    Summary("KL, last", "approx_kl", "last"),
    Summary("first log ratio, largest", "first_log_ratio", "max"),
    Summary("non-finite losses", "loss", "count_nonfinite"),
)

CURVES: tuple[str, ...] = (
    "episode_reward",
    "explained_variance",
    "raw/value",
    "loss",
    "approx_kl",
    "value_gradient_share",
)
