import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax.run.checkpoints import CheckpointDamaged, CheckpointMismatch, Checkpoints
from stabjax.run.checksums import damage


def state_of(value=1.0):
    return {
        "w": jnp.full((3, 2), value, jnp.float32),
        "half": jnp.full((2,), value, jnp.bfloat16),
        "nan": jnp.asarray([jnp.nan, -jnp.inf, -0.0], jnp.float32),
        "count": jnp.asarray(7, jnp.int32),
        "empty": jnp.zeros((0, 4), jnp.float32),
        "flag": jnp.asarray(True),
        "none": None,
    }


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def files_of(folder: pathlib.Path):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    store = Checkpoints(folder, keep=5)
    store.save(10, state_of(1.0), {"note": "ten"})
    store.save(20, state_of(2.0), {"note": "twenty", "score": float("nan")})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def test_a_state_comes_back_bit_for_bit_and_donatable(folder):
    found = Checkpoints(folder).restore_latest(state_of(0.0))
    assert found is not None
    step, state, extra = found
    assert (step, extra["note"]) == (20, "twenty")
    assert bits(state) == bits(state_of(2.0))
    assert jax.tree.structure(state) == jax.tree.structure(state_of())
    addresses = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state) if x.size]
    assert len(set(addresses)) == len(addresses)
    same = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), donate_argnums=0)
    out = same(state)
    assert bits(out) == bits(state_of(2.0))
    assert state["w"].is_deleted()
    assert out["w"].unsafe_buffer_pointer() in addresses  # taken over, not copied


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert Checkpoints(tmp_path / "none").restore_latest(state_of()) is None


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


CORRUPTIONS = {
    "flipped": flip,
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "removed": None,
}


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_damage_to_any_file_falls_back_to_the_checkpoint_before(saved, tmp_path, how):
    names = [p.relative_to(saved) for p in files_of(saved / "00000020")]
    assert len(names) > 5
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        change = CORRUPTIONS[how]
        before = (folder / name).read_bytes()
        if change is None:
            (folder / name).unlink()
        elif change(before) == before:
            continue  # an empty marker file has nothing to damage
        else:
            (folder / name).write_bytes(change(before))
        assert damage(folder / "00000020") is not None
    store = Checkpoints(tmp_path / "0", report=(told := []).append)
    found = store.restore_latest(state_of(0.0))
    assert found is not None
    assert found[0] == 10
    assert bits(found[1]) == bits(state_of(1.0))
    assert len(told) == 1
    assert "00000020 is skipped" in told[0]
    assert store.steps() == [10]  # set aside, so it is not tried or counted again


def test_an_empty_folder_called_like_a_step_is_skipped(folder):
    (folder / "00000099").mkdir()
    found = Checkpoints(folder).restore_latest(state_of())
    assert found is not None
    assert found[0] == 20


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", "null", '{"a": 1}', "\xff"])
def test_a_list_of_checksums_that_is_none_is_damage(folder, text):
    (folder / "00000020" / "checksums.json").write_text(text, "latin-1")
    found = Checkpoints(folder).restore_latest(state_of())
    assert found is not None
    assert found[0] == 10


def test_no_intact_checkpoint_is_an_error_and_stays_one(folder):
    for path in files_of(folder):
        path.write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(CheckpointDamaged, match="none of 2 checkpoints is intact"):
            Checkpoints(folder).restore_latest(state_of())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"w": jnp.zeros((2, 3))},
            r"leaf \['w'\] must be float32\[2, 3\], got float32\[3",
        ),
        ({"w": jnp.zeros((3, 2), jnp.bfloat16)}, r"\['w'\] must be bfloat16"),
        ({"half": None}, r"leaf \['half'\] must be absent, got bfloat16\[2\]"),
        ({"new": jnp.zeros(1)}, r"leaf \['new'\] must be float32\[1\], got absent"),
        ({"count": jnp.zeros((), jnp.float32)}, r"\['count'\] must be float32\[\]"),
        ({"w": {"x": jnp.zeros((3, 2))}}, r"\['w'\]\['x'\] must be"),
        ({"empty": jnp.zeros((0, 5))}, r"\['empty'\] must be float32\[0, 5\]"),
    ],
)
def test_another_structure_is_refused_by_the_name_of_its_leaf(folder, change, message):
    with pytest.raises(CheckpointMismatch, match=message):
        Checkpoints(folder).restore_latest({**state_of(), **change})


def test_only_the_newest_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save(step, {"w": jnp.zeros(2)}, {})
    assert store.steps() == [2, 3]


def test_saving_an_earlier_step_ends_the_past_after_it(tmp_path):
    store = Checkpoints(tmp_path, keep=3)
    for step, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 9.0)):
        store.save(step, {"w": jnp.full(2, value)}, {})
    assert store.steps() == [1, 2]
    found = store.restore_latest({"w": jnp.zeros(2)})
    assert found is not None
    assert (found[0], found[1]["w"].tolist()) == (2, [9.0, 9.0])


def test_a_save_that_fails_leaves_the_last_one(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, {"w": jnp.ones(2)}, {})

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stabjax.run.checkpoints.seal", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(2, {"w": jnp.zeros(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


def test_leftovers_of_a_killed_save_are_cleared(folder):
    (folder / ".part-00000030").mkdir()
    (folder / "00000020").rename(folder / ".old-00000020")
    shutil.copytree(folder / "00000010", folder / ".old-00000010")
    assert Checkpoints(folder).steps() == [10, 20]
    assert sorted(path.name for path in folder.iterdir()) == ["00000010", "00000020"]


def test_a_checkpoint_holds_no_pickle(folder):
    for path in files_of(folder):
        assert not path.read_bytes().startswith(b"\x80\x04")
        assert path.suffix not in (".pkl", ".pickle", ".npy")
    meta = json.loads((folder / "00000020" / "stabjax.json").read_text())
    assert meta["extra"]["score"] == "nan"
