"""The files a task leaves besides its figures, and their pictures on a page."""

import base64
import dataclasses
import pathlib
import re
from collections.abc import Mapping

from stabjax.run.folder import check_name, make_folder, write_atomically

FOLDER = "artifacts"
_LARGEST = 4 << 20  # bytes of a picture that a page still takes in
_TITLE = re.compile(r"<title>([^<]*)</title>")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of a run, ready for a page.

    Attributes:
        name: File name without its ending, in words.
        uri: The whole picture as a ``data:`` address: a page that holds it as an image
            runs nothing that is in it.
        description: What it shows, for those who do not see it.
    """

    name: str
    uri: str
    description: str


def write_artifacts(folder: pathlib.Path, files: Mapping[str, str | bytes]) -> None:
    """Write a task's files into the run folder, each as a whole or not at all.

    Args:
        folder: The run folder.
        files: File name to content.

    Raises:
        ConfigError: If a name could leave the folder or hide.
    """
    for name in files:
        check_name(name, "artifact")
    place = folder / FOLDER
    if files:
        make_folder(place)
    for name, content in files.items():
        write_atomically(place / name, content)


def read_pictures(folder: pathlib.Path, problems: list[str]) -> list[Picture]:
    """Return the pictures of a run folder, by name.

    Args:
        folder: The run folder.
        problems: Takes a line for each picture that cannot be shown.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("*.svg")):
        content = path.read_bytes()
        if len(content) > _LARGEST:
            problems.append(f"{path.name} is too large to be shown.")
            continue
        title = _TITLE.search(content[:10_000].decode("utf-8", errors="replace"))
        name = path.stem.replace("_", " ")
        uri = "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii")
        found.append(Picture(name, uri, title[1] if title else name))
    return found
