"""Batches for a tiny solver."""

import numpy as np
import pytest

from stabjax.models.arc import PAD


@pytest.fixture(scope="session")
def random_batch():
    """Build a batch of random grids, some of them smaller than the canvas."""

    def make(config, seed=0):
        rng = np.random.default_rng(seed)
        side = config.grid
        pairs = rng.integers(
            0, 10, (config.batch, config.demonstrations + 1, 2, side, side)
        )
        pairs[0, :, :, -1] = PAD  # a grid of one row less
        turn = rng.integers(1, 8, config.batch)
        return {
            "query": pairs[:, 0, 0].astype(np.int32),
            "target": pairs[:, 0, 1].astype(np.int32),
            "support": pairs[:, 1:].astype(np.int32),
            "turn": turn.astype(np.int32),
        }

    return make
