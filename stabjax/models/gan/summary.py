"""What the comparison page shows of a run."""

from stabjax.models.task import Summary

__all__ = ["CURVES", "SUMMARY"]

SUMMARY: tuple[Summary, ...] = (
    Summary("steps with every fake event empty", "all_fakes_empty", "sum"),
    Summary("empty fakes, last 100", "empty_fakes", "mean_last_100"),
    Summary("fakes at the bound, last 100", "fakes_at_bound", "mean_last_100"),
    Summary("smallest number pooled", "pooled_min", "min"),
    Summary("critic loss, lowest", "raw/critic", "min", 7),
    Summary("generator's turns without gradient", "generator_without_gradient", "sum"),
    Summary("generator gradient, last 100", "gradient/generator", "mean_last_100"),
    Summary("critic gradient, highest", "gradient/critic", "max"),
    Summary("score gap, last 100", "score_gap", "mean_last_100"),
    Summary("tensors above the seed's limit", "gradient_warnings", "sum"),
    Summary("non-finite losses", "loss", "count_nonfinite"),
    Summary("generated events empty", "empty", "eval"),
    Summary("W1 of particles", "w1_particles", "eval"),
    Summary("W1 of particles over floor", "w1_over_floor", "eval"),
    Summary("W1 of log radius", "w1_log_radius", "eval"),
    Summary("W1 of multiplicity", "w1_multiplicity", "eval"),
    Summary("conditional count error", "count_error", "eval"),
    Summary("classifier AUC", "classifier_auc", "eval"),
)

CURVES: tuple[str, ...] = (
    "raw/critic",
    "gradient/generator",
    "gradient/critic",
    "empty_fakes",
    "fakes_at_bound",
    "raw/count",
)
