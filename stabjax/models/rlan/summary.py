"""What the comparison page shows of a run."""

from stabjax.models.task import Summary

__all__ = ["CURVES", "SUMMARY"]

SUMMARY: tuple[Summary, ...] = (
    Summary("non-finite batches", "grad_norm", "count_nonfinite"),
    Summary("largest logit", "logit_max", "max"),
    Summary("logits clamped", "logits_clamped", "sum"),
    Summary("meta share, highest", "meta_share", "max"),
    Summary("equivariance loss, highest", "raw/equivariance", "max"),
    Summary("clues, last 100", "clues_mean", "mean_last_100"),
    Summary("clue std, last 100", "clues_std", "mean_last_100"),
    Summary("largest stop logit", "stop_logit_max", "max"),
    Summary("LoRA norm before the cap, highest", "lora_norm_max", "max"),
    Summary("LoRA over the cap, last 100", "lora_cap_hit", "mean_last_100"),
    Summary("clues in one place", "centroids_collapsed", "mean_last_100"),
    Summary("task loss, last 100", "raw/task", "mean_last_100"),
    Summary("train exact match", "train_exact_match", "eval"),
    Summary("test pairs solved", "test_solved", "eval"),
    Summary("solved by vote", "vote_solved", "eval"),
    Summary("consensus", "consensus", "eval"),
    Summary("unseen tasks' pairs solved", "held_out_solved", "eval"),
    Summary("entropy gap", "entropy_gap", "eval"),
)

CURVES: tuple[str, ...] = (
    "raw/task",
    "train_exact",
    "logit_max",
    "meta_share",
    "raw/equivariance",
    "clues_std",
    "lora_norm_max",
    "grad_norm",
)
