"""Parameters of every floating dtype: dtypes stay, statistics are float32."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from helpers import KEY, bits

from stabjax.guards import clip_by_global_norm
from stabjax.train_step import make_train_step
from stabjax.transforms import guard

pytestmark = pytest.mark.slow

DTYPES = {
    "float16": ("float16", "float16"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "float32": ("float32", "float32"),
    "float64": ("float64", "float64"),
    "mixed": ("bfloat16", "float32"),
}
GUARDS = [clip_by_global_norm(max_norm=100.0)]
FACES = ["branch", "select", "optax"]


def wide(name):
    """Switch float64 on where it is asked for."""
    return jax.enable_x64(True) if name == "float64" else contextlib.nullcontext()


def params(name):
    first, second = DTYPES[name]
    matrix = jnp.asarray(np.linspace(-1, 1, 6).reshape(2, 3), first)
    return {"bias": jnp.asarray(np.full(3, 0.5), second), "kernel": matrix}


def loss_fn(p, batch, key):
    del key
    squares = [jnp.sum(jnp.square(x - 0.25)).astype(jnp.float32) for x in p.values()]
    return jnp.sum(jnp.stack(squares)) * batch, {"raw/size": squares[0]}


def optimizer():
    return optax.sgd(0.1, momentum=0.9)


@functools.cache
def face_of(form):
    """Return init, step, what is held, and the counters."""
    if form != "optax":
        train = make_train_step(loss_fn, optimizer(), guards=GUARDS, form=form)
        init = lambda p: train.init(p, np.float32(1))
        step = lambda s, b: train.step(s, b, KEY)[0]
        return init, step, lambda s: (s.params, s.opt_state), train.guard_states
    guarded = guard(optimizer(), *GUARDS)

    @jax.jit
    def step(state, batch):
        p, inner = state
        (loss, _), g = jax.value_and_grad(loss_fn, has_aux=True)(p, batch, KEY)
        updates, inner = guarded.update(g, inner, p, value=loss)
        return optax.apply_updates(p, updates), inner

    held = lambda s: (s[0], s[1].inner_state)
    return lambda p: (p, guarded.init(p)), step, held, lambda s: s[1].core


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("form", FACES)
@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_stay_and_statistics_are_float32(name, form):
    init, step, held, core = face_of(form)
    with wide(name):
        state = init(params(name))
        before = dtypes(state)
        with compilations() as compiled:
            state = step(state, np.float32(1))
            first = bits(held(state))
            state = step(state, np.float32(np.nan))
            assert bits(held(state)) == first
            state = step(state, np.float32(1))
    assert sum("one" in each or "step" in each for each in compiled) == 1
    assert dtypes(state) == before
    ours = [held(state)[0][leaf].dtype for leaf in ("kernel", "bias")]
    assert ours == [np.dtype(each) for each in DTYPES[name]]
    assert (core(state).applied, core(state).refused) == (2, 1)
    allowed = {np.dtype(each) for each in ("float32", "int32", "bool")}
    assert set(dtypes(core(state))) <= allowed


@pytest.mark.parametrize("name", DTYPES)
def test_a_step_is_that_of_optax_in_the_same_dtype(name):
    with wide(name):
        gradient = jax.tree.map(lambda x: x * 3, params(name))
        guarded, plain = guard(optimizer()), optimizer()
        ours, _ = guarded.update(gradient, guarded.init(gradient), gradient)
        theirs, _ = plain.update(gradient, plain.init(gradient), gradient)
    assert bits(ours) == bits(theirs)


@pytest.mark.parametrize("form", FACES)
def test_a_float16_second_moment_that_would_overflow_refuses_the_step(form):
    # 300 is a fine float16, its square is not.
    adam = optax.adam(1e-2, eps=1e-3)
    weights = {"w": jnp.ones((3,), jnp.float16)}
    if form == "optax":
        guarded = guard(adam)
        gradient = {"w": jnp.full((3,), 300.0, jnp.float16)}
        updates, state = guarded.update(gradient, guarded.init(weights), weights)
        assert not np.any(updates["w"])
        assert np.isfinite(state.inner_state[0].nu["w"]).all()
        return
    loss = lambda p, b, k: (jnp.sum(p["w"]).astype(jnp.float32) * b, {})
    train = make_train_step(loss, adam, form=form)
    state = train.init(weights, np.float32(300))
    state, _ = train.step(state, np.float32(300), KEY)
    assert train.guard_states(state).refused == 1
    np.testing.assert_array_equal(state.params["w"], 1.0)
    state, _ = train.step(state, np.float32(1), KEY)
    assert train.guard_states(state).applied == 1
    assert np.isfinite(state.opt_state[0].nu["w"]).all()
