"""The inputs and outputs of ``fmen upscale``: files, folders, patterns, standard input and output.

Each output folder has a file ``.fmen-upscale.jsonl`` with a line per result: its source and settings. So an
interrupted or extended run skips the images that are done, and a run with other settings makes them again.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fmen.upscaling.photo import READABLE, check_writable
from fmen_data import DataError

STREAM = "-"

RECORDS = ".fmen-upscale.jsonl"


@dataclass(frozen=True)
class Job:
    """An image and the file of its result; None stands for standard input or standard output."""

    source: Path | None
    target: Path | None

    @property
    def name(self) -> str:
        """The image's name in messages."""
        return "standard input" if self.source is None else str(self.source)

    def origin(self, settings: Settings) -> dict[str, Any]:
        """Return what the result depends on: size and modification time of the source, and the settings."""
        state = None if self.source is None else self.source.stat()
        stamp = {} if state is None else {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
        return {**stamp, **asdict(settings)}


@dataclass(frozen=True)
class Settings:
    """The settings that a result depends on.

    Attributes:
        weights: SHA-256 of the weights file, which also determines the scale.
        precision: The value of ``--precision``.
        self_ensemble: Whether the results are means over flips and rotations.
        quality: Quality of JPEG and WebP.
    """

    weights: str
    precision: str
    self_ensemble: bool
    quality: int

    @classmethod
    def of(cls, weights: Path, precision: str, self_ensemble: bool, quality: int) -> Settings:
        """Create the settings from a weights file."""
        return cls(hashlib.sha256(weights.read_bytes()).hexdigest(), precision, self_ensemble, quality)


def pending(jobs: Sequence[Job], settings: Settings) -> list[Job]:
    """Return the jobs whose results do not exist, or were made of another source or with other settings.

    A result without a record is taken as done if it is not older than its source: it may be any user's file.
    """
    folders = {job.target.parent for job in jobs if job.target is not None}
    records = {folder: read_records(folder) for folder in folders}

    def is_done(job: Job) -> bool:
        if job.source is None or job.target is None or not job.target.exists():
            return False
        record = records[job.target.parent].get(job.target.name)
        if record is None:
            return job.target.stat().st_mtime >= job.source.stat().st_mtime
        return record == job.origin(settings)

    return [job for job in jobs if not is_done(job)]


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the records of the results in a folder, by file name; of several for a name, the last one counts."""
    records = {}
    file = folder / RECORDS
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            name, origin = json.loads(line)
        except ValueError:  # a line that was cut off when a run was killed
            continue
        records[name] = origin
    return records


def write_record(target: Path, origin: dict[str, Any]) -> None:
    """Append the record of a finished result."""
    with (target.parent / RECORDS).open("a") as file:
        file.write(json.dumps([target.name, origin]) + "\n")


def plan(inputs: Sequence[str], output: str, suffix: str = ".png") -> list[Job]:
    """Return the jobs of a run.

    Args:
        inputs: Files, folders (with all folders below), patterns such as ``photos/**/*.jpg``, or ``-``.
        output: A file for a single image, a folder for several (their tree is mirrored there), or ``-``.
        suffix: The format in a folder, such as ``".png"``.

    Raises:
        DataError: There are no images, several for one file, or two for the same file; or the format is unknown.
    """
    found = list(find_images(inputs, Path(output)))
    if not found:
        raise DataError(f"{', '.join(inputs)}: no images there ({', '.join(READABLE)})")
    if output == STREAM or names_file(inputs, output):
        if len(found) > 1:
            raise DataError(f"{len(found)} images cannot all go to {output}; name a folder with --output")
        target = None if output == STREAM else Path(output)
        if target is not None:
            check_writable(target)
        jobs = [Job(found[0][0], target)]
    else:
        names = result_names([relative for _, relative in found], suffix)
        jobs = [Job(source, Path(output) / name) for (source, _), name in zip(found, names, strict=True)]
    check_targets(jobs)
    return jobs


def result_names(images: Sequence[Path], suffix: str) -> list[Path]:
    """Return the names of the results; those of ``cat.jpg`` and ``cat.png`` in one folder contain the old suffix."""
    short = [image.with_suffix(suffix) for image in images]
    count = Counter(short)
    long = [image.with_name(image.name + suffix) for image in images]
    return [name if count[name] == 1 else longer for name, longer in zip(short, long, strict=True)]


def names_file(inputs: Sequence[str], output: str) -> bool:
    """Return whether ``output`` is a file: it has a suffix, and there is no folder of that name."""
    looks = bool(Path(output).suffix) and not output.endswith(("/", "\\")) and not Path(output).is_dir()
    one = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    return looks and (one or Path(output).suffix.lower() in READABLE)


def find_images(inputs: Sequence[str], output: Path) -> Iterator[tuple[Path | None, Path]]:
    """Yield the images and their paths relative to the inputs.

    Raises:
        DataError: One of the inputs does not exist, or a pattern finds nothing.
    """
    for given in inputs:
        path = Path(given)
        if given == STREAM:
            yield None, Path("stdin.png")
        elif path.is_dir():
            yield from ((file, file.relative_to(path)) for file in images_below(path, output))
        elif path.exists():
            yield path, Path(path.name)
        elif glob.has_magic(given):
            matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207 - ** with files
            files = [match for match in matches if match.is_file() and match.suffix.lower() in READABLE]
            if not files:
                raise DataError(f"{given}: no image matches the pattern")
            root = fixed_part(path)
            yield from ((file, file.relative_to(root)) for file in files)
        else:
            raise DataError(f"{given}: no such file or folder")


def images_below(folder: Path, output: Path) -> list[Path]:
    """Return the images in ``folder`` and below, sorted, without hidden ones and those in ``output``."""
    results = output.resolve()
    files = []
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        is_result = results != folder.resolve() and results in file.resolve().parents
        if file.suffix.lower() in READABLE and not hidden and not is_result and file.is_file():
            files.append(file)
    return files


def fixed_part(pattern: Path) -> Path:
    """Return the folder before the first part of ``pattern`` with a wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def check_targets(jobs: Sequence[Job]) -> None:
    """Raise DataError if two jobs write the same file, or one its own source."""
    targets = Counter(job.target for job in jobs)
    twice = next((target for target, count in targets.items() if count > 1), None)
    if twice is not None:
        sources = [job.name for job in jobs if job.target == twice]
        raise DataError(f"{' and '.join(sources[:2])} would both become {twice}; upscale them into different folders")
    for job in jobs:
        if job.source and job.target and job.target.exists() and job.target.samefile(job.source):
            raise DataError(f"{job.source} would be written over; choose another name with --output")
