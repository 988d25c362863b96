"""A step never talks to the host."""

import contextlib
import re

import jax
import jax.numpy as jnp
import pytest
from helpers import KEY, adamw, batch_of, model_state, params_of, quiet, stateful_loss
from jax._src.array import ArrayImpl

from stabjax.guards import GUARDS
from stabjax.train_step import make_train_step

READS = ("_value", "item", "__array__", "__float__", "__int__", "__bool__")
READS += ("tolist", "block_until_ready", "__index__")
TALKS = re.compile(
    r"callback|infeed|outfeed|\bsend\(|\brecv\(|host_compute|debug_print"
)


@contextlib.contextmanager
def counted_reads():
    """Count what brings a value from the device to the host, or waits for it."""
    seen, kept = (
        [],
        {n: ArrayImpl.__dict__[n] for n in READS if n in ArrayImpl.__dict__},
    )

    def spy(name, original):
        if isinstance(original, property):
            return property(lambda self: (seen.append(name), original.fget(self))[1])
        return lambda self, *a, **k: (seen.append(name), original(self, *a, **k))[1]

    try:
        for name, original in kept.items():
            setattr(ArrayImpl, name, spy(name, original))
        yield seen
    finally:
        for name, original in kept.items():
            setattr(ArrayImpl, name, original)


@pytest.fixture(scope="module", params=["branch", "select"])
def train(request):
    guards = [quiet(name) for name in sorted(GUARDS)]
    options = {"guards": guards, "snapshot_every": 3, "window": 32}
    return make_train_step(stateful_loss, adamw(), form=request.param, **options)


def start(train):
    return train.init(params_of(), batch_of(), model_state=model_state())


# Only `np.asarray` on CPU escapes it, by the buffer protocol.
@pytest.mark.parametrize("use", [float, bool, jax.device_get, lambda x: x.item()])
def test_the_counter_counts(use):
    value = jnp.float32(1.0) + 1.0
    with counted_reads() as seen:
        use(value)
    assert seen
    with counted_reads() as seen:
        jax.block_until_ready(jnp.float32(2.0) + 1.0)
    assert seen


def test_nothing_is_read_or_awaited_in_a_window_of_steps(train):
    batches = [
        jax.device_put(batch_of(i, loss=float("nan") * (i % 5 == 4))) for i in range(32)
    ]
    state, _ = train.step(start(train), batches[0], KEY)
    with counted_reads() as seen:
        for batch in batches:
            state, _ = train.step(state, batch, KEY)
    assert seen == []
    assert int(train.guard_states(state).step) == 33


def test_the_compiled_step_holds_no_call_to_the_host(train):
    many = jax.tree.map(lambda x: jnp.stack([x] * 3), batch_of())
    for function, batch in ((train.step, batch_of()), (train.many_steps, many)):
        lowered = function.lower(start(train), batch, KEY)
        assert not TALKS.search(lowered.as_text())
        assert not TALKS.search(lowered.compile().as_text())


def test_such_a_call_would_be_found():
    def talks(x):
        jax.debug.callback(lambda _: None, x)
        return x

    assert TALKS.search(jax.jit(talks).lower(jnp.ones(2)).as_text())
