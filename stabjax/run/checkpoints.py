"""Checkpoints of the whole train state: atomic, checksummed, newest intact one wins.

orbax writes the arrays; it keeps no checksum of them, so a flipped bit would restore
silently. Here every file is sealed by checksum before one rename makes the checkpoint
visible, and verified before it is read.
"""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from stabjax.config.errors import ConfigError
from stabjax.run.checksums import damage, seal
from stabjax.run.folder import make_folder, private, sync_folder
from stabjax.run.records import encode

_META = "stabjax.json"
_ARRAYS = "arrays"


class CheckpointDamaged(RuntimeError):
    """No checkpoint of the folder is intact."""


class CheckpointMismatch(ConfigError):
    """A checkpoint holds another state than this configuration builds."""


class Checkpoints:
    """The ``checkpoints/`` folder of a run; its writer must hold the run's lock.

    Args:
        folder: Created if absent. Leftovers of an interrupted save are removed.
        keep: Checkpoints retained, >= 1.
        report: Called with a sentence for every checkpoint that is skipped.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        keep: int = 2,
        report: Callable[[str], None] = lambda message: None,
    ):
        self.folder = folder
        self.keep = keep
        self._report = report
        make_folder(folder)
        self._tidy()

    def _tidy(self) -> None:
        for path in self.folder.glob(".old-*"):
            target = self.folder / path.name.removeprefix(".old-")
            if target.exists():
                shutil.rmtree(path)
            else:  # killed between moving the old one aside and the new one in
                path.rename(target)
        for path in self.folder.glob(".part-*"):
            shutil.rmtree(path)

    def steps(self) -> list[int]:
        """Return the steps that have a committed checkpoint, ascending."""
        names = (entry.name for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, step: int) -> pathlib.Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"{step:08d}"

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> pathlib.Path:
        """Write a checkpoint, then delete those it supersedes.

        A step that was saved before is replaced, and later steps are deleted: they
        belong to a past that was rolled back.

        Args:
            step: Steps done, >= 0.
            state: Any pytree of arrays.
            extra: Plain data to keep beside it.

        Returns:
            The committed folder.

        Raises:
            OSError: If the disk refuses; earlier checkpoints stay as they are.
        """
        part, final = self.folder / f".part-{step:08d}", self.path(step)
        try:
            make_folder(part)
            _write_arrays(part / _ARRAYS, state)
            meta = {"step": step, "leaves": _leaf_specs(state), "extra": extra}
            with open(part / _META, "x", encoding="utf-8", opener=private) as file:
                file.write(encode(meta))
            seal(part)
            self._commit(part, final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._prune(step)
        return final

    def _commit(self, part: pathlib.Path, final: pathlib.Path) -> None:
        old = self.folder / f".old-{final.name}"
        if final.exists():
            final.rename(old)
        part.rename(final)
        sync_folder(self.folder)
        if old.exists():
            shutil.rmtree(old)

    def _prune(self, step: int) -> None:
        steps = self.steps()
        earlier = [saved for saved in steps if saved <= step]
        for saved in steps:
            if saved not in earlier[-self.keep :]:
                shutil.rmtree(self.path(saved), ignore_errors=True)

    def restore_latest(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Return ``(step, state, extra)`` of the newest intact checkpoint.

        Args:
            like: A state of the structure, shapes, dtypes and placement wanted.

        Returns:
            Fresh, donatable arrays; None if the folder holds no checkpoint.

        Raises:
            CheckpointDamaged: If there are checkpoints and none is intact.
            CheckpointMismatch: If the newest intact one holds another state.
        """
        damaged: list[pathlib.Path] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            problem = damage(path)
            if problem is None:
                restored = self._restore(path, like)
                for bad in damaged:
                    self._set_aside(bad)
                return restored
            self._report(f"checkpoint {path.name} is skipped: {problem}")
            damaged.append(path)
        if damaged:
            raise CheckpointDamaged(
                f"{self.folder}: none of {len(damaged)} checkpoints is intact; remove "
                "the run folder to start again, or choose another name."
            )
        return None

    def _restore(
        self, path: pathlib.Path, like: Any
    ) -> tuple[int, Any, dict[str, Any]]:
        meta = json.loads((path / _META).read_text("utf-8"))
        _check_specs(meta["leaves"], _leaf_specs(like), path)
        return meta["step"], _read_arrays(path / _ARRAYS, like), meta["extra"]

    def _set_aside(self, path: pathlib.Path) -> None:
        # Kept for inspection, one of them, out of the way of numbering and pruning.
        for old in self.folder.glob("damaged-*"):
            shutil.rmtree(old, ignore_errors=True)
        path.rename(self.folder / f"damaged-{path.name}")


def _leaf_specs(state: Any) -> list[list[Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [
        [jax.tree_util.keystr(path), list(jnp.shape(leaf)), str(jnp.result_type(leaf))]
        for path, leaf in leaves
    ]


def _check_specs(saved: list, wanted: list, path: pathlib.Path) -> None:
    before = {name: (tuple(shape), dtype) for name, shape, dtype in saved}
    now = {name: (tuple(shape), dtype) for name, shape, dtype in wanted}
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            raise CheckpointMismatch(
                f"checkpoint {path}: leaf {name} must be {_spec(now.get(name))}, got "
                f"{_spec(before.get(name))}."
            )


def _spec(spec: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if spec is None else f"{spec[1]}{list(spec[0])}"


def _named_leaves(state: Any) -> dict[str, Any]:
    # Names by position: any pytree is a flat dict. orbax refuses empty arrays.
    leaves = jax.tree.leaves(state)
    return {f"{i:05d}": leaf for i, leaf in enumerate(leaves) if jnp.size(leaf)}


def _write_arrays(path: pathlib.Path, state: Any) -> None:
    arrays = jax.tree.map(jnp.asarray, _named_leaves(state))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
        writer.save(path, args=ocp.args.PyTreeSave(arrays))


def _read_arrays(path: pathlib.Path, like: Any) -> Any:
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in jax.tree.map(jnp.asarray, _named_leaves(like)).items()
    }
    how = ocp.checkpoint_utils.construct_restore_args(wanted)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        arrays = reader.restore(
            path, args=ocp.args.PyTreeRestore(item=wanted, restore_args=how)
        )
    leaves, structure = jax.tree.flatten(like)
    fresh = [
        _fresh(arrays.get(f"{index:05d}", leaf), leaf)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, fresh)


def _fresh(array: Any, like: Any) -> jax.Array:
    # Copied: a restored array may share memory that XLA cannot take over by donation.
    # orbax also pins it to its device, which `jit` takes for another signature: a step
    # that was compiled for the state as built would be compiled again.
    pinned = getattr(like, "committed", True)
    return jnp.copy(array if pinned else np.asarray(array))
