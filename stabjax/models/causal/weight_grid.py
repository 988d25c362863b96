"""The seed's grids of loss weights, all points and seeds in one compiled program.

The seed answers "edges stay at zero" by a sweep over the weights of its losses. Here
every point of both of its grids is trained, to see what the sweep can find.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from stabjax.guards import clip_by_global_norm
from stabjax.models.causal.config import Config
from stabjax.models.causal.dataset import Dataset, steps_per_epoch, training_batch
from stabjax.models.causal.latent_task import first_parameters
from stabjax.models.causal.objective import COMPONENTS, make_terms
from stabjax.train_step import make_train_step

__all__ = ["GRIDS", "GridFit", "WeightedTerms", "train_grid"]

_DISENTANGLEMENT = 1e-4


def _points(
    reconstruction: Sequence[float], sparsity: Sequence[float], cycles: Sequence[float]
) -> tuple[tuple[float, ...], ...]:
    grid = itertools.product(reconstruction, sparsity, cycles, (_DISENTANGLEMENT,))
    return tuple(grid)


# Weights of the `COMPONENTS`, in their order.
GRIDS: dict[str, tuple[tuple[float, ...], ...]] = {
    "section 4": _points((1.0, 10.0, 100.0), (1e-4, 1e-3, 1e-2), (1e-6, 1e-5, 1e-4)),
    "section 9": _points((10.0,), (1e-5, 1e-4, 1e-3), (1e-7, 1e-6, 1e-5)),
}


class GridFit(NamedTuple):
    """What every point of a grid ended with.

    Attributes:
        logits: Of the graph [points, seeds, d, d].
        first: The same at the start [seeds, d, d]; all points of a seed share it.
        reconstruction: Raw loss of the last step [points, seeds].
    """

    logits: Float[np.ndarray, "points seeds d d"]
    first: Float[np.ndarray, "seeds d d"]
    reconstruction: Float[np.ndarray, "points seeds"]


class WeightedTerms:
    """The latent model's loss, with its weights taken from ``batch["weights"]``."""

    wants_step = True

    def __init__(self, config: Config, nodes: int, epoch: int):
        self.terms = make_terms(config, nodes, epoch)

    def __call__(
        self, params: Any, batch: Any, key: Any, /, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        """Return the weighted sum of the components, and each raw one."""
        raw, _ = self.terms(params, batch, key, **kwargs)
        values = jnp.stack([raw[name] for name in COMPONENTS])
        report = {f"raw/{name}": value for name, value in raw.items()}
        return jnp.sum(batch["weights"] * values), report


def train_grid(
    config: Config,
    datasets: Sequence[Dataset],
    points: Sequence[Sequence[float]],
    *,
    epochs: int,
    learning_rate: float = 5e-4,
    weight_decay: float = 1e-4,
    max_norm: float = 1.0,
) -> GridFit:
    """Train the latent model at every point of a grid, on every data set.

    The settings of the seed: Adam with coupled weight decay, one clip. Place k of
    ``datasets`` takes the random seed k for its parameters and its batches.

    Args:
        config: Which setting of every fix; its weights are not used.
        datasets: Of the same size.
        points: Weights of the `COMPONENTS`, in their order.
        epochs: Passes over the training windows.
        learning_rate: Of Adam.
        weight_decay: Added to the clipped gradient.
        max_norm: Of the clip.
    """
    nodes, epoch = datasets[0].nodes, steps_per_epoch(datasets[0], config)
    train = make_train_step(
        WeightedTerms(config, nodes, epoch),
        optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate)),
        guards=[clip_by_global_norm(max_norm=max_norm)],
        window=1,
        form="select",  # what a branch becomes under vmap
        finite_check="outcome",
        sample_updates=False,
    )
    first = [
        first_parameters(config, nodes)(jax.random.key(k)) for k in range(len(datasets))
    ]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *first)
    grid = np.asarray(points, np.float32)
    states = jax.jit(_initial(train))(params, _batch(datasets, config, 0), grid)
    step = jax.jit(_every(train), donate_argnums=0)
    row = None
    for position in range(epochs * epoch):
        states, row = step(states, _batch(datasets, config, position), grid)
    place = train.schema(states).floats.index("raw/reconstruction")
    return GridFit(
        logits=np.asarray(states.params["graph"]["logits"]),
        first=np.asarray(params["graph"]["logits"]),
        reconstruction=np.asarray(row.floats[..., place]) if row else np.zeros(0),
    )


def _initial(train: Any) -> Any:
    def one(params: Any, batch: Any, weights: Array) -> Any:
        return train.init(params, batch | {"weights": weights})

    seeds = jax.vmap(one, in_axes=(0, 0, None))
    return jax.vmap(seeds, in_axes=(None, None, 0))


def _every(train: Any) -> Any:
    step = train.step.__wrapped__  # before its jit

    def one(state: Any, batch: Any, weights: Array) -> Any:
        # The latent model draws nothing: one key serves all.
        return step(state, batch | {"weights": weights}, jax.random.key(0))

    seeds = jax.vmap(one, in_axes=(0, 0, None))
    return jax.vmap(seeds, in_axes=(0, None, 0))


def _batch(
    datasets: Sequence[Dataset], config: Config, position: int
) -> dict[str, np.ndarray]:
    batches = [
        training_batch(dataset, config, seed=seed, position=position)
        for seed, dataset in enumerate(datasets)
    ]
    return {name: np.stack([b[name] for b in batches]) for name in batches[0]}
