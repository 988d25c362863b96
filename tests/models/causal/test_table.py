"""Tables from files: what is read, what is missing, and what is refused."""

import os
import pathlib
import sys
import types

import numpy as np
import pytest

from stabjax.models.causal.data_config import Data
from stabjax.models.causal.table import AIR_QUALITY_FILE, load_table, read_csv

needs_data = pytest.mark.skipif(
    "STABJAX_DATA" not in os.environ, reason="STABJAX_DATA is not set"
)


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path."""

    def make(text, name="table.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_codes_and_empty_cells_are_missing_and_a_short_row_is_filled(write):
    path = write("a,b,c\n1,-999,3\n,5,\n4\n")
    table = read_csv(path, missing=[-999.0])
    assert table.names == ("a", "b", "c")
    nan = np.nan
    np.testing.assert_array_equal(
        table.values, [[1, nan, 3], [nan, 5, nan], [4, nan, nan]]
    )


def test_columns_that_hold_text_or_nothing_are_left_out(write):
    table = read_csv(write("when,a,note,b,\n2/1,1,fine,2,\n2/2,3,,4,\n"))
    assert table.names == ("a", "b")


def test_named_columns_come_in_the_order_they_are_named(write):
    table = read_csv(write("a,b,c\n1,2,3\n"), columns=["c", "a"])
    assert table.names == ("c", "a")
    np.testing.assert_array_equal(table.values, [[3.0, 1.0]])


def test_an_unknown_column_is_refused_with_the_nearest_name(write):
    with pytest.raises(ValueError, match="got 'presure'; did you mean 'pressure'"):
        read_csv(write("pressure,b\n1,2\n"), columns=["presure", "b"])


def test_text_in_a_named_column_is_refused_with_its_row(write):
    with pytest.raises(ValueError, match="got 'x' in row 3"):
        read_csv(write("a,b\n1,2\nx,4\n"), columns=["a", "b"])


def test_a_wrong_separator_is_named_in_the_error(write):
    with pytest.raises(ValueError, match="is the separator ',' and"):
        read_csv(write("a;b\n1;2\n"))


def test_a_missing_file_names_the_folder_it_was_looked_for_in(monkeypatch, tmp_path):
    monkeypatch.setenv("STABJAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"STABJAX_DATA={tmp_path}"):
        load_table(Data(source="csv", path="nowhere.csv"), seed=0)


def test_a_file_is_found_in_the_data_folder(monkeypatch, write):
    path = write("a,b\n1,2\n3,4\n", "mine.csv")
    monkeypatch.setenv("STABJAX_DATA", str(path.parent))
    table = load_table(
        Data(source="csv", path="mine.csv", known_edges=(("b", "a"),)), seed=0
    )
    assert table.truth is not None
    np.testing.assert_array_equal(table.truth, [[False, False], [True, False]])


def test_a_known_edge_must_name_columns(write):
    path = write("a,b\n1,2\n")
    with pytest.raises(ValueError, match="known_edges must name a column"):
        load_table(
            Data(source="csv", path=str(path), known_edges=(("a", "d"),)), seed=0
        )


@needs_data
def test_air_quality_is_read_as_its_description_says():
    table = load_table(Data(source="air_quality"), seed=0)
    assert table.values.shape == (9471, 13)
    assert table.names[0] == "CO(GT)"
    assert table.names[-1] == "AH"
    assert np.all(np.isnan(table.values[-114:]))
    assert not np.all(np.isnan(table.values[-115]))
    measured = table.values[:-114]
    share = dict(zip(table.names, np.isnan(measured).mean(axis=0), strict=True))
    assert share["NMHC(GT)"] == pytest.approx(8443 / 9357)
    assert share["T"] == pytest.approx(366 / 9357)
    assert np.nanmax(measured) == 2775.0
    assert table.truth is None


class _Frame(dict):
    @property
    def columns(self):
        return list(self)


def test_without_a_file_air_quality_is_downloaded(monkeypatch):
    monkeypatch.delenv("STABJAX_DATA", raising=False)
    asked = []
    frame = _Frame(Date=["10/3"], Time=["18:00:00"], T=[13.6], RH=[-200])

    def fetch(id):
        asked.append(id)
        return types.SimpleNamespace(data=types.SimpleNamespace(features=frame))

    fake = types.ModuleType("ucimlrepo")
    monkeypatch.setattr(fake, "fetch_ucirepo", fetch, raising=False)
    monkeypatch.setitem(sys.modules, "ucimlrepo", fake)
    monkeypatch.chdir(pathlib.Path(__file__).parent)
    table = load_table(Data(source="air_quality"), seed=0)
    assert asked == [360]
    assert table.names == ("T", "RH")
    np.testing.assert_array_equal(table.values, [[13.6, np.nan]])


def test_without_file_and_package_the_error_names_all_three_ways(monkeypatch, tmp_path):
    monkeypatch.delenv("STABJAX_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "ucimlrepo", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match=r"stabjax\[causal\]") as refusal:
        load_table(Data(source="air_quality"), seed=0)
    assert "model.data.path" in str(refusal.value)
    assert "STABJAX_DATA" in str(refusal.value)
    assert AIR_QUALITY_FILE in str(refusal.value)
