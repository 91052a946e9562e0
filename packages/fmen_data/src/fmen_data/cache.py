"""The HDF5 cache: the decoded images of one dataset at one scale in one file, so that training does not decode images.

Layout, format version 2:

- ``lr/NAME`` and ``hr/NAME``: uint8 ``(h, w, 3)`` and ``(h * scale, w * scale, 3)`` RGB, contiguous.
- ``index``: uint8 ``(n,)``, JSON: ``{"names": [...], "lr": [...], "hr": [...]}``, sorted by name. ``lr`` and ``hr``
  have one row per image: the checksum of its pixels and, of the file that it was decoded from, the path, size (bytes),
  modification time (ns) and checksum. The last four are empty for an LR image that was made by `imresize`.
- Attributes of the file: ``format`` (`FORMAT`), ``version``, ``scale``, ``dataset``, ``index_checksum``.

Every checksum is BLAKE2b of 128 bits. Texts have a fixed length: HDF5 has checksums for its metadata, but not for texts
of variable length, and a damaged one can make it loop forever.

`PatchSampler` compares the checksum of an image before it takes the first patch from it, `prepare_cache` those of a few
images, or of all of them with ``verify``.

A stale cache is never used. `PatchCache` compares size and time of every source file that still exists and, if only the
time differs, its checksum. `prepare_cache` rebuilds a stale cache of the same dataset and does not overwrite any other
file.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .atomic import atomic_write
from .bicubic import Image
from .cache_index import SourceFile, checksum, index_row, read_sources
from .datasets import Pair, PairDataset, check_pair_sizes, match_pair
from .errors import DataError, raise_all
from .images import decode_image, read_bytes

FORMAT = "fmen image cache"
VERSION = 2

_SAMPLED = 8  # images whose checksums `prepare_cache` compares when it does not verify all of them
_HDF5_ERRORS = (KeyError, TypeError, ValueError, AttributeError, OSError, RuntimeError)  # of h5py about a damaged file


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
        except BaseException as error:
            self._file.close()
            if isinstance(error, _HDF5_ERRORS) and not isinstance(error, DataError):
                raise self._damaged("an attribute or group is missing or malformed") from error
            raise

    def _load(self) -> None:
        self.dataset = _text(self._file.attrs["dataset"])
        self.scale = int(self._file.attrs["scale"])
        content = self._file["index"][()].tobytes()
        if checksum(content) != _text(self._file.attrs["index_checksum"]):
            raise self._damaged("the checksum of its index is wrong")
        index = json.loads(content)
        lr, hr = self._file["lr"], self._file["hr"]
        self.names: tuple[str, ...] = tuple(index["names"])
        self._checksums = {kind: [row[0] for row in index[kind]] for kind in ("lr", "hr")}
        self._sources = read_sources(index["hr"]) + read_sources(index["lr"])
        if changed := next((source.path for source in self._sources if source.changed()), None):
            raise DataError(f"the cache {self.path} is stale: {changed} has changed; run: fmen data prepare")
        if unpaired := sorted((set(lr) ^ set(self.names)) | (set(hr) ^ set(self.names))):
            raise self._damaged(f"image {unpaired[0]} is not in lr, hr and the index")
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

    def check(self, index: int) -> None:
        """Compare the pixels of one image, LR and HR, with their checksums.

        Raises:
            DataError: They differ.
        """
        for kind, images in (("lr", self.lr), ("hr", self.hr)):
            try:
                found = checksum(np.ascontiguousarray(images[index][:]).data)
            except OSError:  # a damaged chunk
                found = ""
            if found != self._checksums[kind][index]:
                raise self._damaged(f"the pixels of {kind}/{self.names[index]} do not match their checksum")

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
    version = _attribute(file, "version")
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
    if _attribute(file, "format") != FORMAT:
        file.close()
        raise DataError(f"{path} is not an image cache but another HDF5 file; name another file")
    return file


def _attribute(file: Any, name: str) -> Any:
    """An attribute of a file; None if it is missing or damaged."""
    try:
        value = file.attrs.get(name)
        return _text(value) if isinstance(value, (bytes, str)) else value
    except _HDF5_ERRORS:
        return None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def default_cache_path(dataset: PairDataset) -> Path:
    """Return a dataset's cache path in ``$FMEN_CACHE`` or ``~/.cache/fmen``, unique per set of files and scale."""
    folder = Path(os.environ.get("FMEN_CACHE") or Path.home() / ".cache" / "fmen")
    files = "\n".join(f"{pair.hr.resolve()}\t{pair.lr and pair.lr.resolve()}" for pair in dataset.pairs)
    return folder / f"{dataset.name}-x{dataset.scale}-{checksum(files.encode())[:8]}.h5"


def prepare_cache(
    dataset: PairDataset,
    path: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    verify: bool = False,
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

    Raises:
        DataError: Images cannot be used (all are named), ``path`` is another file, or the cache cannot be written.
    """
    path = default_cache_path(dataset) if path is None else Path(path)
    if path.exists() and _is_current(path, dataset, verify):
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


def _is_current(path: Path, dataset: PairDataset, verify: bool) -> bool:
    """Return whether an existing file is this dataset's cache and up to date, or else may be rebuilt.

    Raises:
        DataError: The file is something else.
    """
    with _open_any_version(path) as file:
        name, scale = _attribute(file, "dataset"), _attribute(file, "scale")
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
            return cache.belongs_to(dataset)
    except DataError:
        return False


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
    """Decode in threads (OpenCV, NumPy and hashlib release the GIL), in order, a few images ahead of the writer.

    The ``DataError`` that names all images that cannot be used comes after the last image.
    """
    problems: list[str] = []
    pending: deque[Future[_Decoded]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for pair in dataset.pairs:
            pending.append(pool.submit(_decode, pair, dataset.scale))
            if len(pending) > 2 * workers:
                yield from _sound(pending.popleft(), problems)
        while pending:
            yield from _sound(pending.popleft(), problems)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    raise_all(problems)


def _sound(decoding: Future[_Decoded], problems: list[str]) -> Iterator[_Decoded]:
    """Yield the decoded pair, or add what is wrong with it to the problems."""
    try:
        yield decoding.result()
    except DataError as error:
        problems.append(str(error))


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
            lr, hr = file.create_group("lr"), file.create_group("hr")
            rows: dict[str, tuple[list[str | int], list[str | int]]] = {}
            for image in images:
                hr.create_dataset(image.name, data=image.hr)
                lr.create_dataset(image.name, data=image.lr)
                rows[image.name] = index_row(image.lr, image.lr_source), index_row(image.hr, image.hr_source)
                if output.error:
                    break
            names = sorted(rows)
            index = {"names": names, "lr": [rows[name][0] for name in names], "hr": [rows[name][1] for name in names]}
            content = json.dumps(index).encode()
            file.create_dataset("index", data=np.frombuffer(content, np.uint8))
            text = {"format": FORMAT, "dataset": dataset.name, "index_checksum": checksum(content)}
            file.attrs.update({key: np.bytes_(value.encode()) for key, value in text.items()})
            file.attrs.update({"version": VERSION, "scale": dataset.scale})
        if output.error:
            raise output.error
