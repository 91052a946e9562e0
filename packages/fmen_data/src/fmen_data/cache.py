"""The HDF5 cache: the decoded images of one dataset at one scale in one file, so that training does not decode images.

Layout, format version 2:

- ``lr/NAME`` and ``hr/NAME``: uint8 ``(h, w, 3)`` and ``(h * scale, w * scale, 3)`` RGB, contiguous.
- ``index``: uint8 ``(n,)``, JSON: ``{"names": [...], "lr": [...], "hr": [...]}``, sorted by name. ``lr`` and ``hr``
  have one row per image: the checksum of its pixels and, of the file that it was decoded from, the path, size (bytes),
  modification time (ns) and checksum. The last four are empty for an LR image that was made by `imresize`.
  An optional ``"skipped"`` names the images that were left out, with the reason and the files as they were.
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

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .cache_index import Skipped, checksum, read_sources
from .datasets import PairDataset
from .errors import DataError

FORMAT = "fmen image cache"
VERSION = 2

_HDF5_ERRORS = (KeyError, TypeError, ValueError, AttributeError, OSError, RuntimeError)  # of h5py about a damaged file


class PatchCache:
    """A cache file, open for reading.

    Attributes:
        path: The file.
        dataset: Name of the dataset.
        scale: HR size / LR size.
        names: Names of the images, sorted.
        skipped: The images of the dataset that were left out.
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
        self.skipped = tuple(Skipped.from_dict(entry) for entry in index.get("skipped", ()))
        self._sources += [source for skipped in self.skipped for source in skipped.files]
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
        return PatchCache, (self.path.absolute(),)  # a worker may have another working folder

    def belongs_to(self, dataset: PairDataset) -> bool:
        """Return whether the cache was made from exactly the images of this dataset, counting those left out."""
        wanted = {file.resolve() for pair in dataset.pairs for file in (pair.hr, pair.lr) if file}
        names = sorted([*self.names, *(skipped.name for skipped in self.skipped)])
        same = self.scale == dataset.scale and names == sorted(pair.name for pair in dataset.pairs)
        return same and wanted == {source.path for source in self._sources}

    def close(self) -> None:
        """Close the file; arrays of a memory map stay valid."""
        self._file.close()


def _open(path: Path) -> Any:
    """Open a cache file and check that it is of this format version."""
    if not path.is_file():
        raise DataError(f"no cache at {path}; make it with: fmen data prepare")
    file = open_any_version(path)
    version = attribute(file, "version")
    if version != VERSION:
        file.close()
        raise DataError(f"the cache {path} has format version {version}, not {VERSION}; run: fmen data prepare")
    return file


def open_any_version(path: Path) -> Any:
    """Open a cache file of any format version.

    Raises:
        DataError: The file is not a cache.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path} is not an image cache (not an HDF5 file, or truncated); remove it or name another file"
        ) from error
    if attribute(file, "format") != FORMAT:
        file.close()
        raise DataError(f"{path} is not an image cache but another HDF5 file; name another file")
    return file


def attribute(file: Any, name: str) -> Any:
    """Return an attribute of a file; None if it is missing or damaged."""
    try:
        value = file.attrs.get(name)
        return _text(value) if isinstance(value, (bytes, str)) else value
    except _HDF5_ERRORS:
        return None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
