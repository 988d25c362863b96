"""A classifier two-sample test: can generated events be told from real ones?"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import linalg, special, stats

from stabjax.models.gan.events import Events, Schema, counts, take

__all__ = ["auc", "classifier_auc", "event_summaries"]

MOST = 5000  # events of either class that are used: enough for an error near 0.006
PENALTY = 1.0  # L2, against the summed loss: negligible next to 1000 events
STEPS = 50  # of Newton's method; about eight are needed
TOLERANCE = 1e-3  # of the summed loss, that a step must still promise


def classifier_auc(
    generated: Events, real: Events, schema: Schema, *, seed: int = 0
) -> float:
    """Train a classifier on half of the events and return its AUC on the others.

    Of each class at most the first `MOST` events are used. The classifier is logistic
    regression on `event_summaries` and all their squares and products: a convex
    problem with one answer, so that the score is as reproducible as the events.

    Args:
        generated: Events of the first class.
        real: Events of the second class.
        schema: What the columns mean.
        seed: Seed of the split.

    Returns:
        The area under the ROC curve: 0.5 if they cannot be told apart, 1 if always.
        NaN if a generated particle is not finite.

    Source: Lopez-Paz, Oquab, Revisiting Classifier Two-Sample Tests (2017),
        arXiv:1610.06545.
    """
    generated, real = take(generated, slice(MOST)), take(real, slice(MOST))
    rows = np.concatenate(
        [event_summaries(generated, schema), event_summaries(real, schema)]
    )
    if not np.isfinite(rows).all():
        return float("nan")
    label = np.arange(len(rows)) < len(generated.mask)
    held_out = np.random.default_rng(seed).permutation(len(rows)) % 2 == 0
    design = _quadratic(rows, ~held_out)
    weights = _fit(design[~held_out], label[~held_out])
    return auc(design[held_out] @ weights, label[held_out])


def event_summaries(
    events: Events, schema: Schema
) -> Float[np.ndarray, "events summaries"]:
    """Return what a classifier sees of an event, one row each.

    The count; mean and standard deviation of every feature; log10 of the summed
    energy; mean log10 radius; the conditions. All of an empty event are 0 but its
    conditions.
    """
    mask = np.asarray(events.mask)
    particles = np.asarray(events.particles, np.float64)
    some = np.any(mask, axis=1)
    number = np.maximum(mask.sum(axis=1), 1)[:, None]
    shown = mask[..., None]
    mean = np.where(shown, particles, 0.0).sum(axis=1) / number
    spread = np.where(shown, particles - mean[:, None], 0.0)
    spread = np.sqrt((spread**2).sum(axis=1) / number)
    energy = schema.log10_energy_sums(events)[:, None]
    radius = np.where(mask, schema.log10_radii(particles), 0.0).sum(axis=1)
    radius = radius[:, None] / number
    columns = np.concatenate([mean, spread, energy, radius], axis=1)
    columns = np.where(some[:, None], columns, 0.0)
    return np.concatenate([counts(events)[:, None], columns, events.condition], axis=1)


def auc(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> float:
    """Return P(score of a positive > score of a negative), ties counting one half."""
    positives, negatives = int(label.sum()), int((~label).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(score)[label].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def _quadratic(
    rows: Float[np.ndarray, "n summaries"], train: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "n terms"]:
    """Return 1, the standardized columns and all their products of two."""
    spread = rows[train].std(axis=0)
    rows = (rows - rows[train].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    rows = np.clip(rows, -5.0, 5.0)  # one far outlier must not decide the fit
    first, second = np.triu_indices(rows.shape[1])
    products = rows[:, first] * rows[:, second]
    return np.concatenate([np.ones((len(rows), 1)), rows, products], axis=1)


def _fit(
    design: Float[np.ndarray, "n terms"], label: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " terms"]:
    """Return the weights of a penalized logistic regression, by Newton's method."""
    signed = np.where(label, 1.0, -1.0)[:, None] * design

    def loss(weights: np.ndarray) -> float:
        fit = -special.log_expit(signed @ weights).sum()
        return float(fit + PENALTY / 2 * weights @ weights)

    weights = np.zeros(design.shape[1])
    for _ in range(STEPS):
        miss = special.expit(-(signed @ weights))
        slope = PENALTY * weights - miss @ signed
        weighted = signed * (miss * (1.0 - miss))[:, None]
        curvature = signed.T @ weighted + PENALTY * np.eye(len(weights))
        step = linalg.solve(curvature, slope, assume_a="pos")
        gain = slope @ step
        if gain < TOLERANCE:
            break
        length, here = 1.0, loss(weights)
        while loss(weights - length * step) > here - length * gain / 4:
            length /= 2
        weights = weights - length * step
    return weights
