"""Events: padding, splitting, and batches that are a function of their position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.models.gan.events import (
    Events,
    Schema,
    batch_at,
    check_events,
    counts,
    inside,
    nonempty,
    pack,
    split,
    take,
)
from stabjax.models.gan.muon_bundles import MUON_BUNDLES


def numbered(rows: int) -> Events:
    """Make events that carry their own number."""
    particles = np.zeros((rows, 2, 3), np.float32)
    particles[:, 0] = 1.0
    mask = np.zeros((rows, 2), bool)
    mask[:, 0] = True
    condition = np.tile(np.arange(rows, dtype=np.float32)[:, None], (1, 4))
    return Events(particles, mask, condition)


def numbers(events: Events) -> list[int]:
    return events.condition[:, 0].astype(int).tolist()


def test_a_batch_is_a_function_of_seed_and_position_alone():
    events = numbered(50)
    first = batch_at(events, 8, seed=3, position=11)
    batch_at(events, 8, seed=4, position=2)
    assert numbers(first) == numbers(batch_at(events, 8, seed=3, position=11))
    assert numbers(first) != numbers(batch_at(events, 8, seed=4, position=11))
    assert numbers(first) != numbers(batch_at(events, 8, seed=3, position=12))


@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 60),
    seed=st.integers(0, 5),
)
def test_every_epoch_passes_each_event_once(rows, size, seed):
    events = numbered(rows)
    batches = -(-3 * rows // size)
    seen = [
        number
        for position in range(batches)
        for number in numbers(batch_at(events, size, seed=seed, position=position))
    ]
    for epoch in range(3):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_epochs_have_orders_of_their_own():
    events = numbered(30)
    first, second = (
        numbers(batch_at(events, 30, seed=0, position=position)) for position in (0, 1)
    )
    assert first != second
    assert sorted(first) == sorted(second)


def test_the_parts_of_a_split_share_no_event_and_depend_on_the_seed():
    events = numbered(20)
    parts = split(events, (7, 6, 5), seed=1)
    found = [number for part in parts for number in numbers(part)]
    assert [len(part.mask) for part in parts] == [7, 6, 5]
    assert len(set(found)) == 18
    assert numbers(parts[0]) != numbers(split(events, (7, 6, 5), seed=2)[0])


@pytest.mark.parametrize("sizes", [(21,), (0, 5), (), (10, 11)])
def test_a_split_that_cannot_be_made_is_refused(sizes):
    with pytest.raises(ValueError, match="split: sizes"):
        split(numbered(20), sizes, seed=0)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_at: size"):
        batch_at(numbered(3), 0, seed=0, position=0)


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    capacity=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_packing_keeps_the_highest_particles_of_each_event(sizes, capacity, seed):
    rng = np.random.default_rng(seed)
    of = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    flat = rng.normal(size=(len(of), 2))
    packed = pack(flat, of, flat[:, 0], np.zeros((len(sizes), 1)), capacity=capacity)
    for event, size in enumerate(sizes):
        own = flat[of == event]
        own = own[np.argsort(-own[:, 0])][:capacity].astype(np.float32)
        assert counts(packed)[event] == min(size, capacity)
        np.testing.assert_array_equal(packed.particles[event, : len(own)], own)
        assert not packed.particles[event, len(own) :].any()


def test_inside_and_nonempty_leave_out_what_is_not_there():
    events = numbered(4)
    events.mask[1] = False
    assert inside(events).shape == (3, 3)
    assert numbers(nonempty(events)) == [0, 2, 3]
    assert numbers(take(events, slice(2))) == [0, 1]


def broken(fault: str) -> Events:
    events = numbered(3)
    if fault == "finite particle":
        events.particles[1, 0, 2] = np.nan
    if fault == "finite condition":
        events.condition[1, 0] = np.inf
    if fault == "zero padding":
        events.particles[1, 1, 0] = 1.0
    if fault == "first slots":
        events.mask[1] = [False, True]
        events.particles[1] = 0.0
    if fault == "dtype":
        return events._replace(particles=events.particles.astype(np.float64))
    if fault == "shape":
        return events._replace(condition=events.condition[:, :3])
    return events


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("finite particle", "every particle must be finite, but event 1"),
        ("finite condition", "every condition must be finite, but event 1"),
        ("zero padding", "outside the mask must be zero, but event 1"),
        ("first slots", "must fill the first slots, but event 1"),
        ("dtype", "particles must be float32"),
        ("shape", "condition must be float32 of shape"),
    ],
)
def test_events_that_break_the_form_are_refused(fault, message):
    check_events(broken("none"), MUON_BUNDLES)
    with pytest.raises(ValueError, match=message):
        check_events(broken(fault), MUON_BUNDLES)


def schema(**changes) -> Schema:
    settings = {
        "name": "test", "title": "a test",
        "features": ("e", "x", "y"), "feature_units": ("GeV", "m", "m"),
        "conditions": ("c",), "condition_units": ("",),
        "energy": "e", "energy_is_log10": False,
        "plane": ("x", "y"), "radius": "radius",
    }  # fmt: skip
    return Schema(**(settings | changes))


def test_a_schema_refuses_roles_and_units_that_do_not_fit():
    with pytest.raises(ValueError, match="must be among the features"):
        schema(energy="z")
    with pytest.raises(ValueError, match="one unit each"):
        schema(feature_units=("GeV", "m"))


def test_a_schema_reads_energies_and_radii():
    particles = np.array([[2.0, 3.0, 4.0], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(schema().energies(particles), [2.0, 0.0])
    np.testing.assert_allclose(
        schema(energy_is_log10=True).energies(particles), [100.0, 1.0]
    )
    np.testing.assert_allclose(schema().radii(particles), [5.0, 0.0])
    assert schema().log10_radii(particles)[1] == -30.0
