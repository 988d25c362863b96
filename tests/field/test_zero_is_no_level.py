"""A loss, gradient or update of exactly zero says nothing of the level to come."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import START, readme_guards, refused, regression, squared_error, trained

from stabjax import guards, losses

WARM_UP = optax.warmup_cosine_decay_schedule(0.0, 5e-2, 100, 2000)


def test_a_warm_up_from_zero_is_neither_refused_nor_slowed_down():
    # EleutherAI/gpt-neox#1379, karpathy/nanoGPT#578, verl-project/verl#3674
    batches = regression(300)
    _, _, rows = trained(
        squared_error, optax.adamw(WARM_UP), readme_guards(), START, batches
    )
    assert refused(rows) == []
    assert all(row["update_scale"] == 1.0 for row in rows)
    assert rows[-1]["loss"] < 1.0


def test_updates_of_zero_between_two_emissions_are_no_level():
    optimizer = optax.MultiSteps(optax.adamw(5e-2), 4).gradient_transformation()
    given = [guards.skip_spikes(signals=["loss", "gradient_norm", "update_norm"])]
    _, _, rows = trained(squared_error, optimizer, given, START, regression(200))
    assert refused(rows) == []


@pytest.mark.parametrize("empty", [{0}, {0, 1, 2, 30}, set(range(0, 60, 2))])
def test_batches_without_labels_cost_no_other_batch(empty):
    # nvidia-cosmos/cosmos-rl#155, OpenRLHF/OpenRLHF#583
    rng = np.random.default_rng(1)
    target = rng.normal(size=(4, 3))
    batches = []
    for step in range(60):
        x = rng.normal(size=(16, 4)).astype(np.float32)
        y = np.full(16, -1) if step in empty else np.argmax(x @ target, -1)
        batches.append({"x": x, "y": y})

    def classify(params, batch, key):
        loss = losses.cross_entropy(batch["x"] @ params["w"], batch["y"])
        return loss, {"raw/ce": loss}

    given = [*readme_guards(), guards.escalate()]
    _, _, rows = trained(
        classify,
        optax.adam(1e-2),
        given,
        {"w": jnp.zeros((4, 3))},
        batches,
        snapshot_every=10,
    )
    assert refused(rows) == []
    assert rows[-1]["rollbacks"] == 0


def test_a_step_that_was_refused_is_no_level_either():
    batches = regression(40)
    for step in (0, 1, 20):
        batches[step]["x"] = np.full_like(batches[step]["x"], np.nan)
    _, _, rows = trained(
        squared_error, optax.adam(1e-2), readme_guards(), START, batches
    )
    assert refused(rows) == [0, 1, 20]
