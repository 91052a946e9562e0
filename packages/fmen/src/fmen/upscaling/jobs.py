"""The inputs and outputs of ``fmen upscale``: files, folders, patterns, URIs, standard input and output."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from fmen.upscaling import storage
from fmen.upscaling.photo import READABLE, check_writable
from fmen.upscaling.storage import Location, shown
from fmen_data import DataError

STREAM = "-"

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""


@dataclass(frozen=True)
class Job:
    """An image and the file of its result.

    Attributes:
        source: The image; None for standard input.
        target: The result; None for standard output.
        stamp: Size and modification time of the source when it was found; None for standard input.
    """

    source: Location | None
    target: Location | None
    stamp: Stamp | None = None

    @property
    def name(self) -> str:
        """The image's name in messages."""
        return "standard input" if self.source is None else shown(self.source)

    @property
    def result(self) -> str:
        """The result's name in messages."""
        return "standard output" if self.target is None else shown(self.target)


@dataclass(frozen=True)
class Found:
    """An image that was found: where, its path relative to the input, and its stamp."""

    source: Location | None
    relative: PurePath
    stamp: Stamp | None


def plan(inputs: Sequence[str], output: str, suffix: str = ".png") -> tuple[list[Job], list[str]]:
    """Return the jobs of a run.

    Args:
        inputs: Files, folders (with all folders below), patterns such as ``photos/**/*.jpg``, URIs, or ``-``.
        output: A file for a single image, a folder for several (their tree is mirrored there), or ``-``.
        suffix: The format in a folder, such as ``".png"``.

    Returns:
        The jobs, and a line about every entry of a folder that has the name of an image and is none.

    Raises:
        DataError: There are no images, several for one file, or two for the same file; or the format is unknown.
    """
    faults: list[str] = []
    found = list(find_images(inputs, output, faults))
    if not found:
        raise DataError(faults[0] if faults else f"{', '.join(inputs)}: no images there ({', '.join(READABLE)})")
    if output == STREAM or names_file(inputs, output):
        if len(found) > 1:
            raise DataError(f"{len(found)} images cannot all go to {output}; name a folder with --output")
        target = None if output == STREAM else storage.location(output)
        if target is not None:
            check_writable(target)
        jobs = [Job(found[0].source, target, found[0].stamp)]
    else:
        folder = storage.location(output)
        names = result_names([image.relative for image in found], suffix)
        pairs = zip(found, names, strict=True)
        jobs = [Job(image.source, storage.join(folder, name), image.stamp) for image, name in pairs]
    check_targets(jobs)
    return jobs, faults


def result_names(images: Sequence[PurePath], suffix: str) -> list[PurePath]:
    """Return the names of the results; those of ``cat.jpg`` and ``cat.png`` in one folder contain the old suffix."""
    short = [image.with_suffix(suffix) for image in images]
    count = Counter(short)
    long = [image.with_name(image.name + suffix) for image in images]
    return [name if count[name] == 1 else longer for name, longer in zip(short, long, strict=True)]


def names_file(inputs: Sequence[str], output: str) -> bool:
    """Return whether ``output`` is a file: it has a suffix, and there is no folder of that name."""
    kind = PurePath(output).suffix
    place = storage.location(output)
    is_folder = isinstance(place, Path) and place.is_dir()
    looks = bool(kind) and not output.endswith(("/", "\\")) and not is_folder
    first = storage.location(inputs[0])
    one = len(inputs) == 1 and isinstance(first, Path) and not first.is_dir()
    return looks and (one or kind.lower() in READABLE)


def output_folder(inputs: Sequence[str], output: str) -> Location:
    """Return the folder of the results."""
    place = storage.location(output)
    return storage.split(place)[0] if names_file(inputs, output) else place


def find_images(inputs: Sequence[str], output: str, faults: list[str]) -> Iterator[Found]:
    """Yield the images, and add a line to ``faults`` for every entry that has an image's name and is none.

    Raises:
        DataError: One of the inputs does not exist, or a pattern finds nothing.
    """
    place = storage.location(output)
    results = place if isinstance(place, Path) and place.is_dir() else None
    earlier = EarlierResults()
    for given in inputs:
        path = storage.location(given)
        if given == STREAM:
            yield Found(None, Path("stdin.png"), None)
        elif isinstance(path, str):
            for image in remote_images(path, output):
                if path != place or image.source not in earlier:
                    yield image
        elif path.is_dir():
            inside = results is not None and results.samefile(path)
            for file, stamp in images_below(path, results, faults):
                if not inside or file not in earlier:
                    yield Found(file, file.relative_to(path), stamp)
        elif path.exists():
            state = path.stat()
            yield Found(path, Path(path.name), (state.st_size, state.st_mtime_ns))
        elif glob.has_magic(given):
            matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - ** with files
            root = fixed_part(path)
            images = only_images(map(Path, matches), faults)
            inner = results.resolve() if results and root.resolve() in results.resolve().parents else None
            inside = results is not None and results.samefile(root)
            files = [
                (file, stamp)
                for file, stamp in images
                if all(folder.resolve() != inner for folder in file.parents) and not (inside and file in earlier)
            ]
            if not files:
                raise DataError(f"{given}: no image matches the pattern")
            yield from (Found(file, file.relative_to(root), stamp) for file, stamp in files)
        else:
            raise DataError(f"{shown(path)}: no such file or folder")


class EarlierResults:
    """The images that a manifest in their folder lists as results: inputs that are no input of the same command."""

    def __init__(self) -> None:
        self.names: dict[Location, set[str]] = {}

    def __contains__(self, file: Location | None) -> bool:
        from fmen.upscaling.manifest import read_records

        if file is None:
            return False
        folder, name = storage.split(file)
        if folder not in self.names:
            self.names[folder] = set(read_records(folder))
        return name in self.names[folder]


def remote_images(uri: str, output: str) -> Iterator[Found]:
    """Yield the images at a URI and below, without hidden ones and those in ``output``."""
    results = storage.location(output)
    for source, relative, stamp in storage.walk(uri):
        hidden = any(part.startswith(".") for part in relative.parts)
        is_result = results != uri and source.startswith(f"{results}/")
        if relative.suffix.lower() in READABLE and not hidden and not is_result:
            yield Found(source, relative, stamp)


def images_below(folder: Path, output: Path | None, faults: list[str]) -> Iterator[tuple[Path, Stamp]]:
    """Yield the images in ``folder`` and below with their stamps, sorted, without hidden ones and those in ``output``.

    Links to folders are followed, except into a folder that contains the link.
    """
    results = None if output is None or output.samefile(folder) else identity(output)

    def walk(branch: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[Path, Stamp]]:
        try:
            names = sorted(os.listdir(branch))  # noqa: PTH208 - names are sorted faster than paths
        except OSError as error:
            faults.append(f"cannot read {shown(branch)}: {error.strerror}; check the permissions")
            return
        for path in (branch / name for name in names if not name.startswith(".")):
            yield from only_images([path], faults)
            if path.is_dir():
                here = identity(path)
                if here in above:
                    faults.append(f"{shown(path)} is a link to a folder that contains it; it is not followed")
                elif here != results:
                    yield from walk(path, (*above, here))

    yield from walk(folder, (identity(folder),))


def identity(path: Path) -> tuple[int, int]:
    """Return the device and the inode of a file or folder, which are the same through every link."""
    state = path.stat()
    return state.st_dev, state.st_ino


def file_identity(file: Location) -> Location | tuple[int, int]:
    """Return the identity of a local file that exists, and others as they are."""
    try:
        return identity(file) if isinstance(file, Path) else file
    except OSError:
        return file


def only_images(paths: Iterable[Path], faults: list[str]) -> Iterator[tuple[Path, Stamp]]:
    """Yield those of ``paths`` that are files with an image's suffix, and add a line to ``faults`` for other entries.

    A line is added for a folder, a pipe or an unreadable entry with such a suffix, and for a link in a loop.
    """
    for path in paths:
        named = path.suffix.lower() in READABLE
        try:
            state = path.stat()
        except OSError as error:
            if named or error.errno == errno.ELOOP:
                faults.append(f"cannot read {shown(path)}: {error.strerror}; remove it or repair the link")
            continue
        if named and stat.S_ISREG(state.st_mode):
            yield path, (state.st_size, state.st_mtime_ns)
        elif named:
            kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe or a device"
            faults.append(f"{shown(path)} is {kind}, not an image; rename it")


def fixed_part(pattern: Path) -> Path:
    """Return the folder before the first part of ``pattern`` with a wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def check_targets(jobs: Sequence[Job]) -> None:
    """Raise DataError if two jobs write the same file, or one the source of any."""
    targets = Counter(job.target for job in jobs)
    twice = next((target for target, count in targets.items() if count > 1), None)
    if twice is not None:
        sources = [job.name for job in jobs if job.target == twice]
        raise DataError(
            f"{' and '.join(sources[:2])} would both become {shown(twice)}; upscale them into different folders"
        )
    read = {file_identity(job.source): job for job in jobs if job.source is not None}
    for job in jobs:
        replaced = None if job.target is None else read.get(file_identity(job.target))
        if replaced is not None:
            raise DataError(f"{replaced.name} would be written over; choose another name with --output")
