"""Guards inside scan, vmap and cond, and around optimizers with wishes of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    FACES,
    KEY,
    adamw,
    batch_of,
    bits,
    gradient_with,
    guards_behind,
    judge_series,
    model_state,
    optax_face,
    params_of,
    quiet,
    run,
    stack,
    stateful_loss,
    train_face,
)

from stabjax.guards import GUARDS
from stabjax.train_step import make_train_step
from stabjax.transforms import guard

BATCHES = [
    batch_of(0),
    batch_of(1, gradient=gradient_with(np.nan)),
    batch_of(2),
    batch_of(3, loss=np.inf),
]
BATCHED = stack(BATCHES)
SLOW = pytest.mark.slow


@functools.cache
def face_of_all(form):
    """Return every registered guard at once behind a face."""
    guards = [quiet(name) for name in guards_behind(form)]
    return optax_face(guards) if form == "optax" else train_face(guards, form)


@pytest.mark.slow
@pytest.mark.parametrize("form", FACES)
def test_a_step_with_all_guards_works_in_scan_of_vmap_of_cond(form):
    face = face_of_all(form)

    def lane(state, batch, on):
        return jax.lax.cond(on, face.step, lambda s, _: s, state, batch)

    def step(state, batch):
        on = jnp.asarray([True, True, False])
        return jax.vmap(lane, in_axes=(0, None, 0))(state, batch, on), None

    start = face.init(params_of())
    lanes = jax.tree.map(lambda x: jnp.stack([x] * 3), start)
    with jax.debug_key_reuse(False):  # It takes a mapped cond for a second use.
        lanes = jax.jit(lambda s, b: jax.lax.scan(step, s, b)[0])(lanes, BATCHED)
    first, second, off = (jax.tree.map(lambda x, i=i: x[i], lanes) for i in range(3))
    assert bits(first) == bits(second)
    assert bits(off) == bits(start)
    alone = jax.tree.leaves(face.held(run(face, BATCHES)).params)
    for ours, one in zip(jax.tree.leaves(face.held(first).params), alone, strict=True):
        np.testing.assert_allclose(ours, one, rtol=2e-6)


@pytest.mark.parametrize("name", sorted(GUARDS))
def test_a_judge_says_the_same_in_vmap_as_alone(name):
    series = np.random.default_rng(0).lognormal(size=(3, 30))
    series[1, 5] = np.nan
    together = judge_series(quiet(name), loss=series, grad_norm=series)
    for row in range(3):
        alone = judge_series(quiet(name), loss=series[row], grad_norm=series[row])
        assert (together.accepted[row] == alone.accepted).all()
        np.testing.assert_allclose(
            together.update_scale[row], alone.update_scale, rtol=1e-5
        )


# One of each kind: that scales, remembers, rolls back, resets and repairs.
SOME = ["clip_by_global_norm", "escalate", "repair_nonfinite", "reset_moments"]
SOME += ["reduce_on_plateau", "skip_spikes"]


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("form", "names"),
    [
        pytest.param("branch", SOME, id="branch-some"),
        pytest.param("branch", sorted(GUARDS), marks=SLOW, id="branch-all"),
        pytest.param("select", sorted(GUARDS), marks=SLOW, id="select-all"),
    ],
)
def test_many_steps_is_the_repeated_step_bit_for_bit(form, names):
    guards = [quiet(name) for name in names]
    options = {"guards": guards, "form": form, "window": 3, "snapshot_every": 2}
    train = make_train_step(stateful_loss, adamw(), **options)
    start = lambda: train.init(params_of(), batch_of(), model_state=model_state())
    together, rows = train.many_steps(start(), BATCHED, KEY)
    state = start()
    for index, batch in enumerate(BATCHES):
        state, row = train.step(state, batch, KEY)
        assert bits(jax.tree.map(lambda x, i=index: x[i], rows)) == bits(row)
    assert bits(together) == bits(state)


@pytest.mark.parametrize("form", FACES)
def test_extra_arguments_reach_the_inner_optimizer(form):
    plateau = optax.contrib.reduce_on_plateau(patience=1, rtol=0.0, atol=1e-3)
    inner = optax.chain(optax.sgd(0.0), plateau)
    guards = [quiet("clip_by_global_norm")]
    optimizer = optax_face(guards, inner) if form == "optax" else None
    face = optimizer or train_face(guards, form, inner)
    state = run(face, [batch_of(0)] * 5)
    assert face.held(state).inner[1].scale < 1.0


def test_guard_forwards_any_other_extra_argument_by_name():
    def update(updates, state, params=None, *, twist, **extra):
        del params, extra
        return jax.tree.map(lambda u: u * twist, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
    optimizer = guard(inner)
    gradient = {"w": jnp.ones(2)}
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), twist=3.0)
    np.testing.assert_array_equal(updates["w"], [3.0, 3.0])


@pytest.mark.parametrize(
    "form", ["branch", pytest.param("select", marks=SLOW), "optax"]
)
def test_all_guards_together_hold_the_contract(form):
    face = face_of_all(form)
    state = run(face, [batch_of(0)])
    before = bits(face.held(state))
    state = face.step(state, BATCHES[1])
    assert bits(face.held(state)) == before
    state = face.step(state, batch_of(2))
    assert face.core(state).applied == 2
    assert bits(face.held(state)) != before


@pytest.mark.parametrize("form", FACES)
def test_hyperparameters_injected_into_bfloat16_leaves_work(form):
    injected = optax.inject_hyperparams(optax.adamw, hyperparam_dtype=jnp.float32)
    inner = injected(learning_rate=1e-2)
    guards = [quiet("skip_nonfinite")]
    face = optax_face(guards, inner) if form == "optax" else None
    face = face or train_face(guards, form, inner)
    state = face.init(params_of(jnp.bfloat16))
    for batch in (batch_of(0), BATCHES[1], batch_of(2)):
        state = face.step(state, batch)
    dtypes = {x.dtype for x in jax.tree.leaves(face.held(state).params)}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    assert face.core(state).applied == 2


def test_an_optimizer_state_moves_into_a_guard_and_out_again():
    params, gradient = params_of(), jax.tree.map(jnp.asarray, gradient_with(0.5))
    plain, guarded = adamw(), guard(adamw(), quiet("skip_nonfinite"))
    _, state = plain.update(gradient, plain.init(params), params)
    moved = guarded.init(params)._replace(inner_state=state)
    ours, moved = guarded.update(gradient, moved, params)
    theirs, state = plain.update(gradient, state, params)
    assert bits(ours) == bits(theirs)
    assert bits(moved.inner_state) == bits(state)
