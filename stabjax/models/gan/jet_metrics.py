"""JetNet's scores of jets: W1 of the jet mass and of the constituents' features."""

import numpy as np
from jaxtyping import Float, Int

from stabjax.models.gan.distances import wasserstein
from stabjax.models.gan.events import Events

__all__ = ["jet_mass", "jet_momentum", "jet_scores"]

SAMPLES = 50_000  # jets of a bootstrap batch
BATCHES = 5


def jet_scores(
    generated: Events, real: Events, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, float]:
    """Return W1M and W1P as JetNet defines them.

    Five times, ``samples`` jets are drawn with replacement from either set. W1M is
    the mean of W1 between their masses; W1P of W1 between the features of their
    constituents, averaged over (eta_rel, phi_rel, pt_rel), constituents that are
    exactly zero left out. Nothing is standardized. Published values use 50,000 jets;
    of fewer, the floor is higher.

    Args:
        generated: Jets with features (eta_rel, phi_rel, pt_rel).
        real: Real jets of the same form.
        samples: Jets of a bootstrap batch.
        seed: Seed of the bootstrap.

    Returns:
        ``w1m``, ``w1p`` and their standard deviations over the five batches,
        ``w1m_spread`` and ``w1p_spread``. Inf where no constituent was generated,
        NaN where one is not finite.

    Source: Kansal et al., Particle Cloud Generation with Message Passing Generative
        Adversarial Networks (2021), arXiv:2106.11535.
    """
    rng = np.random.default_rng(seed)
    both = (generated, real)
    masses = [jet_mass(jets) for jets in both]
    of, features = zip(*(_constituents(jets) for jets in both), strict=True)
    by_mass, by_feature = [], []
    for _ in range(BATCHES):
        # How often each jet is drawn: the same as the drawn jets, without the copies.
        drawn = [_drawn(rng, len(jets.mask), samples) for jets in both]
        by_mass.append(wasserstein(*masses, times=(drawn[0], drawn[1])))
        times = (drawn[0][of[0]], drawn[1][of[1]])
        by_feature.append(
            np.mean(
                [
                    wasserstein(first, second, times=times)
                    for first, second in zip(features[0].T, features[1].T, strict=True)
                ]
            )
        )
    return {
        "w1m": float(np.mean(by_mass)),
        "w1m_spread": _spread(by_mass),
        "w1p": float(np.mean(by_feature)),
        "w1p_spread": _spread(by_feature),
    }


def jet_mass(jets: Events) -> Float[np.ndarray, " events"]:
    """Return sqrt(max(E^2 - |p|^2, 0)) of the summed massless constituents.

    In units of the jet's transverse momentum; 0 for a jet without constituents.
    """
    px, py, pz, energy = _momentum(jets)
    return np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0))


def jet_momentum(jets: Events) -> Float[np.ndarray, " events"]:
    """Return the transverse momentum of the summed constituents.

    In units of the jet's transverse momentum: at most 1, as soft ones are left out.
    """
    px, py, _, _ = _momentum(jets)
    return np.hypot(px, py)


def _momentum(jets: Events) -> tuple[np.ndarray, ...]:
    """Return the sums of p_x, p_y, p_z and E over a jet's constituents."""
    mask = np.asarray(jets.mask)
    eta, phi, pt = np.moveaxis(np.asarray(jets.particles, np.float64), 2, 0)
    eta = np.clip(eta, -50.0, 50.0)  # a wild one makes a large mass, not an inf
    parts = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)
    return tuple(np.where(mask, part, 0.0).sum(axis=1) for part in parts)


def _constituents(
    jets: Events,
) -> tuple[Int[np.ndarray, " constituents"], Float[np.ndarray, "constituents 3"]]:
    """Return the jet and the features of every constituent that is not all zero."""
    particles = np.asarray(jets.particles)
    held = np.asarray(jets.mask) & (particles != 0).any(axis=2)
    return np.nonzero(held)[0], particles[held]


def _drawn(
    rng: np.random.Generator, jets: int, samples: int
) -> Int[np.ndarray, " jets"]:
    """Draw ``samples`` jets with replacement; return how often each was drawn."""
    return np.bincount(rng.choice(jets, samples), minlength=jets)


def _spread(values: list[float]) -> float:
    """Return the standard deviation; NaN if a value is not finite."""
    return float(np.std(values)) if np.isfinite(values).all() else float("nan")
