"""DIV2K and Flickr2K: download them, verify a dataset folder, and list what it holds.

The datasets have their own layout below a data folder: ``DIV2K/DIV2K_train_HR/0001.png``,
``DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png``, ``DIV2K/DIV2K_valid_HR/0801.png``, ``Flickr2K/Flickr2K_HR/000001.png``
and so on; or the same without ``DIV2K/`` and ``Flickr2K/``.

The archives are the official ones (DIV2K: Agustsson and Timofte, CVPRW 2017; Flickr2K: Lim et al., CVPRW 2017). Their
authors publish no checksums; the MD5 sums here are those that torchSR and Catalyst record independently.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from tqdm import tqdm

from .datasets import SCALES, Pair, Part, Source, check_pair_sizes, find_parts
from .download import fetch, file_md5, unpack
from .errors import DataError
from .images import check_image, image_size, list_images

Name = Literal["DIV2K", "Flickr2K"]
NAMES: tuple[Name, ...] = ("DIV2K", "Flickr2K")
_URLS = {"DIV2K": "https://data.vision.ee.ethz.ch/cvl/DIV2K", "Flickr2K": "https://cv.snu.ac.kr/research/EDSR"}


@dataclass(frozen=True)
class ImageFolder:
    """A folder of an official dataset: its path below the dataset's folder, and the images that it must hold."""

    path: str
    numbers: range
    digits: int
    scale: int | None = None  # None: the HR images

    @property
    def files(self) -> list[str]:
        """The file names."""
        suffix = f"x{self.scale}" if self.scale else ""
        return [f"{number:0{self.digits}d}{suffix}.png" for number in self.numbers]

    def missing(self, root: Path) -> list[str]:
        """Return the file names that are not in the dataset's folder ``root``."""
        folder = root / self.path
        present = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 - ten times as fast as iterdir
        return [name for name in self.files if name not in present]


@dataclass(frozen=True)
class Archive:
    """An official archive and the folders that come out of it."""

    dataset: Name
    file: str
    md5: str
    folders: tuple[ImageFolder, ...]

    def extract_path(self, member: PurePosixPath) -> Path | None:
        """Return a member's path below the dataset's folder, or ``None`` if the member is not needed."""
        parts = member.parts[1:] if member.parts[0] == self.dataset else member.parts
        wanted = str(PurePosixPath(*parts[:-1])) in {folder.path for folder in self.folders}
        return Path(*parts) if wanted and member.suffix == ".png" else None


def _div2k(part: str, numbers: range, hr_md5: str, lr_md5: dict[int, str]) -> tuple[Archive, ...]:
    hr = Archive("DIV2K", f"DIV2K_{part}_HR.zip", hr_md5, (ImageFolder(f"DIV2K_{part}_HR", numbers, 4),))
    return hr, *(
        Archive(
            "DIV2K",
            f"DIV2K_{part}_LR_bicubic_X{scale}.zip",
            md5,
            (ImageFolder(f"DIV2K_{part}_LR_bicubic/X{scale}", numbers, 4, scale),),
        )
        for scale, md5 in lr_md5.items()
    )


ARCHIVES: tuple[Archive, ...] = (
    *_div2k(
        "train",
        range(1, 801),
        "bdc2d9338d4e574fe81bf7d158758658",
        {
            2: "9a637d2ef4db0d0a81182be37fb00692",
            3: "ad80b9fe40c049a07a8a6c51bfab3b6d",
            4: "76c43ec4155851901ebbe8339846d93d",
        },
    ),
    *_div2k(
        "valid",
        range(801, 901),
        "9fcdda83005c5e5997799b69f955ff88",
        {
            2: "1512c9a3f7bde2a1a21a73044e46b9cb",
            3: "18b1d310f9f88c13618c287927b29898",
            4: "21962de700c8d368c6ff83314480eff0",
        },
    ),
    Archive(
        "Flickr2K",
        "Flickr2K.tar",
        "5d3f39443d5e9489bff8963f8f26cb03",
        (
            ImageFolder("Flickr2K_HR", range(1, 2651), 6),
            *(ImageFolder(f"Flickr2K_LR_bicubic/X{scale}", range(1, 2651), 6, scale) for scale in SCALES),
        ),
    ),
)


def dataset_root(root: Path, dataset: Name) -> Path:
    """Return a dataset's folder: ``root`` if it has the dataset's name or holds its images, otherwise one below it."""
    flat = root.resolve().name == dataset or any(entry.is_dir() for entry in root.glob(f"{dataset}_*_HR"))
    return root if flat or (root / f"{dataset}_HR").is_dir() else root / dataset


def download(
    root: str | Path,
    datasets: Sequence[str] = ("DIV2K",),
    *,
    scales: Sequence[int] = (4,),
    base_url: str | None = None,
    progress: bool = True,
) -> list[Path]:
    """Download the official archives and unpack them. Complete datasets are skipped.

    An archive is removed when its images are in place. An interrupted download continues with the next call.

    Args:
        root: The data folder.
        datasets: Names from `NAMES`, in any case.
        scales: The LR images of DIV2K to get. Flickr2K comes as one archive of about 20 GB with all scales.
        base_url: Another server that has the same files.
        progress: Show progress bars on stderr.

    Returns:
        The folders of the datasets.

    Raises:
        DataError: A name or scale is unknown, `fmen_data.download.fetch` or `unpack` fails, or an archive lacks images.
    """
    root, names = Path(root), [_official_name(dataset) for dataset in datasets]
    if unknown := set(scales) - set(SCALES):
        raise DataError(f"unknown scale {min(unknown)}; choose from {', '.join(map(str, SCALES))}")
    for archive in ARCHIVES:
        needed = [folder for folder in archive.folders if folder.scale in (None, *scales)]
        target = dataset_root(root, archive.dataset)
        if archive.dataset not in names or not any(folder.missing(target) for folder in needed):
            continue
        file = target / archive.file
        if file.exists():
            if (found := file_md5(file, progress=progress)) != archive.md5:
                raise DataError(f"{file} has MD5 {found}, not {archive.md5}; remove it and run the command again")
        else:
            server = _URLS[archive.dataset] if base_url is None else base_url
            fetch(f"{server.rstrip('/')}/{archive.file}", file, md5=archive.md5, progress=progress)
        unpack(file, target, archive.extract_path, progress=progress)
        for folder in needed:
            if absent := folder.missing(target):
                raise DataError(
                    f"{file} lacks {len(absent)} images of {folder.path}, {absent[0]} first; remove the file"
                )
        file.unlink()
    return [dataset_root(root, name) for name in names]


def _official_name(dataset: str) -> Name:
    for name in NAMES:
        if name.lower() == dataset.lower():
            return name
    raise DataError(f"unknown dataset {dataset!r}; choose from {', '.join(NAMES)}")


@dataclass(frozen=True)
class Verification:
    """What `verify` found: the number of images checked, and one line for each problem."""

    images: int
    problems: tuple[str, ...]


def verify(source: Source, *, scale: int = 4, deep: bool = False, progress: bool = True) -> Verification:
    """Check a dataset: every image is present and complete, and the LR and HR images match.

    Takes every source that `open_dataset` takes, and checks both splits. DIV2K must hold its 800 and 100 HR images and
    as many LR images of the scale; Flickr2K, if it is present, 2,650 of each. If the source is one of their HR folders,
    only the part that it belongs to is expected.

    Args:
        source: A folder, ``"sample"``, or the two folders ``(hr, lr)``.
        scale: The scale of the LR images.
        deep: Decode every image instead of reading its header and its end.
        progress: Show a progress bar on stderr.

    Raises:
        DataError: The source is missing or holds no images.
    """
    problems: list[str] = []
    files: list[Path] = []
    pairs: list[Pair] = []
    parts = find_parts(source, scale)
    incomplete: set[Path] = set()
    for folder, expected in _expected_folders(source, parts, scale):
        if absent := expected.missing(folder):
            incomplete.add(folder / expected.path)
            names = ", ".join(absent[:3])
            problems.append(
                f"{folder / expected.path} lacks {len(absent)} of {len(expected.files)} images: {names}; "
                "get them with: fmen data download"
            )
    for part in parts:
        try:
            files += part.files or (*list_images(part.hr), *(list_images(part.lr) if part.lr else ()))
            unmatched: list[str] = []
            found = part.pairs(scale, unmatched)
        except DataError as error:
            problems.append(str(error))
            continue
        pairs += found
        if not incomplete & {part.hr, part.lr}:
            problems += unmatched
    if not files:
        raise DataError(problems[0])
    damaged = _find_damaged(files, deep, progress)
    sound = [pair for pair in pairs if pair.hr not in damaged and pair.lr not in damaged]
    sizes = filter(None, (_size_problem(pair, scale) for pair in sound))
    return Verification(len(files), (*problems, *damaged.values(), *sizes))


def _expected_folders(source: Source, parts: list[Part], scale: int) -> Iterator[tuple[Path, ImageFolder]]:
    """Yield the folders that DIV2K and Flickr2K must have, each with the dataset's folder, if they are present."""
    for archive in ARCHIVES:
        hr_names = {folder.path for other in ARCHIVES if other.dataset == archive.dataset for folder in other.folders}
        root = next((part.hr.parent for part in parts if part.split and part.hr.name in hr_names), None)
        named = Path(source).resolve().name if isinstance(source, (str, Path)) else ""
        prefix = named.removesuffix("HR") if named in hr_names else ""
        for folder in archive.folders:
            if root and folder.scale in (None, scale) and folder.path.startswith(prefix):
                yield root, folder


def _find_damaged(files: list[Path], deep: bool, progress: bool) -> dict[Path, str]:
    """Check files in parallel; return a line for each damaged one."""
    with ThreadPoolExecutor() as pool:
        checks = pool.map(partial(_image_problem, deep=deep), files)
        lines = tqdm(checks, "verify", len(files), unit="image", disable=not progress)
        return {file: line for file, line in zip(files, lines, strict=True) if line}


def _image_problem(file: Path, *, deep: bool) -> str:
    try:
        check_image(file, deep=deep)
    except DataError as error:
        return str(error)
    return ""


def _size_problem(pair: Pair, scale: int) -> str:
    try:
        check_pair_sizes(pair, scale)
    except DataError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class FolderInfo:
    """What a folder holds.

    Attributes:
        path: The folder.
        images: Number of images.
        expected: Number of images of the official dataset; 0 for any other folder.
        size: Bytes of all images.
        smallest: ``(height, width)`` of the image with the fewest pixels.
        largest: ``(height, width)`` of the image with the most pixels.
    """

    path: Path
    images: int
    expected: int
    size: int
    smallest: tuple[int, int]
    largest: tuple[int, int]


def info(source: Source) -> list[FolderInfo]:
    """List the image folders of a dataset, of both splits and all scales, and what they hold, from the files' headers.

    Raises:
        DataError: The source is missing, or a folder holds no image.
    """
    contents: dict[tuple[str, Path], list[Path]] = {}
    for scale in SCALES:
        for part in find_parts(source, scale):
            contents[part.name, part.hr] = list(part.files or list_images(part.hr))
            if part.lr:
                contents[part.name, part.lr] = list_images(part.lr)
    expected = {folder.path: len(folder.files) for archive in ARCHIVES for folder in archive.folders}
    return [
        _describe(folder, files, expected.get(folder.name) or expected.get(f"{folder.parent.name}/{folder.name}", 0))
        for (_, folder), files in sorted(contents.items(), key=lambda item: item[0][0])
    ]


def _describe(folder: Path, files: list[Path], expected: int) -> FolderInfo:
    sizes = sorted((image_size(file) for file in files), key=lambda size: size[0] * size[1])
    return FolderInfo(folder, len(files), expected, sum(file.stat().st_size for file in files), sizes[0], sizes[-1])
