import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.run.records import JsonLines, encode, read_lines
from stabjax.run.sinks import diverged, shortest


def refuse_constants(name):
    raise ValueError(name)


@given(
    st.dictionaries(st.text(max_size=5), st.floats() | st.integers() | st.booleans())
)
def test_every_record_is_strict_json_and_reads_back(record):
    line = encode(record)
    assert "\n" not in line
    for key, value in json.loads(line, parse_constant=refuse_constants).items():
        assert float(value) == float(record[key]) or math.isnan(record[key])


@given(st.floats(width=32))
def test_telemetry_floats_keep_their_bits_in_few_digits(value):
    text = json.loads(encode({"loss": shortest(value)}))["loss"]
    np.testing.assert_array_equal(np.float32(text), np.float32(value))
    assert len(str(text)) <= 20  # a whole number below 1e16 is written out


def test_a_torn_tail_is_cut(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step":0}\n{"step":1}\n{"st')
    lines = JsonLines(path)
    lines.write({"step": 2})
    lines.close()
    assert [row["step"] for row in read_lines(path)] == [0, 1, 2]


@pytest.mark.parametrize("keep", [0, 5, 11, 15, 22, 25])
def test_resuming_keeps_the_whole_lines_within_the_mark(tmp_path, keep):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step":0}\n{"step":1}\n{"step":2}\n')
    lines = JsonLines(path, keep)
    assert lines.size == keep // 11 * 11
    assert lines.complete == (keep % 11 == 0)
    lines.close()
    assert path.stat().st_size == lines.size


def test_a_long_torn_line_is_cut_too(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n" + b"x" * 200_000)
    lines = JsonLines(path)
    assert lines.size == 3
    lines.close()


def test_a_file_shorter_than_its_mark_says_so(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    lines = JsonLines(path, 300)
    assert (lines.size, lines.complete) == (3, False)
    lines.close()


def test_reading_skips_what_is_no_record(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n\xff\n[1]\n\n{"a":2}\n{"a"')
    assert [row["a"] for row in read_lines(path)] == [1, 2]
    assert read_lines(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        ([], False),
        ([(1, 0.5)], False),
        ([(1, 0.5), (0, 0.5)], False),
        ([(0, 0.5), (0, 0.5)], True),
        ([(1, 0.5), (1, math.nan)], True),
        ([(1, math.inf)], True),
    ],
)
def test_a_run_diverged_if_it_ended_non_finite_or_refusing(rows, answer):
    assert diverged([{"accepted": a, "loss": loss} for a, loss in rows]) is answer
