import json
import math

import numpy as np
import pytest

from stabjax.config import ConfigError
from stabjax.models.task import Summary
from stabjax.run.compare import compare
from stabjax.run.page_records import read_run


@pytest.fixture(scope="module")
def result(config, tmp_path_factory):
    """One comparison of everything: it costs a compile per arm."""
    folder = tmp_path_factory.mktemp("compare") / "tiny"
    return compare(config(), folder, ablate=True, progress=False)


def test_a_comparison_tells_each_arm_as_it_was(result):
    folder = result.folder
    data = json.loads(
        (folder / "comparison.json").read_text(), parse_constant=pytest.fail
    )
    names = ["before", "halts soon", "sound", "guards"]
    assert [arm["name"] for arm in data["arms"]] == names
    assert [arm["ablation"] for arm in data["arms"]] == [False, False, False, True]
    assert result.outcomes["before"].startswith(
        "0 of 2 seeds finished; seed 0 diverged"
    )
    assert "seed 0 halted at step 7" in result.outcomes["halts soon"]
    assert result.outcomes["sound"] == "finished"

    bad = {name: cells[1].values for name, cells in result.cells.items()}
    assert bad == {
        "before": (6, 6),
        "halts soon": (3, 3),
        "sound": (0, 0),
        "guards": (6, 6),
    }
    lowest = [
        read_run(folder / f"sound/seed{k}").column("loss").values.min() for k in (0, 1)
    ]
    np.testing.assert_array_equal(result.cells["sound"][0].values, lowest)
    assert len(set(result.cells["sound"][2].values)) == 2  # seeds differ, and are kept

    text = str(result)
    for said in (
        "lowest loss",
        "halts soon",
        "before: the loss was not finite on 12 of 24",
    ):
        assert said in text
    page = result.page.read_text()
    for said in (
        "One fix at a time, on top of before",
        "halted at step 7",
        "size of w",
    ):
        assert said in page


def test_arms_of_one_seed_see_the_same_data_and_the_same_start(result):
    first = {
        name: read_run(result.folder / name / "seed1").column("loss").values[0]
        for name in ("before", "halts-soon", "sound", "ablate-guards")
    }
    assert len(set(first.values())) == 1


def test_a_seed_trains_as_it_would_alone(config, result, tmp_path):
    from stabjax.config import override
    from stabjax.run.loop import train

    train(override(config(), ["train.seed=1"]), tmp_path / "alone", progress=False)
    alone = (tmp_path / "alone" / "health.jsonl").read_bytes()
    assert (result.folder / "sound" / "seed1" / "health.jsonl").read_bytes() == alone


def test_comparing_again_goes_on_and_the_model_may_add_to_the_reading(
    tiny, config, result, monkeypatch
):
    before = (result.folder / "sound" / "seed0" / "health.jsonl").stat().st_mtime_ns
    own = lambda arms: [f"sound: {arms['sound']['bad losses']['median']} bad."]
    monkeypatch.setattr(tiny, "reading", own, raising=False)
    again = compare(config(), result.folder, ablate=True, progress=False)
    np.testing.assert_equal(again.cells, result.cells)
    assert again.reading == [*result.reading, "sound: 0.0 bad."]
    after = (result.folder / "sound" / "seed0" / "health.jsonl").stat().st_mtime_ns
    assert after == before


def test_what_has_no_figure_is_a_nan_to_the_reading_of_a_model(
    tiny, config, result, monkeypatch
):
    seen = []
    column = Summary("never measured", "no such column", "max")
    monkeypatch.setattr(tiny, "SUMMARY", (*tiny.SUMMARY, column))
    read = lambda arms: seen.append(arms) or []
    monkeypatch.setattr(tiny, "reading", read, raising=False)
    compare(config(), result.folder, ablate=True, progress=False)
    assert list(seen[0]) == ["before", "halts soon", "sound"], "no single fixes"
    cell = seen[0]["sound"]["never measured"]
    assert cell.keys() == {"median", "min", "max"}
    assert all(math.isnan(value) for value in cell.values())


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["compare=null"], {}, "compare.arms must name at least one arm"),
        (["compare.arms.before=[model.bad_form=1]"], {}, "arm 'before'.*bad_from"),
        ([], {"seeds": ()}, "seeds must be different and at least one"),
        ([], {"seeds": (1, 1)}, "seeds must be different and at least one"),
        (["compare.ablate={}"], {"ablate": True}, "an ablation needs an arm 'before'"),
        (["compare.arms={a b: [], a-b: []}"], {}, "arms must differ"),
        (["compare.arms={'..': []}"], {}, "must hold a letter or a digit"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_made(
    config, tmp_path, overrides, options, message
):
    with pytest.raises(ConfigError, match=message):
        compare(config(*overrides), tmp_path / "tiny", progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_left_alone(config, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        compare(config(), tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
