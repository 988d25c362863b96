"""Statistics and averages beside a guarded optimizer keep still when it does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small import START, regression

import stabjax
from stabjax import guards, keep_if_refused, transforms, was_applied


class Model(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(x))[:, 0]


def test_the_statistics_of_a_batch_normalization_do_not_take_in_a_refused_batch():
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, stabjax.guard(optax.adam(1e-2)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        # A copy: the model changes its own in place.
        before = jax.tree.map(lambda x: x, nnx.state(model, nnx.BatchStat))

        def loss(model):
            return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)

        optimizer.update(model, nnx.grad(loss)(model))
        after = nnx.state(model, nnx.BatchStat)
        nnx.update(model, keep_if_refused(optimizer, after, before))

    batches = regression(4)
    batches[2]["x"][0, 0] = np.nan
    seen = []
    for batch in batches:
        step(model, optimizer, batch)
        seen.append(np.asarray(model.norm.mean[...]))
    assert np.isfinite(seen).all()
    np.testing.assert_array_equal(seen[2], seen[1])
    assert (seen[3] != seen[2]).any()


@pytest.mark.parametrize(
    "optimizer",
    [
        stabjax.guard(optax.adam(1e-2)),
        optax.chain(optax.scale(1.0), stabjax.guard(optax.adam(1e-2))),
        transforms.adamw(1e-2, guards=[guards.skip_nonfinite()]),
    ],
    ids=["guard", "chain", "folded"],
)
def test_an_average_of_the_weights_stands_still_in_a_jitted_loop(optimizer):
    @jax.jit
    def step(params, state, average, gradient):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        moved = optax.incremental_update(params, average, 0.5)
        # A target that took in what was refused would be NaN from here on.
        poisoned = jax.tree.map(lambda a, g: a + 0 * g, moved, gradient)
        return params, state, keep_if_refused(state, poisoned, average)

    params = jax.tree.map(jnp.asarray, START)
    state, average, seen = optimizer.init(params), params, []
    for value in (1.0, np.nan, 1.0):
        gradient = jax.tree.map(lambda x: jnp.full_like(x, value), params)  # noqa: B023
        params, state, average = step(params, state, average, gradient)
        seen.append((bool(was_applied(state)), np.asarray(average["w"])))
    assert [applied for applied, _ in seen] == [True, False, True]
    np.testing.assert_array_equal(seen[1][1], seen[0][1])
    assert np.isfinite(seen[2][1]).all()


def test_without_a_guard_there_is_nothing_to_ask():
    with pytest.raises(ValueError, match=r"must hold the state of stabjax\.guard"):
        was_applied(optax.adam(1e-2).init(START))
