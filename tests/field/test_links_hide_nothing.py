"""A link of a chain lets a NaN through to whoever refuses it."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import START

from stabjax import transforms

LINKS = {
    "clip_by_global_norm": transforms.clip_by_global_norm(1.0),
    "clip_by_group_norm": transforms.clip_by_group_norm(1.0, ["w"]),
    "clip_by_block_rms": transforms.clip_by_block_rms(1.0),
    "zclip": transforms.zclip(),
    "reduce_on_plateau": transforms.reduce_on_plateau(),
}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", sorted(LINKS))
def test_what_stands_behind_it_sees_the_fault(name, value):
    behind = optax.apply_if_finite(optax.adamw(1e-2), 5)
    optimizer = optax.chain(LINKS[name], behind)
    state = optimizer.init(START)
    gradient = {"b": jnp.ones(()), "w": jnp.ones(4).at[2].set(value)}
    extra = {"value": jnp.float32(1.0)}
    updates, state = optimizer.update(gradient, state, START, **extra)
    assert not np.any(updates["w"])
    assert state[1].total_notfinite == 1
    assert state[0].core.refused == 1
    good = {"b": jnp.ones(()), "w": jnp.ones(4)}
    updates, state = optimizer.update(good, state, START, **extra)
    assert np.all(updates["w"])


def test_a_loss_that_is_nan_does_not_zero_the_gradient():
    link = transforms.reduce_on_plateau()
    gradient = {"w": jnp.ones(4)}
    updates, _ = link.update(gradient, link.init(gradient), value=jnp.nan)
    np.testing.assert_array_equal(updates["w"], 1.0)


@pytest.mark.parametrize("name", sorted(LINKS.keys() - {"clip_by_global_norm"}))
def test_what_it_cannot_scale_is_zero_and_counts_as_refused(name):
    gradient = {"b": jnp.ones(()), "w": jnp.full(4, 1e38)}
    link = LINKS[name]
    updates, state = link.update(gradient, link.init(START), value=jnp.float32(1.0))
    assert not np.any(updates["w"])
    assert state.core.refused == 1
