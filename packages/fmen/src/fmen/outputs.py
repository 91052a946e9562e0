"""Check where a command writes, before it works."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fmen.errors import UserError
from fmen_data.atomic import make_folder


def prepare_file(out: Path, *suffixes: str, inputs: Iterable[Path] = ()) -> None:
    """Create the folder of a file that will be written, and check that the file can be replaced.

    Args:
        out: The file.
        suffixes: The suffixes that it may have; by default all. They keep images and weights from being replaced.
        inputs: Files that are read.

    Raises:
        UserError: ``out`` is a folder or one of the inputs, or has another suffix.
        OSError: Its folder cannot be created.
    """
    if out.is_dir():  # an empty name is the current folder
        raise UserError(f"{out}: is a folder; name a file")
    if suffixes and out.suffix.lower() not in suffixes:
        raise UserError(f"{out}: end the name in {suffixes[0]}")
    if is_among(out, inputs):
        raise UserError(f"{out}: is read by this command; name another file to write")
    make_folder(out.parent)


def check_folder(out: Path, inputs: Iterable[Path]) -> None:
    """Check a folder that images will be written to.

    Args:
        out: The folder.
        inputs: Folders of images that are read.

    Raises:
        UserError: ``out`` is one of the inputs.
    """
    if is_among(out, inputs):
        raise UserError(f"{out}: its images are read by this command; name another folder to write to")


def is_among(path: Path, others: Iterable[Path]) -> bool:
    """Return whether a path names the same file or folder as another one, in any way of writing it."""
    return path.exists() and any(other.exists() and path.samefile(other) for other in others)
