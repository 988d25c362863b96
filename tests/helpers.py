"""A tiny model that can be broken in any place, and the faces a guard is used by."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax.core import judge as judging
from stabjax.core.layout import layout_of
from stabjax.guards import GUARDS
from stabjax.health import decode
from stabjax.train_step import make_train_step
from stabjax.transforms import guard
from stabjax.types import GroupScale, StepStats

FACES = ("branch", "select", "optax")
# Options under which a guard has nothing to say about the tiny model.
QUIET = {
    "clip_by_global_norm": {"max_norm": 1e6},
    "clip_by_block_rms": {"threshold": 1e6},
    "clip_by_group_norm": {"max_norm": 1e6, "groups": ("core", "head/out")},
    "dead_gradient": {"metric": "loss", "patience": 10_000},
    "empty_set": {"metric": "valid"},
    "metric_range": {"metric": "loss", "low": -1e9, "high": 1e9},
    "repair_nonfinite": {"max_share": 0.0},
    "reset_moments": {"after_refusals": 99},
    "saturation": {"metric": "loss", "patience": 10_000},
    "sentinel": {"metric": "loss", "value": -1e9},
    "skip_large": {"max_norm": 1e6},
    "trivial_baseline": {"baseline": 1e9},
}
# Behind optax there is neither a loss to scale nor a metric but the loss.
TRAIN_STEP_ONLY = ("dynamic_loss_scale", "empty_set")


def guards_behind(form):
    """Return the names of the registered guards that work behind a face."""
    left_out = TRAIN_STEP_ONLY if form == "optax" else ()
    return [name for name in sorted(GUARDS) if name not in left_out]


@functools.cache
def quiet(name, **options):
    """Return the registered guard; a new one needs no entry in `QUIET`."""
    return GUARDS[name](**QUIET.get(name, {}) | options)


@jax.custom_vjp
def inject(params, noise):
    """Return ``params``; add ``noise`` to their gradient."""
    del noise
    return params


inject.defvjp(
    lambda params, noise: (params, noise),
    lambda noise, g: (jax.tree.map(jnp.add, g, noise), jax.tree.map(jnp.zeros_like, g)),
)


def params_of(dtype=jnp.float32):
    """Return six and three and one parameters, all different."""
    kernel = jnp.linspace(-1.0, 1.0, 6, dtype=jnp.float32).reshape(2, 3)
    return {
        "core": {"bias": jnp.full((3,), 0.1, dtype), "kernel": kernel.astype(dtype)},
        "head": {"out": jnp.asarray(1.5, dtype)},
    }


def model_state():
    """Return a running mean, a counter, and a leaf that is rightly infinite."""
    return {
        "mean": jnp.zeros((2,), jnp.float32),
        "seen": jnp.zeros((), jnp.int32),
        "best": jnp.full((), jnp.inf, jnp.float32),
    }


def batch_of(step=0, *, gradient=None, loss=0.0, component=0.0, state=0.0):
    """Return the batch of a step, with faults where asked."""
    zeros = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), params_of())
    x = np.asarray([np.cos(step), np.sin(1.3 * step) + 0.5], np.float32)
    faults = {"loss": loss, "component": component, "state": state}
    faults = {name: np.float32(value) for name, value in faults.items()}
    return {"x": x, "gradient": zeros if gradient is None else gradient} | faults


def gradient_with(value, leaf=1, place=0):
    """Return a gradient that is ``value`` at one place of one leaf and zero else."""
    leaves, structure = jax.tree.flatten(batch_of()["gradient"])
    flat = np.ravel(leaves[leaf]).copy()
    flat[place] = value
    leaves[leaf] = flat.reshape(leaves[leaf].shape)
    return jax.tree.unflatten(structure, leaves)


def stack(batches):
    """Return batches along a new leading axis."""
    return jax.tree.map(lambda *xs: np.stack(xs), *batches)


def stateless_loss(params, batch, key):
    """Return a smooth loss of order one, and its components."""
    del key
    noise = jax.tree.map(lambda n, p: n.astype(p.dtype), batch["gradient"], params)
    params = inject(params, noise)
    core = params["core"]
    hidden = jnp.tanh(batch["x"].astype(core["kernel"].dtype) @ core["kernel"])
    output = jnp.sum(hidden + core["bias"]) * params["head"]["out"]
    task = jnp.square(output - 1.0)
    loss = task.astype(jnp.float32) + batch["loss"]
    aux = {
        "raw/task": task,
        "weighted/task": task,
        "raw/extra": batch["component"],
        "output": output,
        "valid": jnp.float32(8.0),
    }
    return loss, aux


def stateful_loss(params, batch, key, *, model_state):
    """Return `stateless_loss` and a new model state."""
    loss, aux = stateless_loss(params, batch, key)
    mean = 0.9 * model_state["mean"] + 0.1 * batch["x"] + batch["state"]
    state = {
        "mean": mean.astype(model_state["mean"].dtype),
        "seen": model_state["seen"] + 1,
        "best": model_state["best"],
    }
    return loss, aux | {"model_state": state}


def adamw():
    """Return AdamW with a schedule, so that there is a counter to freeze."""
    return optax.adamw(optax.linear_schedule(3e-2, 1e-2, 50), weight_decay=1e-2)


class Held(NamedTuple):
    """What a refused step must not change."""

    params: Any
    inner: Any
    model_state: Any


class Face(NamedTuple):
    """One way to use guards: ``init(params)``, ``step(state, batch)``, and views."""

    init: Callable[[Any], Any]
    step: Callable[[Any, Any], Any]
    jitted: Any
    held: Callable[[Any], Held]
    core: Callable[[Any], judging.Core]


KEY = jax.random.key(0)


def train_face(guards, form, optimizer=None, **options):
    """Return the train step as a face, with a model state."""
    guards = tuple(guards)
    every = 3 if any(g.rolls_back for g in guards) else None
    options = {"window": 8, "snapshot_every": every} | options
    optimizer = optimizer or adamw()
    train = make_train_step(
        stateful_loss, optimizer, guards=guards, form=form, **options
    )
    return Face(
        init=lambda p: train.init(p, batch_of(), model_state=model_state()),
        step=lambda state, batch: train.step(state, batch, KEY)[0],
        jitted=train.step,
        held=lambda s: Held(s.params, s.opt_state, s.model_state),
        core=train.guard_states,
    )


def optax_face(guards, optimizer=None, loss_fn=stateless_loss):
    """Return `guard` around an optimizer as a face; ``guards=None`` is no guard."""
    optimizer = optax.with_extra_args_support(optimizer or adamw())
    if guards is not None:
        optimizer = guard(optimizer, *guards)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, inner = state
        (loss, _), g = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, KEY)
        updates, inner = optimizer.update(g, inner, params, value=loss)
        return optax.apply_updates(params, updates), inner

    return Face(
        init=lambda params: (copied(params), optimizer.init(params)),
        step=step,
        jitted=step,
        held=lambda s: Held(s[0], s[1] if guards is None else s[1].inner_state, None),
        core=lambda s: s[1].core,
    )


def face_with(options, name, form):
    """Return a registered guard by itself behind a face."""
    given = [quiet(name, **options)]
    return optax_face(given) if form == "optax" else train_face(given, form)


@functools.cache
def face_of(name, form):
    """Return the same without options, compiled once."""
    return face_with({}, name, form)


@functools.cache
def face_without_guards():
    """Return the plain optax step."""
    return optax_face(None)


def run(face, batches, state=None):
    """Return the state after the batches."""
    state = face.init(params_of()) if state is None else state
    for batch in batches:
        state = face.step(state, batch)
    return state


def copied(tree):
    """Return the tree in buffers of its own."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def bits(tree):
    """Return the leaves as raw bytes with dtype and shape."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [(str(leaf.dtype), leaf.shape, leaf.tobytes()) for leaf in leaves]


def all_finite(tree):
    """Return whether every floating-point element is finite."""
    return all(np.all(np.isfinite(np.asarray(x))) for x in jax.tree.leaves(tree))


def stats_of(core=None, **given):
    """Return `StepStats` of a healthy step with the given scalars."""
    core = judging.init_core(()) if core is None else core
    loss = jnp.asarray(given.get("loss", 1.0), jnp.float32)
    norm = jnp.asarray(given.get("grad_norm", 1.0), jnp.float32)
    # As if the leaves of the tiny model had equal shares of the norm.
    leaf_norms = given.get("leaf_norms", jnp.stack([norm / np.sqrt(3)] * 3))
    fine = jnp.isfinite(loss) & jnp.isfinite(norm)
    minus = jnp.asarray(-1, jnp.int32)
    return StepStats(
        loss=loss,
        components=given.get("components", {}),
        grad_norm=norm,
        leaf_norms=jnp.asarray(leaf_norms, jnp.float32),
        norm_in_unit=norm,
        norm_unit=jnp.ones((), jnp.float32),
        finite=fine,
        loss_finite=jnp.isfinite(loss),
        components_finite=jnp.ones((), jnp.bool_),
        gradient_finite=jnp.isfinite(norm),
        model_state_finite=jnp.ones((), jnp.bool_),
        overflow=jnp.zeros((), jnp.bool_),
        moments_finite=jnp.ones((), jnp.bool_),
        damaged_before=jnp.zeros((), jnp.bool_),
        first_bad_leaf=jnp.where(jnp.isfinite(norm), minus, 0),
        first_bad_component=minus,
        update_measured=jnp.ones((), jnp.bool_),
        update_norm=jnp.asarray(given.get("update_norm", 1e-3), jnp.float32),
        update_ratio=jnp.asarray(given.get("update_ratio", 1e-3), jnp.float32),
        step=core.step,
        applied=core.applied,
        consecutive_refused=core.consecutive_refused,
        nonfinite_elements=jnp.zeros((), jnp.int32),
        repaired=jnp.asarray(given.get("repaired", 0), jnp.int32),
        metrics={"valid": jnp.float32(8.0)} | given.get("metrics", {}),
        layout=given.get("layout", layout_of(params_of())),
    )


class Trace(NamedTuple):
    """What a guard said at each step of a series."""

    accepted: np.ndarray
    update_scale: np.ndarray
    gradient_scale: np.ndarray
    alerts: np.ndarray
    roll_back: np.ndarray
    halt: np.ndarray
    state: Any


USUAL = {"loss": 1.0, "grad_norm": 1.0, "update_norm": 1e-3, "update_ratio": 1e-3}


@functools.cache
def _judging(given):
    def step(core, reading):
        stats = stats_of(core, **reading)
        judged = judging.judge(given, core, stats, squarable=False)
        said = judged.decision
        core = judging.advance(core, given, judged, stats, said.accept)
        scale = said.gradient_scale
        scale = scale.smallest() if isinstance(scale, GroupScale) else scale
        scales = (said.accept, said.update_scale, scale)
        return core, (*scales, said.alerts, said.roll_back, said.halt, core.guards[0])

    def whole(series):
        return jax.lax.scan(step, judging.init_core(given), series)[1]

    return jax.jit(whole), jax.jit(jax.vmap(whole))


def judge_series(given, **series):
    """Return what a guard says about series of scalars; rows are separate runs.

    Of several guards together the state is that of the first. The series are
    ``loss``, ``grad_norm``, ``update_norm`` and others that `stats_of` takes, each one
    value per step, and ``metrics``, a series per name; ``update_norm`` is that of the
    update before the step.
    """
    as_floats = lambda values: np.asarray(values, np.float32)
    series = jax.tree.map(as_floats, series, is_leaf=_is_series)
    *rows, steps = jax.tree.leaves(series)[0].shape
    # One program serves all: nothing is left to default, and short series go on after
    # their end, which changes nothing of what was said before.
    unsaid = {name: np.full((*rows, steps), x, "f4") for name, x in USUAL.items()}
    widths = [(0, 0)] * len(rows) + [(0, -steps % 512)]
    padded = jax.tree.map(lambda x: np.pad(x, widths, "edge"), unsaid | series)
    said = _judging(given if isinstance(given, tuple) else (given,))[len(rows)](padded)
    until = (slice(None),) * len(rows) + (slice(steps),)
    return Trace(*jax.tree.map(lambda x: np.asarray(x)[until], said))


def _is_series(value):
    return not isinstance(value, dict)


def rows_of(state):
    """Return the decoded telemetry of a train state."""
    ring = state.telemetry
    return decode(ring.schema, np.asarray(ring.floats), np.asarray(ring.ints))
