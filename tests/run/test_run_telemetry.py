import types

import jax.numpy as jnp
import pytest

from stabjax.health import TelemetrySchema
from stabjax.run.telemetry import Backlog, LateFetch

SCHEMA = TelemetrySchema(("loss",), ("step",), (), ())


def ring(*steps):
    return types.SimpleNamespace(
        floats=jnp.asarray([[float(step)] for step in steps], jnp.float32),
        ints=jnp.asarray([[step] for step in steps], jnp.int32),
    )


def steps_of(rows):
    return [row["step"] for row in rows]


def test_a_window_is_returned_one_window_late():
    fetch = LateFetch(SCHEMA)
    assert fetch.push(ring(0, 1, 2)) == []
    assert steps_of(fetch.push(ring(3, 4, 5))) == [0, 1, 2]
    assert steps_of(fetch.drain(ring(6, 4, 5))) == [3, 4, 5, 6]


def test_each_step_is_returned_once_however_often_one_looks():
    fetch = LateFetch(SCHEMA)
    assert steps_of(fetch.drain(ring(0, 1, -1))) == [0, 1]
    assert steps_of(fetch.drain(ring(0, 1, -1))) == []
    fetch.push(ring(0, 1, 2))
    assert steps_of(fetch.push(ring(3, 4, 5))) == [2]
    assert steps_of(fetch.drain()) == [3, 4, 5]


def test_a_resumed_fetch_leaves_out_what_is_logged():
    assert steps_of(LateFetch(SCHEMA, 4).drain(ring(3, 4, 5))) == [4, 5]


@pytest.mark.parametrize(("step_time", "depth"), [(10.0, 2), (0.25, 4), (0.001, 30)])
def test_the_backlog_is_bounded_by_time_and_by_number(step_time, depth):
    now = [0.0]

    def clock():
        now[0] += step_time
        return now[0]

    backlog = Backlog(most=30, seconds=1.0, clock=clock)
    for _ in range(400):
        backlog.add(jnp.zeros(()))
    assert backlog.depth == pytest.approx(depth, abs=1)
