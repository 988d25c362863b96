"""The seed's sweep: its points, and that a point is what it would be alone."""

import jax
import numpy as np
import optax
import pytest

from stabjax.models.causal.config import Config
from stabjax.models.causal.dataset import (
    load_dataset,
    steps_per_epoch,
    training_batch,
)
from stabjax.models.causal.latent_task import first_parameters
from stabjax.models.causal.objective import make_loss
from stabjax.models.causal.weight_grid import GRIDS, train_grid

CONFIG = Config(
    data={"nodes": 4, "rows": 100, "window": 5, "split": "seed"},
    decoder="latent",
    standardization="seed",
    evaluation="seed",
    reduction="seed",
    acyclicity="seed",
    disentanglement="seed",
    latent=3,
    hidden=4,
    batch=16,
)
POINTS = ((10.0, 1e-4, 1e-5, 1e-4), (1.0, 0.5, 0.1, 0.2))


def test_the_grids_are_those_of_the_seed():
    first, second = GRIDS["section 4"], GRIDS["section 9"]
    assert (len(first), len(set(first))) == (27, 27)
    assert (len(second), len(set(second))) == (9, 9)
    assert (100.0, 1e-2, 1e-6, 1e-4) in first
    assert (10.0, 1e-5, 1e-7, 1e-4) in second


@pytest.mark.slow
def test_a_point_is_what_the_model_is_when_it_is_trained_alone():
    datasets = [load_dataset(CONFIG, seed=seed) for seed in (0, 1)]
    fit = train_grid(CONFIG, datasets, POINTS, epochs=1)
    epoch = steps_per_epoch(datasets[1], CONFIG)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-4),
        optax.adam(5e-4),
    )
    names = ("reconstruction", "sparsity", "acyclicity", "disentanglement")
    weights = {f"{n}_weight": w for n, w in zip(names, POINTS[1], strict=True)}
    config = CONFIG.model_copy(update=weights)
    loss = make_loss(config, 4, epoch).inner.inner

    @jax.jit
    def step(params, state, batch):
        slope, aux = jax.grad(loss, has_aux=True)(
            params, batch, jax.random.key(0), step=0
        )
        update, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, update), state, aux["raw/reconstruction"]

    params = first_parameters(CONFIG, 4)(jax.random.key(1))
    np.testing.assert_array_equal(fit.first[1], params["graph"]["logits"])
    state, error = optimizer.init(params), None
    for position in range(epoch):
        batch = training_batch(datasets[1], CONFIG, seed=1, position=position)
        params, state, error = step(params, state, batch)
    np.testing.assert_allclose(
        fit.logits[1, 1], params["graph"]["logits"], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(fit.reconstruction[1, 1], error, rtol=1e-4)
    # The other point's model is another one. Its logits hardly tell: only the weighted
    # penalties reach them, and Adam divides a weight out again.
    assert not np.allclose(fit.reconstruction[0, 1], error, rtol=1e-3)
