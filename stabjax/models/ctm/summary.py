"""What the comparison page shows of a run."""

from stabjax.models.task import Summary

__all__ = ["CURVES", "SUMMARY"]

SUMMARY: tuple[Summary, ...] = (
    Summary("MCMC loss, lowest", "raw/mcmc", "min"),
    Summary("MCMC loss, highest", "raw/mcmc", "max"),
    Summary("steps with a dead MCMC head", "mcmc_head_frozen", "sum"),
    Summary("largest potential", "mcmc_theta_max", "max"),
    Summary("target outside hull", "mcmc_outside_hull", "max"),
    Summary("non-finite losses", "loss", "count_nonfinite"),
    Summary("gradient norm, highest", "grad_norm", "max"),
    Summary("overflowing gradient norms", "grad_norm", "count_nonfinite"),
    Summary("fast weights, Frobenius", "plastic_norm", "max"),
    Summary("cross-entropy, last 100", "raw/ce", "mean_last_100"),
    Summary("train exact match", "train_exact_match", "eval"),
    Summary("test pairs solved", "test_solved", "eval"),
)

CURVES: tuple[str, ...] = (
    "raw/mcmc",
    "mcmc_head_gradient",
    "raw/ce",
    "grad_norm",
    "plastic_norm",
    "learning_signal",
)
