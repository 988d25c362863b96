"""What the comparison page shows of a run."""

import functools

from stabjax.models.causal.data_gradient import DATA_GRADIENT
from stabjax.models.task import Summary

__all__ = ["CURVES", "SUMMARY"]

_given = functools.partial(Summary, reduce="eval", baseline=True)

SUMMARY: tuple[Summary, ...] = (
    Summary("gradient norm, highest", "grad_norm", "max"),
    Summary("gradient norm, last 100", "grad_norm", "mean_last_100"),
    Summary("non-finite losses", "loss", "count_nonfinite"),
    Summary("validation R2", "val_r2", "eval", 4),
    Summary("gain over the empty graph, validation [nats]", "val_gain", "eval"),
    Summary("gradient of the data in the graph, highest", DATA_GRADIENT, "max"),
    Summary("edges", "edges", "eval"),
    Summary("SHD", "shd", "eval"),
    _given("SHD by chance", "chance_shd"),
    _given("SHD of the empty graph", "empty_shd"),
    _given("SHD of the correlation graph", "correlation_shd"),
    _given("SHD of sortnregress", "sortnregress_shd"),
    Summary("F1", "f1", "eval"),
    _given("F1 by chance", "chance_f1"),
    _given("F1 of the correlation graph", "correlation_f1"),
    _given("F1 of sortnregress", "sortnregress_f1"),
    Summary("AUROC (chance: 0.5)", "auroc", "eval"),
    _given("AUROC of the correlation graph", "correlation_auroc"),
    _given("AUROC of sortnregress", "sortnregress_auroc"),
    _given("varsortability of the inputs", "varsortability"),
    _given("varsortability of the raw data", "raw_varsortability"),
)

CURVES: tuple[str, ...] = (
    "grad_norm",
    "gradient_scale",
    "raw/reconstruction",
    DATA_GRADIENT,
    "edge_count",
    "val_shd",
)
