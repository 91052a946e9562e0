"""Datasets of LR/HR pairs as they lie on disk.

`open_dataset` recognises, in this order:

- ``"sample"``: the built-in photographs (`fmen_data.sample`);
- two folders given by name, ``(hr_folder, lr_folder)``;
- DIV2K's and Flickr2K's own layout, in the folder itself or in ``DIV2K/`` and ``Flickr2K/`` below it. A training set
  joins the two where both are there (DF2K); the validation set is ``DIV2K_valid_HR``, or ``DIV2K_LSDIR_valid_HR`` with
  ``DIV2K_LSDIR_valid_LR``, the NTIRE challenge's;
- the EDSR benchmark layout: ``HR/NAME.png`` and ``LR_bicubic/X4/NAMEx4.png``; it is the same set for either split;
- a plain folder of HR images; it is the same set for either split.

Where the LR folder of the scale is missing, the LR images are made from the HR images with `fmen_data.imresize`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from .bicubic import Image, imresize
from .errors import DataError
from .images import image_size, list_images, read_image
from .sample import sample_images

Split = Literal["train", "val"]
SCALES = (2, 3, 4)

Source: TypeAlias = str | Path | tuple[str | Path, str | Path]
"""A dataset folder, ``"sample"``, or the two folders ``(hr, lr)``."""


def parse_source(source: str) -> Source:
    """A source as the command line and recipes write it: ``sample``, a dataset folder, or ``HR_DIR,LR_DIR``."""
    hr, comma, lr = source.partition(",")
    if comma and not Path(source).exists():
        return Path(hr.strip()), Path(lr.strip())
    return source


@dataclass(frozen=True)
class Pair:
    """One image of a dataset: its name, its HR file and its LR file (``None``: made by `imresize`)."""

    name: str
    hr: Path
    lr: Path | None = None


@dataclass(frozen=True)
class PairDataset:
    """The image pairs of one dataset, at one scale and of one split, in the order of their names."""

    name: str
    scale: int
    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[str, Image, Image]]:
        """Yield ``(name, lr, hr)``, each image read when its turn comes."""
        for index, pair in enumerate(self.pairs):
            yield pair.name, *self.read(index)

    def read(self, index: int) -> tuple[Image, Image]:
        """Read one pair.

        Returns:
            LR uint8 ``(h, w, 3)`` and HR uint8 ``(h * scale, w * scale, 3)``, both RGB. HR is cropped to a multiple of
            the scale from the bottom and right.

        Raises:
            DataError: a file cannot be read, or LR and HR do not match in size.
        """
        pair = self.pairs[index]
        return match_pair(read_image(pair.hr), None if pair.lr is None else read_image(pair.lr), pair, self.scale)


def match_pair(hr: Image, lr: Image | None, pair: Pair, scale: int) -> tuple[Image, Image]:
    """Crop HR to a multiple of the scale, make LR or check its size; ``(lr, hr)`` as `PairDataset.read` returns."""
    height, width = lr_size(hr.shape[:2], pair, scale)
    hr = hr[: height * scale, : width * scale]
    if lr is None:
        return imresize(hr, 1 / scale), hr
    _check_sizes(lr.shape[:2], (height, width), pair, scale)
    return lr, hr


def lr_size(hr_size: tuple[int, ...], pair: Pair, scale: int) -> tuple[int, int]:
    """``(height, width)`` of the LR image that belongs to an HR image of this size."""
    height, width = hr_size[0] // scale, hr_size[1] // scale
    if height == 0 or width == 0:
        raise DataError(f"{pair.hr} is smaller than {scale}x{scale} pixels; remove it")
    return height, width


def check_pair_sizes(pair: Pair, scale: int) -> tuple[int, int]:
    """Compare the sizes in the two files' headers.

    Returns:
        ``(height, width)`` of the LR image.

    Raises:
        DataError: unreadable, or LR is not HR divided by the scale.
    """
    expected = lr_size(image_size(pair.hr), pair, scale)
    if pair.lr is not None:
        _check_sizes(image_size(pair.lr), expected, pair, scale)
    return expected


def _check_sizes(found: tuple[int, ...], expected: tuple[int, int], pair: Pair, scale: int) -> None:
    if tuple(found) != expected:
        raise DataError(
            f"{pair.lr} is {found[1]}x{found[0]}, but {pair.hr} at scale {scale} needs {expected[1]}x{expected[0]}; "
            "replace it, or remove the LR folder to have the LR images made"
        )


def open_dataset(source: Source, *, scale: int = 4, split: Split = "val") -> PairDataset:
    """Find the image pairs of a dataset; the module's docstring tells the layouts.

    Args:
        source: a folder, ``"sample"``, or the two folders ``(hr, lr)``.
        scale: 2, 3 or 4.
        split: which of the dataset's splits, where it has two.

    Raises:
        DataError: nothing is there, or LR and HR do not match in number, name or size (by the files' headers).
    """
    if scale not in SCALES:
        raise DataError(f"scale {scale} is none of {', '.join(map(str, SCALES))}")
    if isinstance(source, tuple):
        hr, lr = Path(source[0]), Path(source[1])
        return _checked(hr.name, scale, pair_folders(hr, lr, scale))
    if source == "sample":
        return _checked(f"sample-{split}", scale, tuple(Pair(file.stem, file) for file in sample_images(split)))
    root = Path(source)
    if not root.is_dir():
        state = "is no folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {state}; name a folder of images, or 'sample' for the built-in photographs")
    official = find_official(root, split, scale)
    if official:
        pairs = tuple(pair for part in official for pair in pair_folders(part.hr, part.lr, scale))
        return _checked("+".join(part.name for part in official), scale, pairs)
    other: Split = "val" if split == "train" else "train"
    if find_official(root, other, scale):
        wanted = "DIV2K_valid_HR" if split == "val" else "DIV2K_train_HR or Flickr2K_HR"
        raise DataError(f"{root} has no {wanted} for {split}; get it with: fmen data download --data {root}")
    if (root / "HR").is_dir():
        lr_folder = _existing(root / "LR_bicubic" / f"X{scale}")
        return _checked(root.resolve().name, scale, pair_folders(root / "HR", lr_folder, scale))
    return _checked(root.resolve().name, scale, pair_folders(root, None, scale))


@dataclass(frozen=True)
class OfficialPart:
    """A split of DIV2K or Flickr2K found on disk: its HR folder, and its LR folder if that is there."""

    name: str
    hr: Path
    lr: Path | None


# Name of the part, its split, its HR folder, its LR folder.
_OFFICIAL: tuple[tuple[str, Split, str, str], ...] = (
    ("DIV2K-train", "train", "DIV2K_train_HR", "DIV2K_train_LR_bicubic/X{scale}"),
    ("Flickr2K", "train", "Flickr2K_HR", "Flickr2K_LR_bicubic/X{scale}"),
    ("DIV2K-val", "val", "DIV2K_valid_HR", "DIV2K_valid_LR_bicubic/X{scale}"),
    ("DIV2K-LSDIR-val", "val", "DIV2K_LSDIR_valid_HR", "DIV2K_LSDIR_valid_LR"),
)


def find_official(root: Path, split: Split, scale: int) -> list[OfficialPart]:
    """The parts of DIV2K and Flickr2K in a folder; several for training (they add up), at most one for validation."""
    found = []
    for name, part_split, hr_name, lr_name in _OFFICIAL:
        if part_split != split:
            continue
        places = [root, root / "DIV2K", root / "Flickr2K"]
        if root.resolve().name == hr_name:  # the HR folder itself was named
            places = [root.resolve().parent]
        place = next((place for place in places if (place / hr_name).is_dir()), None)
        if place:
            found.append(OfficialPart(name, place / hr_name, _existing(place / lr_name.format(scale=scale))))
    return found if split == "train" else found[:1]


def _existing(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def pair_folders(hr_folder: Path, lr_folder: Path | None, scale: int) -> tuple[Pair, ...]:
    """Pair the images of two folders: LR is called as HR, or ``NAMEx4``.

    Raises:
        DataError: a folder is missing or empty, or an image has no partner.
    """
    hr_files = list_images(hr_folder)
    twins = {file.stem for file in hr_files}
    if len(twins) != len(hr_files):
        stem = next(file.stem for i, file in enumerate(hr_files) if file.stem in {f.stem for f in hr_files[:i]})
        raise DataError(f"{hr_folder} has two images called {stem}; rename one")
    if lr_folder is None:
        return tuple(Pair(file.stem, file) for file in hr_files)
    lr_files = {file.stem: file for file in list_images(lr_folder)}
    pairs = []
    for hr in hr_files:
        lr = lr_files.pop(f"{hr.stem}x{scale}", None) or lr_files.pop(hr.stem, None)
        if lr is None:
            raise DataError(f"no LR image for {hr}; put {hr.stem}x{scale}.png into {lr_folder}")
        pairs.append(Pair(hr.stem, hr, lr))
    if lr_files:
        raise DataError(
            f"no HR image for {next(iter(lr_files.values()))} in {hr_folder}; add it or remove the LR image"
        )
    return tuple(pairs)


def _checked(name: str, scale: int, pairs: tuple[Pair, ...]) -> PairDataset:
    for pair in pairs:
        if pair.lr is not None:  # without an LR file there is nothing to compare
            check_pair_sizes(pair, scale)
    return PairDataset(name, scale, pairs)
