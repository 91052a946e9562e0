"""The manifest: which results of ``fmen upscale`` are done, of which source, and with which settings.

Each output folder has a file ``.fmen-upscale.jsonl`` with lines ``[name, origin]``: ``null`` when the result is begun,
the source and the settings when it is complete. The last line of a name counts. So an interrupted or extended run skips
what is done, and a run with other settings makes it again. Both engines read and write it. Files of object stores
cannot be appended to; there, every group of lines is a file ``.fmen-upscale.TIME.jsonl`` of its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fmen.upscaling import storage
from fmen.upscaling.enlarge import OutputSize
from fmen.upscaling.jobs import Job
from fmen.upscaling.photo import writing
from fmen.upscaling.storage import Location
from fmen_data.atomic import make_folder

PREFIX, SUFFIX = ".fmen-upscale.", "jsonl"

Origin = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The settings that a result depends on.

    Attributes:
        weights: SHA-256 of the weights file, which also determines the scale; of several, that of their hashes. It
            includes the code of a user's network.
        precision: The value of ``--precision``.
        self_ensemble: Whether the results are means over flips and rotations.
        quality: Quality of JPEG and WebP.
        output_size: The output size that was asked for; None for the network's scale.
        denoise: Share of the second weights in a blend; None without a blend.
    """

    weights: str
    precision: str
    self_ensemble: bool
    quality: int
    output_size: str | None = None
    denoise: float | None = None

    @classmethod
    def of(
        cls,
        weights: Sequence[Path],
        precision: str,
        self_ensemble: bool,
        quality: int,
        size: OutputSize | None = None,
        *,
        code: bytes = b"",
        denoise: float | None = None,
    ) -> Settings:
        """Create the settings from the weights files, and from the content of the file of a user's network."""
        hashes = [hashlib.sha256(read_weights(file) + code).hexdigest() for file in weights]
        combined = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        return cls(combined, precision, self_ensemble, quality, None if size is None else str(size), denoise)

    def origin(self, job: Job) -> Origin:
        """Return what the result of a job depends on: name, size and time of its source, and the settings.

        The source's folder is not part of it, so that images and results may be moved together.
        """
        stamp: Origin = {}
        if job.source is not None and job.stamp is not None:
            stamp = {"source": storage.split(job.source)[1], "size": job.stamp[0], "mtime_ns": job.stamp[1]}
        return {**stamp, **{name: value for name, value in asdict(self).items() if value is not None}}


def read_weights(file: Path) -> bytes:
    """Return the content of a weights file; OpenVINO's are a pair of ``.xml`` and ``.bin``."""
    files = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    return b"".join(each.read_bytes() for each in files)


def pending(jobs: Sequence[Job], settings: Settings) -> list[Job]:
    """Return the jobs whose results do not exist, are incomplete, or have another source or other settings.

    A result without any record is taken as done if it is not older than its source: it may be any user's file.
    """
    names = defaultdict(set)
    for job in jobs:
        if job.target is not None:
            folder, name = storage.split(job.target)
            names[folder].add(name)
    present = {folder: modification_times(folder, found) for folder, found in names.items()}
    records = {folder: read_records(folder) for folder in names}

    def is_done(job: Job) -> bool:
        if job.stamp is None or job.target is None:
            return False
        folder, name = storage.split(job.target)
        if name not in present[folder]:
            return False
        if name not in records[folder]:
            return present[folder][name] >= job.stamp[1]
        record, origin = records[folder][name], settings.origin(job)
        return record is not None and {"source": origin["source"], **record} == origin  # older records have no source

    return [job for job in jobs if not is_done(job)]


def modification_times(folder: Location, names: Iterable[str]) -> dict[str, int]:
    """Return the modification times, in nanoseconds, of those of ``names`` that exist in a folder."""
    if isinstance(folder, str):
        return storage.names_in(folder)
    return {name: (folder / name).stat().st_mtime_ns for name in names if (folder / name).exists()}


def read_records(folder: Location) -> dict[str, Origin | None]:
    """Read the manifest of a folder: the origins of its results by name, None for an incomplete one."""
    if isinstance(folder, Path):
        file = folder / f"{PREFIX}{SUFFIX}"
        text = file.read_text(errors="replace") if file.is_file() else ""
    else:
        parts = sorted(name for name in storage.names_in(folder) if name.startswith(PREFIX) and name.endswith(SUFFIX))
        text = "".join(storage.read(f"{folder}/{name}").decode(errors="replace") for name in parts)
    records: dict[str, Origin | None] = {}
    for line in text.splitlines():
        try:
            name, origin = json.loads(line)
        except (ValueError, TypeError):  # a line that was cut off when a run was killed
            continue
        if isinstance(name, str) and (origin is None or isinstance(origin, dict)):
            records[name] = origin
    return records


def write_records(records: Iterable[tuple[Location, Origin | None]]) -> None:
    """Append the origins of results to the manifests of their folders; None for a result that is begun.

    Raises:
        DataError: A manifest cannot be written.
    """
    lines = defaultdict(list)
    for target, origin in records:
        folder, name = storage.split(target)
        lines[folder].append(json.dumps([name, origin]) + "\n")
    for folder, added in lines.items():
        if isinstance(folder, Path):
            manifest = folder / f"{PREFIX}{SUFFIX}"
            with writing(manifest):
                make_folder(folder)
                with manifest.open("a") as file:
                    file.write("".join(added))
        else:
            storage.write(f"{folder}/{PREFIX}{time.time_ns():020d}.{SUFFIX}", "".join(added).encode())
