"""A function evaluated once for all leaves that meet the same fate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax.core.distinct import distinct_results
from stabjax.core.haste import hasty_options
from stabjax.core.headroom import survives_probe

ONE = np.ones(4, np.float32)


def test_equal_leaves_are_evaluated_once():
    def doubled(tree):
        return [jnp.where(leaf > 0, 2 * leaf, leaf) for leaf in tree]

    (found,) = distinct_results(doubled, [ONE] * 50)
    np.testing.assert_array_equal(found, 2 * ONE)


def test_what_differs_in_one_leaf_is_kept_apart():
    def mostly_doubled(tree):
        return [leaf * (3 if index == 7 else 2) for index, leaf in enumerate(tree)]

    found = distinct_results(mostly_doubled, [ONE] * 50)
    assert sorted(float(leaf[0]) for leaf in found) == [2.0, 3.0]


def test_zero_and_minus_zero_are_not_taken_for_equal():
    def signed(x):
        return [1.0 / (x * 0.0), 1.0 / (x * -0.0)]

    found = distinct_results(signed, ONE)
    assert sorted(float(leaf[0]) for leaf in found) == [-np.inf, np.inf]


@pytest.mark.parametrize("traced", [False, True])
def test_one_bad_leaf_of_many_fails_the_probe(traced):
    def update(updates, params):
        del params
        return {
            name: jnp.log(leaf) if name == "leaf33" else leaf
            for name, leaf in updates.items()
        }

    params = {f"leaf{i}": jnp.ones(3) for i in range(40)}
    seen = []

    def look(params):
        for optimizer in (optax.adamw(1e-3), optax.stateless(update)):
            full = optax.with_extra_args_support(optimizer)
            seen.append(survives_probe(full, params))
        return params

    (jax.jit(look) if traced else look)(params)
    assert seen == [True, False]


def test_options_of_the_compiler_for_cpu_go_to_no_other(monkeypatch):
    """A TPU's does not know them; the probe of an optimizer would fail there."""
    assert hasty_options()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert hasty_options() is None
    one = jnp.ones(4)
    assert len(distinct_results(lambda tree: [2 * leaf for leaf in tree], [one])) == 1
