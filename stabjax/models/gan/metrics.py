"""How far generated events are from real ones, beside how far real are from real.

A distance between finite samples is never zero, so each score comes with its floor:
the same score of real events against other real events. No generator can be asked to
go below it.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from stabjax.models.gan.distances import wasserstein
from stabjax.models.gan.events import Events, Schema, counts, inside, nonempty
from stabjax.models.gan.jet_metrics import jet_scores
from stabjax.models.gan.two_sample import classifier_auc

__all__ = ["Mean", "conditional_count_error", "score_events"]

Mean = Callable[[np.ndarray], np.ndarray]  # conditions to mean counts


def score_events(
    generated: Events,
    real: Events,
    reference: Events,
    schema: Schema,
    *,
    expected: Mean | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Score generated events against real ones, each score beside its floor.

    Scores, all zero at best but for the last: ``w1_<feature>`` (over the particles of
    all events, in standard deviations of the real ones) and their mean
    ``w1_particles``; ``w1_log_radius`` and ``w1_log_energy_sum`` (in decades, the
    latter over events with particles); ``w1_multiplicity`` (in particles);
    ``count_error`` (`conditional_count_error`); for jets ``w1m``, ``w1p`` and their
    spreads (`jet_scores`); ``classifier_auc`` (`classifier_auc`, 0.5 at best).
    ``empty`` is the share of events without a particle. Each has a twin with the
    suffix ``_floor``: the same, of ``reference`` in the place of ``generated``.

    Args:
        generated: What a generator made, best for the conditions of ``real``.
        real: Real events it did not see in training.
        reference: Other real events, best as many as ``generated``.
        schema: What the columns mean.
        expected: Conditions to exact mean counts, where they are known; otherwise
            the counts of ``real`` tell the truth.
        seed: Seed of the classifier's split and of the bootstrap.

    Returns:
        The scores by name; inf where nothing was generated to be compared, NaN where
        a generated particle is not finite.

    Raises:
        ValueError: If there are no events, or no particle in ``real``.
    """
    for name, events in zip(
        ("generated", "real", "reference"), (generated, real, reference), strict=True
    ):
        if not len(events.mask):
            raise ValueError(f"score_events: {name} must hold at least one event.")
    if not real.mask.any():
        raise ValueError("score_events: real must hold at least one particle.")
    scores = _scores(generated, real, schema, expected, seed)
    floor = _scores(reference, real, schema, expected, seed)
    return scores | {f"{name}_floor": value for name, value in floor.items()}


def conditional_count_error(
    generated: Events, real: Events, *, expected: Mean | None = None, bins: int = 10
) -> float:
    """Return the mean over bins of |E[N | bin] - truth| / truth.

    Every condition in turn is cut into ``bins`` bins of equal population (or its
    distinct values, where there are fewer). The truth is the mean of the closed form
    over the generated events of a bin, or else the mean count of ``real`` there.

    Args:
        generated: The events to judge.
        real: Real events; they set the bins.
        expected: Conditions to exact mean counts, where they are known.
        bins: Bins of each condition, at least 1.

    Returns:
        The relative error; bins that hold no event of either are left out.
    """
    number = counts(generated).astype(np.float64)
    truth = counts(real).astype(np.float64)
    if expected is not None:
        truth = expected(generated.condition)
    errors = []
    for column in range(real.condition.shape[1]):
        edges = _edges(real.condition[:, column], bins)
        here = np.searchsorted(edges, generated.condition[:, column], side="right")
        there = np.searchsorted(edges, real.condition[:, column], side="right")
        there = there if expected is None else here
        for index in range(len(edges) + 1):
            if (here == index).any() and (there == index).any():
                mean = truth[there == index].mean()
                errors.append(abs(number[here == index].mean() - mean) / mean)
    return float(np.mean(errors))


def _scores(
    events: Events, real: Events, schema: Schema, expected: Mean | None, seed: int
) -> dict[str, float]:
    made, true = inside(events), inside(real)
    scale = true.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    features = [
        wasserstein(made[:, i] / scale[i], true[:, i] / scale[i])
        for i in range(len(schema.features))
    ]
    names = [f"w1_{name}" for name in schema.features]
    scores = dict(zip(names, features, strict=True))
    scores["w1_particles"] = float(np.mean(features))
    scores["w1_log_radius"] = wasserstein(
        schema.log10_radii(made), schema.log10_radii(true)
    )
    scores["w1_log_energy_sum"] = wasserstein(
        *(schema.log10_energy_sums(nonempty(each)) for each in (events, real))
    )
    scores["w1_multiplicity"] = wasserstein(
        counts(events).astype(np.float64), counts(real).astype(np.float64)
    )
    scores["count_error"] = conditional_count_error(events, real, expected=expected)
    if schema.jets:
        scores |= jet_scores(events, real, seed=seed)
    scores["classifier_auc"] = classifier_auc(events, real, schema, seed=seed)
    scores["empty"] = float((counts(events) == 0).mean())
    return scores


def _edges(values: Float[np.ndarray, " n"], bins: int) -> Float[np.ndarray, " inner"]:
    """Return the inner edges of bins of equal population."""
    distinct = np.unique(values)
    if len(distinct) <= bins:
        return (distinct[1:] + distinct[:-1]) / 2
    return np.unique(np.quantile(values, np.arange(1, bins) / bins))
