"""Every registered guard is an optax transformation, or says why it cannot be."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax import transforms
from stabjax.guards import GUARDS

PARAMS = {"w": jnp.ones(3), "b": jnp.ones(())}
FACED = sorted(set(GUARDS) - set(transforms.STEP_ONLY))
LINKS = {
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_group_norm",
    "reduce_on_plateau",
    "zclip",
}
NEEDED = {
    "clip_by_global_norm": {"max_norm": 1.0},
    "clip_by_group_norm": {"max_norm": 1.0, "groups": ["w"]},
    "clip_by_block_rms": {"threshold": 1.0},
    "skip_large": {"max_norm": 1.0},
    "trivial_baseline": {"baseline": 1.0},
    "reset_moments": {"every": 5},
}


def built(name):
    make = getattr(transforms, name)
    options = NEEDED.get(name, {})
    if "inner" in inspect.signature(make).parameters:
        return make(optax.sgd(1.0, momentum=0.9), **options)
    return make(**options)


@pytest.mark.parametrize("name", sorted(GUARDS))
def test_a_guard_has_a_face_or_a_reason_why_not(name):
    faced = callable(getattr(transforms, name, None))
    assert faced != (name in transforms.STEP_ONLY)


def test_only_guards_are_listed_as_for_a_train_step_only():
    assert set(transforms.STEP_ONLY) <= set(GUARDS)
    assert all(transforms.STEP_ONLY.values())


@pytest.mark.parametrize("name", FACED)
def test_a_face_refuses_or_passes_on_what_is_not_finite_and_keeps_its_structure(name):
    face = optax.with_extra_args_support(built(name))
    state = face.init(PARAMS)
    update = jax.jit(face.update)
    bad = {"w": jnp.asarray([1.0, np.nan, np.inf]), "b": jnp.ones(())}
    for gradient in (PARAMS, bad, PARAMS):
        updates, after = update(gradient, state, PARAMS, value=jnp.float32(1.0))
        assert jax.tree.structure(after) == jax.tree.structure(state)
        if name in LINKS:
            # Whoever stands behind it is to see what it cannot refuse.
            seen = jax.tree.map(np.isfinite, updates)
            chex.assert_trees_all_equal(seen, jax.tree.map(np.isfinite, gradient))
        else:
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))
        state = after
