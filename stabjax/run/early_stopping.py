"""End a run whose score no longer improves."""

import math
from collections.abc import Mapping

from stabjax.config.errors import ConfigError, nearest, show
from stabjax.config.schema import EarlyStopping


class Improvement:
    """Follows one evaluation score; asks for the end after so many without a better.

    A score that is not finite is never better. What it has seen follows from the
    evaluations alone, so a resumed run sees them again, in order.

    Args:
        settings: Score, patience and direction; None never asks.
    """

    def __init__(self, settings: EarlyStopping | None):
        self._settings = settings
        self._best = math.inf
        self._without = 0

    def see(self, scores: Mapping[str, float]) -> None:
        """Take one evaluation.

        Raises:
            ConfigError: If the model reports no such score.
        """
        settings = self._settings
        if settings is None:
            return
        if settings.score not in scores:
            raise ConfigError(
                f"train.early_stopping.score {show(settings.score)} is not a score of "
                f"this model{nearest(settings.score, scores)}"
            )
        value = float(scores[settings.score])
        cost = value if settings.mode == "min" else -value
        first = self._best == math.inf
        if math.isfinite(cost) and (first or cost < self._best - settings.min_delta):
            self._best, self._without = cost, 0
        else:
            self._without += 1

    @property
    def exhausted(self) -> bool:
        """Whether the patience is used up."""
        return self._settings is not None and self._without >= self._settings.patience
