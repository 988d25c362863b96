"""Folded optimizers and accumulation on parameters sharded over eight devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from stabjax import transforms
from stabjax.guards import clip_by_global_norm, skip_nonfinite

GUARDS = [clip_by_global_norm(), skip_nonfinite()]
COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|"
    r"collective-broadcast)(?:-start)?\("
)
MADE = {
    "adamw": lambda **form: transforms.adamw(0.1, guards=GUARDS, **form),
    "lion": lambda **form: transforms.lion(0.1, guards=GUARDS, **form),
    "sgd": lambda **form: transforms.sgd(0.1, 0.9, guards=GUARDS, **form),
    "accumulate": lambda **form: transforms.accumulate(
        optax.adamw(0.1), 2, *GUARDS, **form
    ),
}
pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


@functools.cache
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def place(tree):
    return jax.device_put(tree, NamedSharding(mesh(), P("data")))


def params():
    kernel = jnp.linspace(-1.0, 1.0, 64, dtype=jnp.float32).reshape(16, 4)
    return place({"kernel": kernel, "bias": jnp.zeros((8,), jnp.float32)})


def gradient(*, bad_row=None):
    kernel = np.linspace(2.0, -1.0, 64, dtype=np.float32).reshape(16, 4).copy()
    if bad_row is not None:
        kernel[bad_row, 1] = np.nan
    return place({"kernel": kernel, "bias": np.ones(8, np.float32)})


def step_of(optimizer):
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def shards(tree):
    """Return the bytes that each device holds of each leaf."""
    leaves = jax.tree.leaves(tree)
    return [
        [np.asarray(s.data).tobytes() for s in x.addressable_shards] for x in leaves
    ]


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_select_needs_no_more_collectives_than_clipping_in_optax(name):
    optimizer, p = MADE[name](form="select"), params()
    compiled = step_of(optimizer).lower(p, optimizer.init(p), p).compile()
    assert len(COLLECTIVE.findall(compiled.as_text())) == 1


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "select") for name in sorted(MADE)]
    + [("adamw", "branch")]
    + [
        pytest.param(n, "branch", marks=pytest.mark.slow) for n in ("accumulate", "sgd")
    ],
)
def test_a_nan_on_one_shard_is_refused_on_all_and_the_run_is_that_on_one(name, form):
    optimizer, one = MADE[name](form=form), jax.devices()[0]
    step = step_of(optimizer)
    p, state = params(), optimizer.init(params())
    alone = jax.device_put(p, one)
    other = optimizer.init(alone)
    for bad_row in (None, 3, None, 13):
        before, count = shards(p), state.core.refused
        p, state = step(p, state, gradient(bad_row=bad_row))
        single = jax.device_put(gradient(bad_row=bad_row), one)
        alone, other = step(alone, other, single)
        if bad_row is not None:
            assert shards(p) == before
            assert state.core.refused == count + 1
    for ours, theirs in zip(jax.tree.leaves(p), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert ours.sharding.spec == P("data")
