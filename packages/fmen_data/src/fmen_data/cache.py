"""The HDF5 cache: the decoded images of one dataset at one scale in one file, so that training does not decode images.

Layout, format version 1:

- ``lr/NAME`` and ``hr/NAME``: uint8 ``(h, w, 3)`` and ``(h * scale, w * scale, 3)`` RGB, contiguous.
- Attributes of the file: ``format`` (`FORMAT`), ``version``, ``scale``, ``dataset``.
- Attributes of ``lr`` and of ``hr``: ``source``, ``source_size`` (bytes), ``source_mtime_ns`` and ``source_checksum``
  (BLAKE2b, 128 bits) of the files that the images were decoded from, one entry per image, sorted by name. An LR image
  whose ``source`` is empty was made from its HR image by `imresize`. (With one list instead of thousands of small
  attributes a cache of DF2K opens in a fraction of a second.)

A stale cache is never used. `PatchCache` compares size and time of every source file that still exists and, if only the
time differs, its checksum. `prepare_cache` rebuilds a stale cache of the same dataset and does not overwrite any other
file.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .atomic import atomic_write
from .bicubic import Image
from .datasets import Pair, PairDataset, check_pair_sizes, match_pair
from .errors import DataError
from .images import decode_image, read_bytes

FORMAT = "fmen image cache"
VERSION = 1


@dataclass(frozen=True)
class SourceFile:
    """The file that an image was decoded from, as it was at that time."""

    path: Path
    size: int
    mtime_ns: int
    checksum: str

    @classmethod
    def of(cls, path: Path, data: bytes) -> SourceFile:
        """Describe a file whose content has just been read."""
        return cls(path.resolve(), len(data), path.stat().st_mtime_ns, _checksum(data))

    def changed(self) -> bool:
        """Return whether the file exists with another content; the checksum is compared only if the times differ."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        if status.st_size != self.size:
            return True
        return status.st_mtime_ns != self.mtime_ns and _checksum(read_bytes(self.path)) != self.checksum


def _record(sources: list[SourceFile | None], attributes: Any) -> None:
    """Write the descriptions of a group's source files into its attributes."""
    text = h5py.string_dtype()
    attributes.create("source", [str(source.path) if source else "" for source in sources], dtype=text)
    attributes.create("source_size", [source.size if source else 0 for source in sources], dtype=np.int64)
    attributes.create("source_mtime_ns", [source.mtime_ns if source else 0 for source in sources], dtype=np.int64)
    attributes.create("source_checksum", [source.checksum if source else "" for source in sources], dtype=text)


def _recorded(attributes: Any) -> list[SourceFile]:
    """Read the descriptions back, except those of images that were made."""
    keys = ("source", "source_size", "source_mtime_ns", "source_checksum")
    rows = zip(*(attributes[key].tolist() for key in keys), strict=True)
    return [SourceFile(Path(path), size, mtime_ns, checksum) for path, size, mtime_ns, checksum in rows if path]


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class PatchCache:
    """A cache file, open for reading.

    Attributes:
        path: The file.
        dataset: Name of the dataset.
        scale: HR size / LR size.
        names: Names of the images, sorted.
        lr: One array-like per image, uint8 ``(h, w, 3)``: views of one memory map of the file. In a file whose datasets
            are chunked or compressed (another program rewrote it) they are h5py datasets. Both are read by slicing.
        hr: The same, uint8 ``(h * scale, w * scale, 3)``.

    The object can be pickled into worker processes; each opens the file anew.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a cache.

        Raises:
            DataError: The file is missing, stale, damaged, of another format version, or not a cache.
        """
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self._load()
        except BaseException:
            self._file.close()
            raise

    def _load(self) -> None:
        try:
            self.dataset = str(self._file.attrs["dataset"])
            self.scale = int(self._file.attrs["scale"])
            lr, hr = self._file["lr"], self._file["hr"]
            self.names: tuple[str, ...] = tuple(hr)
            self._sources = _recorded(hr.attrs) + _recorded(lr.attrs)
        except (KeyError, TypeError, ValueError):
            raise self._damaged("an attribute or group is missing or malformed") from None
        if changed := next((source.path for source in self._sources if source.changed()), None):
            raise DataError(f"the cache {self.path} is stale: {changed} has changed; run: fmen data prepare")
        if unpaired := sorted(set(lr) ^ set(self.names)):
            raise self._damaged(f"image {unpaired[0]} is not in both lr and hr")
        self.lr, self.hr = self._images(lr), self._images(hr)
        for name, small, large in zip(self.names, self.lr, self.hr, strict=True):
            if large.shape[:2] != (small.shape[0] * self.scale, small.shape[1] * self.scale):
                raise self._damaged(f"image {name} is {small.shape} in lr and {large.shape} in hr")

    def _images(self, group: Any) -> list[Any]:
        # h5py's low-level calls: creating its Dataset objects would take seconds for thousands of images.
        entries = []
        for name in self.names:
            try:
                entry = h5py.h5d.open(group.id, name.encode())
            except KeyError:
                raise self._damaged(f"{group.name}/{name} is not an image") from None
            if entry.dtype != np.uint8 or entry.rank != 3 or entry.shape[2] != 3:
                raise self._damaged(f"{group.name}/{name} is {entry.dtype} {entry.shape}, not uint8 (h, w, 3)")
            entries.append(entry)
        offsets = [entry.get_offset() for entry in entries]  # None: chunked
        if None in offsets:
            return [group[name] for name in self.names]
        flat = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
        views: list[npt.NDArray[np.uint8]] = []
        for entry, offset in zip(entries, offsets, strict=True):
            shape = entry.shape
            views.append(flat[offset : offset + math.prod(shape)].reshape(shape))
        return views

    def _damaged(self, what: str) -> DataError:
        return DataError(f"the cache {self.path} is damaged: {what}; run: fmen data prepare")

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[type[PatchCache], tuple[Path]]:
        return PatchCache, (self.path,)

    def belongs_to(self, dataset: PairDataset) -> bool:
        """Return whether the cache holds exactly the images of this dataset, from the same files."""
        wanted = {file.resolve() for pair in dataset.pairs for file in (pair.hr, pair.lr) if file}
        same = self.scale == dataset.scale and self.names == tuple(sorted(pair.name for pair in dataset.pairs))
        return same and wanted == {source.path for source in self._sources}

    def close(self) -> None:
        """Close the file; arrays of a memory map stay valid."""
        self._file.close()


def _open(path: Path) -> Any:
    """Open a cache file and check that it is of this format version."""
    if not path.is_file():
        raise DataError(f"no cache at {path}; make it with: fmen data prepare")
    file = _open_any_version(path)
    version = file.attrs.get("version")
    if version != VERSION:
        file.close()
        raise DataError(f"the cache {path} has format version {version}, not {VERSION}; run: fmen data prepare")
    return file


def _open_any_version(path: Path) -> Any:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path} is not an image cache (not an HDF5 file, or truncated); remove it or name another file"
        ) from error
    if file.attrs.get("format") != FORMAT:
        file.close()
        raise DataError(f"{path} is not an image cache but another HDF5 file; name another file")
    return file


def default_cache_path(dataset: PairDataset) -> Path:
    """Return a dataset's cache path in ``$FMEN_CACHE`` or ``~/.cache/fmen``, unique per set of files and scale."""
    folder = Path(os.environ.get("FMEN_CACHE") or Path.home() / ".cache" / "fmen")
    files = "\n".join(f"{pair.hr.resolve()}\t{pair.lr and pair.lr.resolve()}" for pair in dataset.pairs)
    return folder / f"{dataset.name}-x{dataset.scale}-{_checksum(files.encode())[:8]}.h5"


def prepare_cache(
    dataset: PairDataset, path: str | Path | None = None, *, workers: int | None = None, progress: bool = True
) -> Path:
    """Make an up-to-date cache of the dataset unless there is one, and return its path.

    Images are decoded in parallel and written one after the other into a temporary file, which becomes the cache when
    it is complete. An up-to-date cache is left unchanged; a stale one of the same dataset and scale is rebuilt.

    Args:
        dataset: The dataset to decode.
        path: The cache file. The default is `default_cache_path`.
        workers: Number of decoding threads. The default is one per core.
        progress: Show a progress bar on stderr.

    Raises:
        DataError: An image cannot be used, ``path`` is another file, or the cache cannot be written.
    """
    path = default_cache_path(dataset) if path is None else Path(path)
    if path.exists() and _is_current(path, dataset):
        return path
    _require_space(path, dataset)
    try:
        with atomic_write(path) as temporary:
            _build(temporary, dataset, workers or os.cpu_count() or 1, progress)
    except OSError as error:
        if error.filename is None or Path(error.filename) not in (path, *path.parents):
            raise  # not from writing the cache
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = (
            "free some space or set FMEN_CACHE to another disk" if full else "choose another file or set FMEN_CACHE"
        )
        raise DataError(f"cannot write the cache {path}: {error.strerror}; {remedy}") from error
    return path


def _is_current(path: Path, dataset: PairDataset) -> bool:
    """Return whether an existing file is this dataset's cache and up to date, or else may be rebuilt.

    Raises:
        DataError: The file is something else.
    """
    with _open_any_version(path) as file:
        name, scale = file.attrs.get("dataset"), file.attrs.get("scale")
    if (name, scale) != (dataset.name, dataset.scale):
        raise DataError(
            f"{path} is the cache of {name} at scale {scale}, not of {dataset.name} at scale {dataset.scale}; "
            "remove it or name another file"
        )
    try:
        cache = PatchCache(path)
    except DataError:
        return False
    cache.close()
    return cache.belongs_to(dataset)


def _require_space(path: Path, dataset: PairDataset) -> None:
    """Compare the size of the cache, known from the images' headers, with the free space before any work."""
    needed = 0
    for pair in dataset.pairs:
        height, width = check_pair_sizes(pair, dataset.scale)
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


def _decode(pair: Pair, scale: int) -> _Decoded:
    hr_data = read_bytes(pair.hr)
    hr_source, hr = SourceFile.of(pair.hr, hr_data), decode_image(hr_data, pair.hr)
    lr, lr_source = None, None
    if pair.lr is not None:
        lr_data = read_bytes(pair.lr)
        lr_source, lr = SourceFile.of(pair.lr, lr_data), decode_image(lr_data, pair.lr)
    lr, hr = match_pair(hr, lr, pair, scale)
    return _Decoded(pair.name, lr, hr, hr_source, lr_source)


def _decode_all(dataset: PairDataset, workers: int) -> Iterator[_Decoded]:
    """Decode in threads (OpenCV, NumPy and hashlib release the GIL), in order, a few images ahead of the writer."""
    pending: deque[Future[_Decoded]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for pair in dataset.pairs:
            pending.append(pool.submit(_decode, pair, dataset.scale))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _build(path: Path, dataset: PairDataset, workers: int, progress: bool) -> None:
    """Write the cache file.

    Raises:
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
            file.attrs.update({"format": FORMAT, "version": VERSION, "scale": dataset.scale, "dataset": dataset.name})
            lr, hr = file.create_group("lr"), file.create_group("hr")
            sources: dict[str, tuple[SourceFile | None, SourceFile | None]] = {}
            for image in images:
                hr.create_dataset(image.name, data=image.hr)
                lr.create_dataset(image.name, data=image.lr)
                sources[image.name] = image.hr_source, image.lr_source
                if output.error:
                    break
            _record([sources[name][0] for name in sorted(sources)], hr.attrs)
            _record([sources[name][1] for name in sorted(sources)], lr.attrs)
        if output.error:
            raise output.error
