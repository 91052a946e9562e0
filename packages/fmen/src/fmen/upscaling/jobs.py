"""What ``fmen upscale`` reads and what it writes: files, folders, patterns, standard input and output."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmen.upscaling.photo import READABLE, check_writable
from fmen_data import DataError

STREAM = "-"


@dataclass(frozen=True)
class Job:
    """An image and the file that it is enlarged into; None is standard input or standard output."""

    source: Path | None
    target: Path | None

    @property
    def name(self) -> str:
        """What messages call the image."""
        return "standard input" if self.source is None else str(self.source)

    @property
    def done(self) -> bool:
        """Whether the target is there and not older than the source."""
        if self.source is None or self.target is None or not self.target.exists():
            return False
        return self.target.stat().st_mtime >= self.source.stat().st_mtime


def plan(inputs: Sequence[str], output: str, suffix: str = ".png") -> list[Job]:
    """What is to be done.

    Args:
        inputs: Files, folders (with all folders below), patterns such as ``photos/**/*.jpg``, or ``-``.
        output: A file for a single image, a folder for any number (their tree is mirrored there), or ``-``.
        suffix: The format in a folder, such as ``".png"``.

    Raises:
        DataError: There are no images; several for one file; two for the same file; or the format is unknown.
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
    """The results' names in their folder; those of ``cat.jpg`` and ``cat.png`` side by side keep the suffix, too."""
    short = [image.with_suffix(suffix) for image in images]
    count = Counter(short)
    long = [image.with_name(image.name + suffix) for image in images]
    return [name if count[name] == 1 else longer for name, longer in zip(short, long, strict=True)]


def names_file(inputs: Sequence[str], output: str) -> bool:
    """Whether ``output`` is meant as a file: it looks like one, and there is no folder of that name."""
    looks = bool(Path(output).suffix) and not output.endswith(("/", "\\")) and not Path(output).is_dir()
    one = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    return looks and (one or Path(output).suffix.lower() in READABLE)


def find_images(inputs: Sequence[str], output: Path) -> Iterator[tuple[Path | None, Path]]:
    """The images and where in a tree they lie.

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
    """The images in ``folder`` and below, by name; hidden ones and those in ``output`` are left out."""
    results = output.resolve()
    files = []
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        ours = results != folder.resolve() and results in file.resolve().parents
        if file.suffix.lower() in READABLE and not hidden and not ours and file.is_file():
            files.append(file)
    return files


def fixed_part(pattern: Path) -> Path:
    """The folder in front of the first part of ``pattern`` that is a wildcard."""
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
