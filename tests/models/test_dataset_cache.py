"""Generated data sets on disk: made once, checked at every load, resumed, repaired."""

import hashlib
import pathlib
import sys

import numpy as np
import pytest

from stabjax.models import dataset_cache
from stabjax.models.dataset_cache import (
    Recipe,
    cache_folder,
    import_generator,
    installed_versions,
    load_generated,
)


class Generator:
    """Makes chunks of five rows and remembers which."""

    def __init__(self):
        self.made: list[int] = []
        self.fails_at: int | None = None

    def make(self, seed: int, index: int) -> dict[str, np.ndarray]:
        if index == self.fails_at:
            raise KeyboardInterrupt
        self.made.append(index)
        rng = np.random.default_rng((seed, index))
        return {"x": rng.normal(size=(5, 2)), "keep": rng.random(5) < 0.5}

    def recipe(self, **changes) -> Recipe:
        settings = {
            "name": "numbers",
            "version": "1",
            "parameters": {"a": 1},
            "chunk": 5,
            "make": self.make,
        }
        return Recipe(**(settings | changes))


@pytest.fixture
def generator():
    return Generator()


def load(generator, rows, folder, *, seed=0, **changes):
    return load_generated(
        generator.recipe(**changes), rows, seed=seed, folder=folder, progress=False
    )


def parts(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("numbers-*/part-*.npz"))


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_rows_are_made_once_and_read_back_as_they_were(generator, tmp_path):
    first = load(generator, 12, tmp_path)
    assert generator.made == [0, 1, 2]
    same(first, load(generator, 12, tmp_path))
    assert generator.made == [0, 1, 2]
    assert first["x"].shape == (12, 2)
    assert first["keep"].dtype == np.bool_


def test_more_rows_make_only_those_that_are_missing(generator, tmp_path):
    few = load(generator, 7, tmp_path)
    many = load(generator, 18, tmp_path)
    assert generator.made == [0, 1, 2, 3]
    same(few, {name: array[:7] for name, array in many.items()})


def test_the_rows_do_not_depend_on_the_folder_or_on_what_was_there(tmp_path):
    first = load(Generator(), 15, tmp_path / "a")
    load(Generator(), 5, tmp_path / "b")
    same(first, load(Generator(), 15, tmp_path / "b"))


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"version": "2"}, {"parameters": {"a": 2}}, {"name": "numbers-2"}],
)
def test_whatever_changes_the_rows_has_a_folder_of_its_own(
    changes, generator, tmp_path
):
    load(generator, 5, tmp_path)
    load(generator, 5, tmp_path, **changes)
    assert generator.made == [0, 0]


@pytest.mark.parametrize("damage", ["flip", "cut", "no checksum", "empty checksum"])
def test_a_damaged_chunk_is_said_to_be_so_and_made_again_alone(
    damage, generator, tmp_path, capsys
):
    first = load(generator, 15, tmp_path)
    target = parts(tmp_path)[1]
    content = bytearray(target.read_bytes())
    checksum = target.with_name(target.name + ".sha256")
    if damage == "flip":
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    elif damage == "cut":
        target.write_bytes(content[:-20])
    elif damage == "no checksum":
        checksum.unlink()
    else:
        checksum.write_text("")
    generator.made.clear()
    again = load_generated(generator.recipe(), 15, seed=0, folder=tmp_path)
    assert generator.made == [1]
    same(first, again)
    said = capsys.readouterr().err
    assert target.name in said
    assert "made again" in said
    generator.made.clear()
    same(first, load(generator, 15, tmp_path))
    assert generator.made == []


def test_an_interrupted_generation_goes_on_where_it_stopped(generator, tmp_path):
    generator.fails_at = 2
    with pytest.raises(KeyboardInterrupt):
        load(generator, 20, tmp_path)
    assert generator.made == [0, 1]
    generator.fails_at = None
    generator.made.clear()
    same(load(generator, 20, tmp_path), load(Generator(), 20, tmp_path / "other"))
    assert generator.made == [2, 3]


def test_a_write_that_fails_leaves_no_file_behind(generator, tmp_path, monkeypatch):
    def broken(handle):
        raise OSError("the disk is full")

    monkeypatch.setattr(dataset_cache.os, "fsync", broken)
    with pytest.raises(OSError, match="the disk is full"):
        load(generator, 5, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_is_replaced_whole_or_not_at_all(generator, tmp_path, monkeypatch):
    load(generator, 5, tmp_path)
    (part,) = parts(tmp_path)
    part.write_bytes(b"damaged")
    before = sorted(path.name for path in part.parent.iterdir())

    def broken(source, target):
        raise OSError("the machine stops here")

    monkeypatch.setattr(dataset_cache.os, "replace", broken)
    with pytest.raises(OSError, match="the machine stops here"):
        load(generator, 5, tmp_path)
    assert part.read_bytes() == b"damaged"
    assert sorted(path.name for path in part.parent.iterdir()) == before


def test_the_checksum_file_is_one_that_sha256sum_checks(generator, tmp_path):
    load(generator, 5, tmp_path)
    (part,) = parts(tmp_path)
    line = part.with_name(part.name + ".sha256").read_text()
    assert line == f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}\n"


def test_a_stored_data_set_is_read_without_its_generator(generator, tmp_path):
    first = load(generator, 10, tmp_path)

    def absent(seed, index):
        raise ImportError("numbers need a generator")

    without = generator.recipe(version=None, make=absent)
    same(first, load_generated(without, 10, seed=0, folder=tmp_path, progress=False))
    for rows, seed in ((11, 0), (5, 1)):
        with pytest.raises(ImportError, match="numbers need a generator"):
            load_generated(without, rows, seed=seed, folder=tmp_path, progress=False)
    other = generator.recipe(version=None, make=absent, parameters={"a": 2})
    with pytest.raises(ImportError, match="numbers need a generator"):
        load_generated(other, 5, seed=0, folder=tmp_path, progress=False)


def test_progress_is_shown_on_standard_error_only(generator, tmp_path, capsys):
    load_generated(generator.recipe(), 10, seed=0, folder=tmp_path)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "generating numbers" in shown.err
    assert "2/2" in shown.err
    load_generated(generator.recipe(), 10, seed=0, folder=tmp_path)
    assert capsys.readouterr().err == ""


def test_silence_is_silent(generator, tmp_path, capsys):
    load(generator, 10, tmp_path)
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_names_the_way_out(generator, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="set STABJAX_CACHE to a folder that can"):
        load(generator, 5, blocked)


def test_a_chunk_of_the_wrong_length_is_refused(generator, tmp_path):
    with pytest.raises(ValueError, match="numbers must make 4 rows of x"):
        load(generator, 5, tmp_path, chunk=4)
    assert parts(tmp_path) == []


@pytest.mark.parametrize(("rows", "seed"), [(0, 0), (5, -1)])
def test_arguments_out_of_range_are_refused(rows, seed, generator, tmp_path):
    with pytest.raises(ValueError, match="rows and chunk must be at least 1"):
        load(generator, rows, tmp_path, seed=seed)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/stabjax"),
        ("linux", {"XDG_CACHE_HOME": ""}, "{home}/.cache/stabjax"),
        ("linux", {}, "{home}/.cache/stabjax"),
        ("darwin", {}, "{home}/Library/Caches/stabjax"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/stabjax/Cache"),
        ("linux", {"STABJAX_CACHE": "/mine", "XDG_CACHE_HOME": "/x"}, "/mine"),
        ("darwin", {"STABJAX_CACHE": "~/mine"}, "{home}/mine"),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_caches(
    platform, variables, expected, monkeypatch
):
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("STABJAX_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    home = pathlib.Path.home()
    assert cache_folder() == pathlib.Path(expected.format(home=home))


def test_the_environment_chooses_the_folder(generator, tmp_path, monkeypatch):
    monkeypatch.setenv("STABJAX_CACHE", str(tmp_path / "mine"))
    load_generated(generator.recipe(), 5, seed=0, progress=False)
    assert len(parts(tmp_path / "mine")) == 1


def test_a_missing_generator_names_the_extra():
    with pytest.raises(ImportError, match=r"pip install 'stabjax\[jets\]'"):
        import_generator("no_such_package", data="jets", extra="jets")


def test_versions_are_those_installed_or_none():
    assert installed_versions("numpy") == f"numpy {np.__version__}"
    assert installed_versions("numpy", "no-such-package") is None
