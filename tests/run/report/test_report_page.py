import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from stabjax.run.report import write_report

VOID = {"meta", "br", "rect", "path", "line", "use", "link"}


class Outline(html.parser.HTMLParser):
    """Checks that tags nest, and keeps ids, headings and outside references."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.references: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "srcset", "data", "action"):
                self.references.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def outline(folder: pathlib.Path) -> tuple[Outline, str]:
    text = write_report(folder).read_text(encoding="utf-8")
    parsed = Outline()
    parsed.feed(text)
    assert parsed.open == []
    return parsed, text


@pytest.fixture(scope="module", params=["run", "comparison"])
def folder(request, written, tmp_path_factory) -> pathlib.Path:
    at = tmp_path_factory.mktemp("page") / request.param
    return pathlib.Path(shutil.copytree(written / request.param, at))


@pytest.fixture(scope="module")
def page(folder) -> tuple[Outline, str]:
    """The page of each folder as it was written, made once."""
    return outline(folder)


def test_the_page_needs_nothing_from_outside(page):
    parsed, text = page
    assert all(reference.startswith("#") for reference in parsed.references)
    assert not re.search(r"https?:|@import|<script|url\((?!#)", text)


def test_the_page_is_well_formed(page):
    parsed, _ = page
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.levels[0] == 1
    assert parsed.levels.count(1) == 1
    steps = [b - a for a, b in zip(parsed.levels, parsed.levels[1:], strict=False)]
    assert max(steps) <= 1


def test_the_page_has_a_light_a_dark_and_a_printed_theme(page):
    _, text = page
    for media in ("prefers-color-scheme: dark", "max-width: 46rem", "@media print"):
        assert media in text


def test_the_same_folder_gives_the_same_bytes(folder, page):
    first = page[1].encode()
    assert write_report(folder).read_bytes() == first
    assert len(first) < 1_000_000


def test_every_picture_says_in_words_what_it_shows(page):
    _, text = page
    assert text.count('role="img" aria-label="') == text.count("<figure>") > 3


def test_reports_are_made_without_jax(run_folder, comparison_folder):
    code = (
        "import sys; from stabjax.run.report import write_report; "
        "[write_report(folder) for folder in sys.argv[1:]]; "
        "print([m for m in ('jax', 'flax', 'optax', 'orbax') if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(run_folder), str(comparison_folder)]
    done = subprocess.run(words, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


def test_the_page_of_a_run_tells_its_numbers(run_folder):
    _, text = outline(run_folder)
    assert "model ctm, 60 steps, finished" in text
    for title in ("last loss", "lowest loss", "steps refused", "raw/mcmc", "grad_norm"):
        assert title in text


def test_the_comparison_shows_median_range_and_what_was_not_finite(
    comparison_folder,
):
    path = comparison_folder / "comparison.json"
    data = json.loads(path.read_text())
    data["arms"][0]["cells"][0] = {
        "values": [-4.0, -1.5, "-inf", -2.25], "non_finite": [0, 7, 9, 0], "digits": 3,
    }  # fmt: skip
    data["arms"][0]["cells"][1]["non_finite"] = [3, 5]
    path.write_text(json.dumps(data))
    _, text = outline(comparison_folder)
    assert "\N{MINUS SIGN}2.25" in text
    assert "[\N{MINUS SIGN}4.00, \N{MINUS SIGN}1.50]" in text
    assert "1 of 4 seeds not finite" in text
    assert "3 to 5 not finite" in text


def test_the_comparison_says_which_arm_stopped_early(comparison_folder):
    _, text = outline(comparison_folder)
    assert "1 of 2 seeds finished; seed 1 stopped after 48 of 60 steps" in text


def test_what_stands_in_a_file_is_never_markup(run_folder):
    evil = "<script>alert(1)</script>"
    row = {"step": 60, "loss": 1.0, f"raw/{evil}": 2.0}
    event = {
        "event": "alert",
        "step": 3,
        "cause": evil,
        "leaf": evil,
        "suggestion": evil,
    }
    with (run_folder / "health.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with (run_folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    (run_folder / "config.yaml").write_text(f"model: {{name: '{evil}'}}")
    _, text = outline(run_folder)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 5


def test_a_comparison_reads_no_folder_outside_itself(comparison_folder, make_run):
    make_run(comparison_folder.parent / "secret")
    path = comparison_folder / "comparison.json"
    data = json.loads(path.read_text())
    data["arms"][0]["seeds"][0]["folder"] = "../secret"
    path.write_text(json.dumps(data))
    _, text = outline(comparison_folder)
    assert "../secret lies outside the comparison and is not read." in text


@pytest.mark.parametrize("name", ["health.jsonl", "events.jsonl", "config.yaml"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe{", b'[1]\n{}\n{"a'])
def test_a_broken_file_gives_a_page_not_a_traceback(run_folder, name, content):
    if content is None:
        (run_folder / name).unlink()
    else:
        (run_folder / name).write_bytes(content)
    outline(run_folder)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"arms": 3}', b'{"arms": [{}, 4], "summary": [1]}',
                b'{"arms": [{"name": 1, "seeds": [7], "cells": [5]}]}']
)  # fmt: skip
def test_a_broken_comparison_gives_a_page_not_a_traceback(comparison_folder, content):
    (comparison_folder / "comparison.json").write_bytes(content)
    outline(comparison_folder)


def test_arms_are_found_by_their_folders_without_comparison_json(comparison_folder):
    (comparison_folder / "comparison.json").unlink()
    _, text = outline(comparison_folder)
    assert "comparison.json is missing." in text
    assert "6 arms" in text


def test_a_run_of_only_non_finite_losses_says_so(tmp_path):
    rows = [{"step": k, "loss": "nan", "accepted": 0} for k in range(30)]
    (tmp_path / "health.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, text = outline(tmp_path)
    assert "not finite: 30 of 30" in text
    assert "no finite value" in text


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path):
    _, text = outline(tmp_path)
    assert "No step was recorded in this folder." in text
    assert "health.jsonl is missing." in text


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="write_report: folder must be"):
        write_report(tmp_path / "nowhere")


def test_what_needs_no_picture_is_said_in_words(run_folder):
    _, text = outline(run_folder)
    assert "weighted/ce is 1 times the raw one" in text
    assert "update_scale is 1 throughout" in text
    assert ">weighted/ce</h4>" not in text
    assert ">raw/dyn</h4>" in text  # a component that stands still is news


def test_a_run_of_a_comparison_is_titled_by_its_arm(comparison_folder):
    _, text = outline(comparison_folder / "sound" / "seed1")
    assert "<h1>sound, seed1</h1>" in text
