"""Decode a dataset into an HDF5 cache; ``cache.py`` describes the file."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from .atomic import atomic_write
from .bicubic import Image
from .cache import FORMAT, VERSION, PatchCache, attribute, open_any_version
from .cache_index import Skipped, SourceFile, checksum, index_row
from .datasets import Pair, PairDataset, check_pair_sizes, match_pair
from .errors import DataError, raise_all
from .images import decode_image, read_bytes

_SAMPLED = 8  # images whose checksums `prepare_cache` compares when it does not verify all of them


def default_cache_path(dataset: PairDataset) -> Path:
    """Return a dataset's cache path in ``$FMEN_CACHE`` or ``~/.cache/fmen``, unique per set of files and scale."""
    folder = Path(os.environ.get("FMEN_CACHE") or Path.home() / ".cache" / "fmen")
    files = "\n".join(f"{pair.hr.resolve()}\t{pair.lr and pair.lr.resolve()}" for pair in dataset.pairs)
    return folder / f"{dataset.name}-x{dataset.scale}-{checksum(os.fsencode(files))[:8]}.h5"


def prepare_cache(
    dataset: PairDataset,
    path: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    verify: bool = False,
    on_skip: Callable[[str], None] | None = None,
) -> Path:
    """Make an up-to-date cache of the dataset unless there is one, and return its path.

    Images are decoded in parallel and written one after the other into a temporary file, which becomes the cache when
    it is complete. An up-to-date cache is left unchanged; a stale or damaged one of the same dataset and scale is
    rebuilt.

    Args:
        dataset: The dataset to decode.
        path: The cache file. The default is `default_cache_path`.
        workers: Number of decoding threads. The default is one per core.
        progress: Show a progress bar on stderr.
        verify: Compare the checksums of all images of an existing cache, instead of those of a few.
        on_skip: If given, images that cannot be used are left out, and this is called with one line about each.

    Raises:
        DataError: Images cannot be used (all are named), ``path`` is another file, or the cache cannot be written.
    """
    require_utf8(dataset.name, dataset.pairs[0].hr.parent)
    path = default_cache_path(dataset) if path is None else Path(path)
    skipped = _skipped_if_current(path, dataset, verify) if path.exists() else None
    if skipped and on_skip is None:
        skipped = None  # an image may not be left out; decoding names them all
    if skipped is None:
        _require_space(path, dataset)
        skipped = _write(path, dataset, workers or os.cpu_count() or 1, progress, skip=on_skip is not None)
    for image in skipped:
        assert on_skip is not None
        on_skip(image.problem)
    return path


def _write(path: Path, dataset: PairDataset, workers: int, progress: bool, *, skip: bool) -> list[Skipped]:
    """Write the cache, and return the images that are left out of it."""
    try:
        with atomic_write(path) as temporary:
            return _build(temporary, dataset, workers, progress, skip=skip)
    except OSError as error:
        if error.filename is None or Path(error.filename) not in (path, *path.parents):
            raise  # not from writing the cache
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = (
            "free some space or set FMEN_CACHE to another disk" if full else "choose another file or set FMEN_CACHE"
        )
        raise DataError(f"cannot write the cache {path}: {error.strerror}; {remedy}") from error


def _skipped_if_current(path: Path, dataset: PairDataset, verify: bool) -> list[Skipped] | None:
    """Return what an existing file left out if it is this dataset's cache and up to date, None if it may be rebuilt.

    Raises:
        DataError: The file is something else.
    """
    with open_any_version(path) as file:
        name, scale = attribute(file, "dataset"), attribute(file, "scale")
    if None not in (name, scale) and (name, scale) != (dataset.name, dataset.scale):
        raise DataError(
            f"{path} is the cache of {name} at scale {scale}, not of {dataset.name} at scale {dataset.scale}; "
            "remove it or name another file"
        )
    try:
        with closing(PatchCache(path)) as cache:
            step = 1 if verify else max(1, len(cache) // _SAMPLED)
            for index in range(0, len(cache), step):
                cache.check(index)
            return list(cache.skipped) if cache.belongs_to(dataset) else None
    except DataError:
        return None


def _require_space(path: Path, dataset: PairDataset) -> None:
    """Compare the size of the cache, known from the images' headers, with the free space before any work."""
    needed = 0
    for pair in dataset.pairs:
        try:
            height, width = check_pair_sizes(pair, dataset.scale)
        except DataError:  # decoding names it, with all others
            continue
        needed += 3 * height * width * (1 + dataset.scale**2)
    folder = next(parent for parent in path.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the cache {path} takes {needed / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB free; "
            "free some space or set FMEN_CACHE to another disk"
        )


@dataclass(frozen=True)
class _Decoded:
    """A decoded pair; ``lr_source`` is ``None`` for an LR image made from HR."""

    name: str
    lr: Image
    hr: Image
    hr_source: SourceFile
    lr_source: SourceFile | None


def require_utf8(name: str, path: Path) -> None:
    """Raise DataError if ``name``, which a cache contains, is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="replace")
        raise DataError(f"{shown}: the name is not UTF-8; rename it") from error


def _decode(pair: Pair, scale: int) -> _Decoded:
    require_utf8(pair.name, pair.hr)
    hr_data = read_bytes(pair.hr)
    hr_source, hr = SourceFile.of(pair.hr, hr_data), decode_image(hr_data, pair.hr)
    lr, lr_source = None, None
    if pair.lr is not None:
        lr_data = read_bytes(pair.lr)
        lr_source, lr = SourceFile.of(pair.lr, lr_data), decode_image(lr_data, pair.lr)
    lr, hr = match_pair(hr, lr, pair, scale)
    return _Decoded(pair.name, lr, hr, hr_source, lr_source)


def _decode_all(dataset: PairDataset, workers: int) -> Iterator[_Decoded | Skipped]:
    """Decode in threads (OpenCV, NumPy and hashlib release the GIL), in order, a few images ahead of the writer."""
    pending: deque[tuple[Pair, Future[_Decoded]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for pair in dataset.pairs:
            pending.append((pair, pool.submit(_decode, pair, dataset.scale)))
            if len(pending) > 2 * workers:
                yield _decoded(*pending.popleft())
        while pending:
            yield _decoded(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decoded(pair: Pair, decoding: Future[_Decoded]) -> _Decoded | Skipped:
    """Return the decoded pair, or what is wrong with it."""
    try:
        return decoding.result()
    except DataError as error:
        return Skipped.of(pair, str(error))


class _Output(io.FileIO):
    """A file for HDF5 to write to. The first error is recorded and everything after it is dropped.

    HDF5 does not survive a write that fails: closing the file prints tracebacks and may crash the process.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        length = len(rest)
        try:
            while self.error is None and rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return length

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _build(path: Path, dataset: PairDataset, workers: int, progress: bool, *, skip: bool) -> list[Skipped]:
    """Write the cache file, and return the images that are left out of it.

    Raises:
        DataError: An image cannot be used and ``skip`` is False, or none can be used; all are named.
        OSError: The file cannot be written.
    """
    images = tqdm(
        _decode_all(dataset, workers),
        f"cache {dataset.name} x{dataset.scale}",
        len(dataset),
        unit="image",
        disable=not progress,
    )
    # The newest file layout makes the index of thousands of images small and fast to open.
    with _Output(path, "w+") as output:
        with h5py.File(output, "w", libver="latest") as file:
            lr, hr = file.create_group("lr"), file.create_group("hr")
            rows: dict[str, tuple[list[str | int], list[str | int]]] = {}
            skipped: list[Skipped] = []
            for image in images:
                if isinstance(image, Skipped):
                    skipped.append(image)
                    continue
                hr.create_dataset(image.name, data=image.hr)
                lr.create_dataset(image.name, data=image.lr)
                rows[image.name] = index_row(image.lr, image.lr_source), index_row(image.hr, image.hr_source)
                if output.error:
                    break
            if not (skip and rows):
                raise_all([image.problem for image in skipped])
            names = sorted(rows)
            index = {"names": names, "lr": [rows[name][0] for name in names], "hr": [rows[name][1] for name in names]}
            content = json.dumps(index | {"skipped": [image.to_dict() for image in skipped]}).encode()
            file.create_dataset("index", data=np.frombuffer(content, np.uint8))
            text = {"format": FORMAT, "dataset": dataset.name, "index_checksum": checksum(content)}
            file.attrs.update({key: np.bytes_(value.encode()) for key, value in text.items()})
            file.attrs.update({"version": VERSION, "scale": dataset.scale})
        if output.error:
            raise output.error
    return skipped
