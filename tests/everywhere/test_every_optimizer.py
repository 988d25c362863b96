"""Every optimizer of optax and optax.contrib, guarded, takes the step it takes alone.

And a refused step changes nothing of its state, whatever that is made of.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from compilations import compilations
from helpers import bits
from optimizer_catalog import SPECIAL, catalog, clean, discover, objective, with_nan

from stabjax.guards import recommended
from stabjax.train_step import make_train_step
from stabjax.transforms import guard

# Optax deprecates the name of one of them, and the seed of another.
pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")
ENTRIES = catalog()
IN_TRAIN_STEP = [name for name, entry in ENTRIES.items() if entry.in_train_step]
# One for each kind of state and of extra arguments; the others are marked slow.
KINDS = [
    "MultiSteps",
    "inject_hyperparams",
    "masked",
    "optax.adafactor",
    "optax.contrib.muon",
    "optax.contrib.reduce_on_plateau",
    "optax.contrib.schedule_free",
    "optax.lion",
    "optax.noisy_sgd",
    "optax.polyak_sgd",
    "optax.rprop",
    "optax.sm3",
    "partition",
]
WITH_MORE_ARGUMENTS = ["optax.contrib.dpsgd", "optax.contrib.sam", "optax.lbfgs"]
BY_DEFAULT = KINDS + WITH_MORE_ARGUMENTS


def revealed(tree):
    """Return the tree with the numbers in place of random keys."""
    typed = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: jax.random.key_data(x) if typed(x) else x, tree)


def stepper(entry, optimizer):
    """Return a jitted step ``((params, state), noise) -> (params, state)``."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry, noise):
        params, state = carry
        gradients = jax.tree.map(jnp.add, jax.grad(objective)(params), noise)
        extra = entry.extra(gradients) | {"value": objective(params)}
        if entry.per_example:
            gradients = jax.tree.map(lambda g: jnp.stack([g, 2 * g]), gradients)
        updates, state = optimizer.update(gradients, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return jax.jit(step), (entry.params(), optimizer.init(entry.params()))


@functools.cache
def two_steps_of_optax(name):
    """Return parameters and state after two clean steps without us, and programs."""
    entry = ENTRIES[name]
    step, carry = stepper(entry, entry.make())
    with compilations() as compiled:
        for _ in range(2):
            carry = step(carry, clean(entry.params()))
    return carry, compiled.count("jit(step)")


def assert_close(ours, theirs):
    """Compare to the rounding of a differently fused program."""
    ours, theirs = revealed(ours), revealed(theirs)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-7)


@pytest.fixture(autouse=True)
def keys_may_be_given_back():
    """A refused step gives the key of a noisy optimizer back, unused."""
    with jax.debug_key_reuse(False):
        yield


def guard_three_steps(name):
    entry = ENTRIES[name]
    params = entry.params()
    step, carry = stepper(entry, guard(entry.make()))
    with compilations() as compiled:
        carry = step(carry, clean(params))
        before = bits(revealed((carry[0], carry[1].inner_state)))
        carry = step(carry, with_nan(params))
        assert bits(revealed((carry[0], carry[1].inner_state))) == before
        carry = step(carry, clean(params))
    theirs, programs = two_steps_of_optax(name)
    # One, or two where optax starts from a state of weak types.
    assert compiled.count("jit(step)") == programs == 1 + (name == "optax.lbfgs")
    assert (carry[1].core.applied, carry[1].core.refused) == (2, 1)
    assert_close((carry[0], carry[1].inner_state), theirs)


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_guard_takes_the_step_of(name):
    guard_three_steps(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ENTRIES) - set(BY_DEFAULT)))
def test_guard_also_takes_the_step_of(name):
    guard_three_steps(name)


def noisy_loss(params, batch, key):
    """Return the objective plus what gives its gradient the noise."""
    del key
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(batch), strict=True)
    tilt = sum(jnp.sum(p * b) for p, b in pairs)
    # The tilt belongs to the gradient alone, as in the steps without us.
    return objective(params) + tilt - jax.lax.stop_gradient(tilt), {}


def train_three_steps(name, form):
    entry = ENTRIES[name]
    params = entry.params()
    # Among the guards is one that runs the optimizer on a few elements.
    train = make_train_step(
        noisy_loss, entry.make(), guards=recommended(), form=form, window=1
    )
    state = train.init(params, clean(params))
    key = jax.random.key(0)
    with compilations() as compiled:
        state, _ = train.step(state, clean(params), key)
        before = bits(revealed((state.params, state.opt_state)))
        state, _ = train.step(state, with_nan(params), key)
        assert bits(revealed((state.params, state.opt_state))) == before
        state, _ = train.step(state, clean(params), key)
    assert compiled.count("jit(one)") == 1
    core = train.guard_states(state)
    assert (core.applied, core.refused) == (2, 1)
    assert_close((state.params, state.opt_state), two_steps_of_optax(name)[0])


FORMS = ["branch", "select"]
PAIRS = [(name, "branch") for name in KINDS]


@pytest.mark.parametrize(("name", "form"), PAIRS)
def test_a_train_step_takes_the_step_of(name, form):
    train_three_steps(name, form)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [(n, f) for n in IN_TRAIN_STEP for f in FORMS if (n, f) not in PAIRS],
)
def test_a_train_step_also_takes_the_step_of(name, form):
    train_three_steps(name, form)


@pytest.mark.parametrize(
    "name", [name for name, entry in ENTRIES.items() if not entry.in_train_step]
)
def test_what_needs_more_than_the_loss_says_so_when_the_train_state_is_made(name):
    entry = ENTRIES[name]
    train = make_train_step(noisy_loss, entry.make(), window=1)
    with pytest.raises((TypeError, ValueError), match=r"value_fn|obj_fn|batch dim"):
        train.init(entry.params(), clean(entry.params()))


def test_the_catalog_holds_every_optimizer_of_optax():
    assert len(discover(optax)) >= 30
    # Those of optax.contrib that take no rate and are no part of another optimizer.
    returns = {
        name
        for name in dir(optax.contrib)
        if inspect.isfunction(function := getattr(optax.contrib, name))
        and "GradientTransformation" in str(inspect.signature(function))
        and not name.startswith(("scale_by_", "differentially_", "hutchinson_"))
    }
    missing = {f"optax.contrib.{name}" for name in returns} - set(ENTRIES)
    assert not missing
    assert set(SPECIAL) <= set(ENTRIES)
