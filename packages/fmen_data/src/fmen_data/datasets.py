"""Datasets of LR/HR image pairs on disk.

`open_dataset` recognises these sources, in this order:

- ``"sample"``: the built-in photographs (`fmen_data.sample`).
- Two folders, ``(hr_folder, lr_folder)``. `parse_source` makes the tuple from the text ``HR_DIR,LR_DIR``.
- DIV2K's and Flickr2K's own layout, in the folder itself or in ``DIV2K/`` and ``Flickr2K/`` below it. The training set
  joins the two if both are there (DF2K). The validation set is ``DIV2K_valid_HR``, or ``DIV2K_LSDIR_valid_HR`` with
  ``DIV2K_LSDIR_valid_LR``, the NTIRE challenge's.
- The EDSR benchmark layout: ``HR/NAME.png`` and ``LR_bicubic/X4/NAMEx4.png``. Both splits are the same set.
- A plain folder of HR images. Both splits are the same set.

If the LR folder of the scale is missing, the LR images are made from the HR images with `fmen_data.imresize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from .bicubic import Image, imresize
from .errors import DataError, raise_all
from .images import image_size, list_images, read_image
from .sample import sample_images

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
SCALES = (2, 3, 4)

Source: TypeAlias = str | Path | tuple[str | Path, str | Path]
"""A dataset folder, ``"sample"``, or the two folders ``(hr, lr)``."""


def parse_source(source: str) -> Source:
    """Parse a source as the command line and recipes write it: ``sample``, a dataset folder, or ``HR_DIR,LR_DIR``.

    A text with a comma that is the name of an existing folder is that folder.
    """
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
    """The image pairs of one dataset at one scale and of one split, sorted by name within each folder."""

    name: str
    scale: int
    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[str, Image, Image]]:
        """Yield ``(name, lr, hr)``; each image is read when it is needed.

        Raises:
            DataError: An image cannot be used. The ones behind it are read at once, and all at fault are named.
        """
        for index, pair in enumerate(self.pairs):
            try:
                lr, hr = self.read(index)
            except DataError as error:
                raise_all([str(error), *self.problems(index + 1)])
            yield pair.name, lr, hr

    def folders(self) -> set[Path]:
        """Return the folders of the HR and LR images."""
        return {file.parent for pair in self.pairs for file in (pair.hr, pair.lr) if file is not None}

    def problems(self, start: int = 0, *, smallest: int = 1) -> Iterator[str]:
        """Yield one line about each image from ``start`` that cannot be used.

        Args:
            start: The first image.
            smallest: The least height and width of HR in pixels.
        """
        for pair in self.pairs[start:]:
            try:
                lr = None if pair.lr is None else read_image(pair.lr).shape[:2]
                hr = read_image(pair.hr).shape[:2]
                expected = lr_size(hr, pair, self.scale)
                if lr is not None:
                    _check_sizes(lr, expected, pair, self.scale)
                if min(expected) * self.scale < smallest:
                    raise DataError(f"{pair.hr} is {hr[1]}x{hr[0]}, too small to be measured; remove it")
            except DataError as error:
                yield str(error)

    def read(self, index: int) -> tuple[Image, Image]:
        """Read one pair.

        Returns:
            LR uint8 ``(h, w, 3)`` and HR uint8 ``(h * scale, w * scale, 3)``, both RGB. HR is cropped to a multiple of
            the scale from the bottom and right.

        Raises:
            DataError: A file cannot be read, or LR and HR do not match in size.
        """
        pair = self.pairs[index]
        return match_pair(read_image(pair.hr), None if pair.lr is None else read_image(pair.lr), pair, self.scale)


def match_pair(hr: Image, lr: Image | None, pair: Pair, scale: int) -> tuple[Image, Image]:
    """Crop HR to a multiple of the scale, make LR or check its size; return ``(lr, hr)`` as `PairDataset.read` does."""
    height, width = lr_size(hr.shape[:2], pair, scale)
    hr = hr[: height * scale, : width * scale]
    if lr is None:
        return imresize(hr, 1 / scale), hr
    _check_sizes(lr.shape[:2], (height, width), pair, scale)
    return lr, hr


def lr_size(hr_size: tuple[int, ...], pair: Pair, scale: int) -> tuple[int, int]:
    """Return ``(height, width)`` of the LR image that belongs to an HR image of this size."""
    height, width = hr_size[0] // scale, hr_size[1] // scale
    if height == 0 or width == 0:
        raise DataError(f"{pair.hr} is smaller than {scale}x{scale} pixels; remove it")
    return height, width


def check_pair_sizes(pair: Pair, scale: int) -> tuple[int, int]:
    """Compare the sizes in the headers of the two files.

    Returns:
        ``(height, width)`` of the LR image.

    Raises:
        DataError: A file cannot be read, or the LR size is not the HR size divided by the scale.
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


def open_dataset(
    source: Source, *, scale: int = 4, split: Split = "val", on_skip: Callable[[str], None] | None = None
) -> PairDataset:
    """Find the image pairs of a dataset. See the module's docstring for the layouts.

    Args:
        source: A folder, ``"sample"``, or the two folders ``(hr, lr)``. Text that a user wrote, which may name two
            folders, goes through `parse_source` first.
        scale: 2, 3 or 4.
        split: The split to open, if the dataset has two.
        on_skip: If given, images whose LR and HR do not match are left out, as is the second one of each name, and
            this is called with one line about each.

    Raises:
        DataError: There is no dataset, or LR and HR do not match in number, name or size (by the files' headers); every
            such image is named.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; choose {' or '.join(map(repr, SPLITS))}")
    parts = find_parts(source, scale)
    chosen = [part for part in parts if part.split in (None, split)]
    if not chosen:
        wanted = "DIV2K_valid_HR" if split == "val" else "DIV2K_train_HR or Flickr2K_HR"
        raise DataError(f"{source} has no {wanted} for {split}; get it with: fmen data download --data {source}")
    if split == "val":
        chosen = chosen[:1]
    seen: dict[str, Pair] = {}
    pairs: list[Pair] = []
    problems: list[str] = []
    for pair in (pair for part in chosen for pair in part.pairs(scale, problems)):
        if pair.name in seen:
            problems.append(f"{seen[pair.name].hr} and {pair.hr} have the same name; rename one")
            continue
        seen[pair.name] = pair
        if pair.lr is not None:  # an LR image that is made has the right size
            try:
                check_pair_sizes(pair, scale)
            except DataError as error:
                problems.append(str(error))
                continue
        pairs.append(pair)
    if on_skip is None or not pairs:
        raise_all(problems)
    for problem in problems:
        assert on_skip is not None
        on_skip(problem)
    return PairDataset("+".join(part.name for part in chosen), scale, tuple(pairs))


@dataclass(frozen=True)
class Part:
    """A dataset, or one split of it, found on disk.

    Attributes:
        name: Its name, such as ``DIV2K-train``.
        split: The split that it is; ``None`` for a dataset whose splits are the same set.
        hr: Folder of HR images.
        lr: Folder of LR images of the scale, if there is one.
        files: The HR images; ``None`` for all in the folder.
    """

    name: str
    split: Split | None
    hr: Path
    lr: Path | None = None
    files: tuple[Path, ...] | None = None

    def pairs(self, scale: int, problems: list[str]) -> tuple[Pair, ...]:
        """Pair the HR images with the LR images, and add to ``problems`` what ``pair_folders`` finds.

        Raises:
            DataError: A folder is missing or empty.
        """
        if self.files is not None:
            return tuple(Pair(file.stem, file) for file in self.files)
        pairs, found = pair_folders(self.hr, self.lr, scale)
        problems += found
        return pairs


# Name of the part, its split, its HR folder, its LR folder.
_OFFICIAL: tuple[tuple[str, Split, str, str], ...] = (
    ("DIV2K-train", "train", "DIV2K_train_HR", "DIV2K_train_LR_bicubic/X{scale}"),
    ("Flickr2K", "train", "Flickr2K_HR", "Flickr2K_LR_bicubic/X{scale}"),
    ("DIV2K-val", "val", "DIV2K_valid_HR", "DIV2K_valid_LR_bicubic/X{scale}"),
    ("DIV2K-LSDIR-val", "val", "DIV2K_LSDIR_valid_HR", "DIV2K_LSDIR_valid_LR"),
)


def find_parts(source: Source, scale: int) -> list[Part]:
    """Find the dataset that a source names, both splits of it.

    Raises:
        DataError: The source is not a folder, or the scale is unknown.
    """
    if scale not in SCALES:
        raise DataError(f"unknown scale {scale}; choose one of {', '.join(map(str, SCALES))}")
    if isinstance(source, tuple):
        hr, lr = Path(source[0]), Path(source[1])
        return [Part(hr.name, None, hr, lr)]
    if source == "sample":
        photographs = [(split, tuple(sample_images(split))) for split in SPLITS]
        return [Part(f"sample-{split}", split, files[0].parent, files=files) for split, files in photographs]
    root = Path(source)
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {state}; name a folder of images, or 'sample' for the built-in photographs")
    official = [part for split in SPLITS for part in find_official(root, split, scale)]
    if official:
        return official
    name = root.resolve().name
    if (root / "HR").is_dir():
        return [Part(name, None, root / "HR", _existing(root / "LR_bicubic" / f"X{scale}"))]
    return [Part(name, None, root)]


def find_official(root: Path, split: Split, scale: int) -> list[Part]:
    """Find the parts of DIV2K and Flickr2K in a folder.

    Returns:
        For training all parts, which add up. For validation the one to use comes first.
    """
    found = []
    for name, part_split, hr_name, lr_name in _OFFICIAL:
        folders = [root, root / "DIV2K", root / "Flickr2K"]
        if root.resolve().name == hr_name:  # the HR folder itself was named
            folders = [root.parent if root.name == hr_name else root.resolve().parent]
        folder = next((folder for folder in folders if (folder / hr_name).is_dir()), None)
        if part_split == split and folder:
            found.append(Part(name, split, folder / hr_name, _existing(folder / lr_name.format(scale=scale))))
    return found


def _existing(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def pair_folders(hr_folder: Path, lr_folder: Path | None, scale: int) -> tuple[tuple[Pair, ...], list[str]]:
    """Pair the images of two folders. The LR image of ``NAME`` is called ``NAMEx4`` or ``NAME``.

    Returns:
        The pairs, and one line for each image without a partner or with the name of another one.

    Raises:
        DataError: A folder is missing or empty.
    """
    hr_files, problems = _by_stem(hr_folder)
    if lr_folder is None:
        return tuple(Pair(stem, hr) for stem, hr in hr_files.items()), problems
    lr_files, more = _by_stem(lr_folder)
    problems += more
    pairs = []
    for stem, hr in hr_files.items():
        lr = lr_files.pop(f"{stem}x{scale}", None) or lr_files.pop(stem, None)
        if lr is None:
            problems.append(f"no LR image for {hr}; put {stem}x{scale}.png into {lr_folder}")
        else:
            pairs.append(Pair(stem, hr, lr))
    problems += [f"no HR image for {lr} in {hr_folder}; add it or remove the LR image" for lr in lr_files.values()]
    return tuple(pairs), problems


def _by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The images of a folder by their names without suffix, and one line about each of a name that is taken."""
    files: dict[str, Path] = {}
    problems = []
    for file in list_images(folder):
        other = files.setdefault(file.stem, file)
        if other is not file:
            problems.append(f"{other} and {file} have the same name; rename or remove one")
    return files, problems
