"""The HDF5 cache: the decoded images of one dataset at one scale in one file, so that training never decodes.

Layout, format version 1:

- ``lr/NAME`` and ``hr/NAME``: uint8 ``(h, w, 3)`` and ``(h * scale, w * scale, 3)`` RGB, contiguous.
- Attributes of the file: ``format`` (`FORMAT`), ``version``, ``scale``, ``dataset``.
- Attributes of ``lr`` and of ``hr``: ``source``, ``source_size`` (bytes), ``source_mtime_ns`` and ``source_checksum``
  (BLAKE2b, 128 bits) of the files that the images were decoded from, one entry per image in the order of the sorted
  names. An LR image whose ``source`` is empty was made from its HR image by `imresize`. (One list instead of thousands
  of small attributes: a cache of DF2K opens in a fraction of a second.)

A cache is never used silently when it is not what its sources are now: `PatchCache` compares size and time of every
source file that still exists, and, where only the time differs, its checksum. `prepare_cache` rebuilds a stale cache of
the same dataset and refuses to overwrite anything else.
"""

from __future__ import annotations

import hashlib
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
class Source:
    """The file that an image was decoded from, as it was then."""

    path: Path
    size: int
    mtime_ns: int
    checksum: str

    @classmethod
    def of(cls, path: Path, data: bytes) -> Source:
        """Describe a file whose content has just been read."""
        status = path.stat()
        return cls(path.resolve(), len(data), status.st_mtime_ns, _checksum(data))

    def changed(self) -> bool:
        """Whether the file is there with another content now; the checksum is compared only if the times differ."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        if status.st_size != self.size:
            return True
        return status.st_mtime_ns != self.mtime_ns and _checksum(read_bytes(self.path)) != self.checksum


def _record(sources: list[Source | None], attributes: Any) -> None:
    """Write the descriptions of a group's images into its attributes."""
    text = h5py.string_dtype()
    attributes.create("source", [str(source.path) if source else "" for source in sources], dtype=text)
    attributes.create("source_size", [source.size if source else 0 for source in sources], dtype=np.int64)
    attributes.create("source_mtime_ns", [source.mtime_ns if source else 0 for source in sources], dtype=np.int64)
    attributes.create("source_checksum", [source.checksum if source else "" for source in sources], dtype=text)


def _recorded(attributes: Any) -> list[Source]:
    """Read them back, those of images that come from a file."""
    keys = ("source", "source_size", "source_mtime_ns", "source_checksum")
    rows = zip(*(attributes[key].tolist() for key in keys), strict=True)
    return [Source(Path(path), size, mtime_ns, checksum) for path, size, mtime_ns, checksum in rows if path]


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class PatchCache:
    """A cache file, open for reading.

    Attributes:
        path: the file.
        dataset: the name of the dataset.
        scale: HR size / LR size.
        names: the images' names, sorted.
        lr: one array-like per image, uint8 ``(h, w, 3)``: views of one memory map of the file. In a file whose datasets
            are chunked or compressed (one that another program rewrote) they are h5py datasets; both are read by
            slicing.
        hr: the same, uint8 ``(h * scale, w * scale, 3)``.

    The object can be pickled into worker processes; each opens the file anew.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a cache.

        Raises:
            DataError: missing, no cache of ours, of another format version, or stale.
        """
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self.dataset = str(self._file.attrs["dataset"])
            self.scale = int(self._file.attrs["scale"])
            lr, hr = self._file["lr"], self._file["hr"]
            self.names: tuple[str, ...] = tuple(hr)
            self._sources = _recorded(hr.attrs) + _recorded(lr.attrs)
        except KeyError:
            self._file.close()
            raise DataError(f"the cache {self.path} is damaged: entries are missing; run: fmen data prepare") from None
        changed = next((source.path for source in self._sources if source.changed()), None)
        if changed:
            self._file.close()
            raise DataError(f"the cache {self.path} is stale: {changed} has changed since; run: fmen data prepare")
        self.lr, self.hr = self._map(lr), self._map(hr)

    def _map(self, group: Any) -> list[Any]:
        # h5py's low-level calls: its Dataset objects would take seconds for thousands of images.
        entries = [h5py.h5d.open(group.id, name.encode()) for name in self.names]
        offsets = [entry.get_offset() for entry in entries]  # None: chunked, its bytes lie in pieces
        if None in offsets:
            return [group[name] for name in self.names]
        flat = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
        views: list[npt.NDArray[np.uint8]] = []
        for entry, offset in zip(entries, offsets, strict=True):
            shape = entry.shape
            views.append(flat[offset : offset + math.prod(shape)].reshape(shape))
        return views

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[type[PatchCache], tuple[Path]]:
        return PatchCache, (self.path,)

    def belongs_to(self, dataset: PairDataset) -> bool:
        """Whether the cache holds exactly the images of this dataset, from the same files."""
        wanted = {file.resolve() for pair in dataset.pairs for file in (pair.hr, pair.lr) if file}
        same = self.scale == dataset.scale and self.names == tuple(sorted(pair.name for pair in dataset.pairs))
        return same and wanted == {source.path for source in self._sources}

    def close(self) -> None:
        """Close the file; arrays of a memory map stay valid."""
        self._file.close()


def _open(path: Path) -> Any:
    """Open an HDF5 file and check that it is a cache of this format version."""
    if not path.is_file():
        raise DataError(f"no cache at {path}; make it with: fmen data prepare")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path} is no image cache (not an HDF5 file, or truncated); remove it or name another file"
        ) from error
    if file.attrs.get("format") != FORMAT:
        file.close()
        raise DataError(f"{path} is no image cache of ours but another HDF5 file; name another file")
    version = int(file.attrs.get("version", 0))
    if version != VERSION:
        file.close()
        raise DataError(f"the cache {path} has format version {version}, not {VERSION}; run: fmen data prepare")
    return file


def default_cache_path(dataset: PairDataset) -> Path:
    """Where a dataset's cache lies: in ``$FMEN_CACHE`` or else ``~/.cache/fmen``; a name per set of files and scale."""
    folder = Path(os.environ.get("FMEN_CACHE") or Path.home() / ".cache" / "fmen")
    files = "\n".join(f"{pair.hr.resolve()}\t{pair.lr and pair.lr.resolve()}" for pair in dataset.pairs)
    return folder / f"{dataset.name}-x{dataset.scale}-{_checksum(files.encode())[:8]}.h5"


def prepare_cache(
    dataset: PairDataset, path: str | Path | None = None, *, workers: int | None = None, progress: bool = True
) -> Path:
    """Make sure that a current cache of the dataset exists, and say where.

    Images are read in parallel and written one after the other into a temporary file, which becomes the cache when it
    is whole. A cache that is current is left alone; a stale one of the same dataset and scale is rebuilt.

    Args:
        dataset: what to decode.
        path: the cache file; by default `default_cache_path`.
        workers: reading threads; by default one per core.
        progress: show a progress bar on stderr.

    Raises:
        DataError: an image is at fault, the place is taken by a file that is no cache of this dataset, or the disk is
            full.
    """
    path = default_cache_path(dataset) if path is None else Path(path)
    if path.exists() and _is_current(path, dataset):
        return path
    _require_space(path, dataset)
    try:
        with atomic_write(path) as temporary:
            _build(temporary, dataset, workers or os.cpu_count() or 1, progress)
    except (OSError, RuntimeError) as error:  # h5py reports a failed flush as RuntimeError
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"cannot write the cache {path}: {reason}; free some space or set FMEN_CACHE to another disk"
        ) from error
    return path


def _is_current(path: Path, dataset: PairDataset) -> bool:
    """Whether the file is this dataset's cache and up to date; ``False``: it may be rebuilt.

    Raises:
        DataError: something else is there.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is there and no image cache; remove it or name another file") from error
    with file:
        owner = (file.attrs.get("format"), str(file.attrs.get("dataset")), int(file.attrs.get("scale", 0)))
    if owner[0] != FORMAT:
        raise DataError(f"{path} is there and no image cache of ours; remove it or name another file")
    if owner[1:] != (dataset.name, dataset.scale):
        raise DataError(
            f"{path} is the cache of {owner[1]} at scale {owner[2]}, not of {dataset.name} at scale {dataset.scale}; "
            "remove it or name another file"
        )
    try:
        cache = PatchCache(path)
    except DataError:
        return False
    cache.close()
    return cache.belongs_to(dataset)


def _require_space(path: Path, dataset: PairDataset) -> None:
    """Compare what the cache will take, known from the images' headers, with the free space, before any work."""
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
    """One pair, ready to be written; ``lr_source`` is ``None`` for an LR image made from HR."""

    name: str
    lr: Image
    hr: Image
    hr_source: Source
    lr_source: Source | None


def _decode(pair: Pair, scale: int) -> _Decoded:
    hr_data = read_bytes(pair.hr)
    hr_source, hr = Source.of(pair.hr, hr_data), decode_image(hr_data, pair.hr)
    lr, lr_source = None, None
    if pair.lr is not None:
        lr_data = read_bytes(pair.lr)
        lr_source, lr = Source.of(pair.lr, lr_data), decode_image(lr_data, pair.lr)
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


def _build(path: Path, dataset: PairDataset, workers: int, progress: bool) -> None:
    # The newest file layout keeps the index of thousands of images small and quick to open.
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "scale": dataset.scale, "dataset": dataset.name})
        lr, hr = file.create_group("lr"), file.create_group("hr")
        images = tqdm(
            _decode_all(dataset, workers),
            f"cache {dataset.name} x{dataset.scale}",
            len(dataset),
            unit="image",
            disable=not progress,
        )
        sources: dict[str, tuple[Source | None, Source | None]] = {}
        for image in images:
            hr.create_dataset(image.name, data=image.hr)
            lr.create_dataset(image.name, data=image.lr)
            sources[image.name] = image.hr_source, image.lr_source
        _record([sources[name][0] for name in sorted(sources)], hr.attrs)
        _record([sources[name][1] for name in sorted(sources)], lr.attrs)
