"""Windows: how a table is cut, split in time, scaled, and shown in batches."""

import os

import numpy as np
import pytest

from stabjax.models.causal.config import Config
from stabjax.models.causal.dataset import (
    load_dataset,
    steps_per_epoch,
    training_batch,
)

needs_data = pytest.mark.skipif(
    "STABJAX_DATA" not in os.environ, reason="STABJAX_DATA is not set"
)


def sensors(*, standardization="sound", batch=8, **data):
    small = {"nodes": 4, "rows": 100, "window": 5, "missing_share": 0.2}
    return Config(data=small | data, standardization=standardization, batch=batch)


def train_windows(dataset):
    return dataset.windows(dataset.starts["train"])


@needs_data
def test_air_quality_has_the_windows_and_ranges_of_the_seed():
    """9448 windows, 6613 to train and 1417 to validate; [0, 2775], [-4.128, 10.820]."""

    def loaded(standardization):
        data = {"source": "air_quality", "split": "seed"}
        config = Config(data=data, standardization=standardization)
        return load_dataset(config, seed=0), config

    raw, config = loaded("before")
    sizes = {name: len(part) for name, part in raw.starts.items()}
    assert sizes == {"train": 6613, "validation": 1417, "test": 1418}
    assert steps_per_epoch(raw, config) == 827
    values, _ = train_windows(raw)
    assert (values.min(), values.max()) == (0.0, 2775.0)
    values, _ = train_windows(loaded("seed")[0])
    assert round(float(values.min()), 3) == -4.128
    assert round(float(values.max()), 3) == 10.820
    # Both ends of that range are missing values that were filled with zero.
    values, _ = train_windows(loaded("sound")[0])
    assert values.min() > -3.0
    assert values.max() < 7.1


@pytest.mark.parametrize("standardization", ["seed", "sound", "global"])
def test_scales_come_from_the_training_windows_as_they_are_seen(standardization):
    dataset = load_dataset(sensors(standardization=standardization), seed=1)
    rows = dataset.starts["train"][:, None] + np.arange(5)
    seen = dataset.raw[rows]
    if standardization == "seed":
        seen = np.nan_to_num(seen, nan=0.0)
    center, deviation = np.nanmean(seen, axis=(0, 1)), np.nanstd(seen, axis=(0, 1))
    if standardization == "global":
        deviation = np.full(4, np.sqrt(np.mean(deviation**2)))
    np.testing.assert_allclose(dataset.center, center, rtol=1e-9)
    np.testing.assert_allclose(dataset.scale, deviation, rtol=1e-6)


def test_the_seed_fills_before_it_scales_and_the_sound_setting_after():
    raw = load_dataset(sensors(standardization="before"), seed=1)
    assert np.all(raw.values[~raw.observed] == 0.0)
    seed = load_dataset(sensors(standardization="seed"), seed=1)
    expected = -seed.center / seed.scale
    for column in range(4):
        filled = seed.values[~seed.observed[:, column], column]
        np.testing.assert_allclose(filled, expected[column], rtol=1e-6)
    assert np.all(np.abs(expected) > 0.1)
    sound = load_dataset(sensors(standardization="sound"), seed=1)
    assert np.all(sound.values[~sound.observed] == 0.0)


@pytest.mark.parametrize("stride", [1, 3])
def test_the_sound_split_shares_no_row_and_that_of_the_seed_does(stride):
    for split, shared in (("sound", False), ("seed", True)):
        dataset = load_dataset(sensors(split=split, stride=stride), seed=0)
        rows = [set(dataset.rows(p)) for p in ("train", "validation", "test")]
        assert bool(rows[0] & rows[1]) == shared
        assert bool(rows[1] & rows[2]) == shared


def test_a_window_is_a_run_of_rows():
    dataset = load_dataset(sensors(stride=2), seed=0)
    values, observed = dataset.windows(np.array([4, 6]))
    np.testing.assert_array_equal(values[0], dataset.values[4:9])
    np.testing.assert_array_equal(observed[1], dataset.observed[6:11])


def test_a_batch_is_a_pure_function_of_seed_and_position():
    config = sensors()
    dataset = load_dataset(config, seed=0)
    one, same = (training_batch(dataset, config, seed=1, position=9) for _ in range(2))
    other = training_batch(dataset, config, seed=2, position=9)
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
    assert not np.array_equal(one["values"], other["values"])


def test_an_epoch_shows_every_training_window_and_orders_differ():
    config = sensors()
    dataset = load_dataset(config, seed=0)
    epoch = steps_per_epoch(dataset, config)
    windows = train_windows(dataset)[0].reshape(len(dataset.starts["train"]), -1)
    assert len(windows) % 8  # so that the last batch has to be filled up
    orders = []
    for first in (0, epoch):
        shown = np.concatenate(
            [
                training_batch(dataset, config, seed=0, position=first + n)["values"]
                for n in range(epoch)
            ]
        ).reshape(epoch * 8, -1)
        assert {row.tobytes() for row in shown} == {row.tobytes() for row in windows}
        orders.append(shown)
    assert not np.array_equal(*orders)


def test_a_column_that_never_changes_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    rows = [f"{n},{n * n % 7},3" for n in range(60)]
    path.write_text("\n".join(["a,b,c", *rows]))
    config = Config(data={"source": "csv", "path": str(path), "window": 4})
    with pytest.raises(ValueError, match="column 'c' must hold different values"):
        load_dataset(config, seed=0)


def test_a_table_shorter_than_its_windows_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n2,1\n3,5\n")
    config = Config(data={"source": "csv", "path": str(path), "window": 24})
    with pytest.raises(ValueError, match="got 3 rows and none for train"):
        load_dataset(config, seed=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "csv"}, "path must name a file"),
        ({"decimal": ","}, "decimal must differ from separator"),
        ({"rows": 60, "window": 24}, "rows must be >= 96"),
        ({"nodse": 3}, "nodse"),
    ],
)
def test_a_section_that_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Config(data=changes)
