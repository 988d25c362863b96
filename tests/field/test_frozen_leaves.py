"""What the optimizer never moves counts in no norm, clip, spike or finite check."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import refused, regression, trained

import stabjax
from stabjax import guards
from stabjax.core.frozen import trained as moved

# AI-Hypercomputer/maxtext#5290, #5285
LABELS = {"frozen": {"w": "frozen"}, "train": {"w": "train"}}
IS_FROZEN = {"frozen": {"w": True}, "train": {"w": False}}
START = {"frozen": {"w": 100 * np.ones(4, "f4")}, "train": {"w": np.zeros(4, "f4")}}


def partition(inner):
    return optax.partition({"train": inner, "frozen": optax.set_to_zero()}, LABELS)


def behind_a_mask(inner):
    return optax.chain(inner, optax.masked(optax.set_to_zero(), IS_FROZEN))


def accumulated(inner):
    return optax.MultiSteps(partition(inner), 4).gradient_transformation()


def scheduled(inner):
    return optax.chain(partition(inner), optax.scale_by_schedule(lambda count: 0.5))


def loss(params, batch, key):
    error = batch["x"] @ params["train"]["w"] - batch["y"]
    pull = 1e4 * jnp.sum(params["frozen"]["w"] ** 2) * jnp.mean(batch["x"]) ** 2
    pull = pull * batch.get("pull", 1.0)
    total = jnp.mean(error**2) + pull
    return total, {"raw/fit": jnp.mean(error**2)}


def gradient_of(params, batch):
    return jax.grad(lambda p: loss(p, batch, None)[0])(params)


@pytest.mark.parametrize("way", [partition, behind_a_mask, scheduled, accumulated])
def test_the_trained_leaf_is_clipped_by_its_own_norm(way):
    batches = regression(5)
    clip = [guards.clip_by_global_norm(max_norm=1.0)]
    _, _, rows = trained(loss, way(optax.adam(1e-2)), clip, START, batches)
    gradient = gradient_of(START, batches[0])
    own = np.linalg.norm(gradient["train"]["w"])
    frozen = np.linalg.norm(gradient["frozen"]["w"])
    np.testing.assert_allclose(rows[0]["grad_norm"], own, rtol=1e-5)
    np.testing.assert_allclose(rows[0]["gradient_scale"], 1 / own, rtol=1e-5)
    np.testing.assert_allclose(rows[0]["frozen_grad_norm"], frozen, rtol=1e-5)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_nan_in_a_frozen_leaf_costs_no_step(form):
    batches = [batch | {"pull": np.float32(1.0)} for batch in regression(8)]

    def broken(params, batch, key):
        frozen = {"w": params["frozen"]["w"] * batch["pull"]}
        total, aux = loss({**params, "frozen": frozen}, batch | {"pull": 0.0}, key)
        # Zero in value, and NaN in the gradient of the frozen leaf alone.
        hidden = jnp.where(batch["pull"] == 1.0, 0.0, jnp.sqrt(0.0 * frozen["w"][0]))
        return total + 0.0 * hidden, aux

    batches[3]["pull"] = np.float32(2.0)
    gradient = jax.grad(lambda p: broken(p, batches[3], None)[0])(START)
    assert np.isnan(gradient["frozen"]["w"]).any()
    assert np.isfinite(gradient["train"]["w"]).all()
    optimizer = behind_a_mask(optax.adam(1e-2))
    _, state, rows = trained(
        broken, optimizer, [guards.skip_nonfinite()], START, batches, form=form
    )
    assert refused(rows) == []
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize("way", [partition, behind_a_mask])
def test_a_guarded_optimizer_sees_the_trained_leaf_alone(way):
    clip = guards.clip_by_global_norm(max_norm=1.0)
    inside = way(stabjax.guard(optax.sgd(1.0), clip))
    around = stabjax.guard(way(optax.sgd(1.0)), clip)
    for optimizer in (inside, around):
        gradient = {
            "frozen": {"w": jnp.full(4, jnp.nan)},
            "train": {"w": jnp.ones(4)},
        }
        if optimizer is inside and way is behind_a_mask:
            continue  # the mask stands behind the guard, which cannot see it
        updates, _ = optimizer.update(gradient, optimizer.init(START), START)
        np.testing.assert_allclose(updates["train"]["w"], -0.5, rtol=1e-6)
        assert not np.any(updates["frozen"]["w"])


def test_what_is_known_better_can_be_said():
    only = {"trainable": lambda leaf: leaf.startswith("train")}
    clip = [guards.clip_by_global_norm(max_norm=1.0)]
    batches = regression(3)
    own = np.linalg.norm(gradient_of(START, batches[0])["train"]["w"])
    for trainable in (only["trainable"], {"frozen": False, "train": True}):
        _, _, rows = trained(
            loss, optax.sgd(1e-3), clip, START, batches, trainable=trainable
        )
        np.testing.assert_allclose(rows[0]["grad_norm"], own, rtol=1e-5)
    with pytest.raises(ValueError, match="trainable must be a tree of booleans"):
        trained(loss, optax.sgd(1e-3), clip, START, batches, trainable={"other": True})


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.0),
        optax.adamw(1e-3),
        optax.chain(optax.masked(optax.set_to_zero(), IS_FROZEN), optax.adam(1e-3)),
        optax.masked(optax.adam(1e-3), IS_FROZEN),
    ],
    ids=["rate of zero", "adamw", "moments behind a mask", "masked"],
)
def test_where_it_is_not_certain_a_leaf_counts(optimizer):
    optimizer = optax.with_extra_args_support(optimizer)
    assert moved(optimizer, optimizer.init(START), START, START) == (True, True)
