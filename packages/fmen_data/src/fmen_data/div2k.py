"""DIV2K and Flickr2K: where they lie, how to get them, how to check them, and what a folder holds.

They lie in their own layout below a data folder: ``DIV2K/DIV2K_train_HR/0001.png``,
``DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png``, ``DIV2K/DIV2K_valid_HR/0801.png``, ``Flickr2K/Flickr2K_HR/000001.png``
and so on; or directly in the folder that was named.

The archives are the official ones (DIV2K: Agustsson and Timofte, CVPRW 2017; Flickr2K: Lim et al., CVPRW 2017). Their
makers publish no checksums; the MD5 sums here are those that torchSR and Catalyst independently record.
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

from .datasets import SCALES, Pair, check_pair_sizes, open_dataset, pair_folders
from .download import check_md5, fetch, unpack
from .errors import DataError
from .images import check_image, image_size, list_images

Name = Literal["DIV2K", "Flickr2K"]
NAMES: tuple[Name, ...] = ("DIV2K", "Flickr2K")
_URLS = {"DIV2K": "https://data.vision.ee.ethz.ch/cvl/DIV2K", "Flickr2K": "https://cv.snu.ac.kr/research/EDSR"}


@dataclass(frozen=True)
class ImageFolder:
    """A folder of an official dataset: its path below the dataset's, and the images that it must hold."""

    path: str
    numbers: range
    digits: int
    scale: int | None = None  # None: the HR images

    @property
    def files(self) -> list[str]:
        """The names of the files."""
        suffix = f"x{self.scale}" if self.scale else ""
        return [f"{number:0{self.digits}d}{suffix}.png" for number in self.numbers]

    def missing(self, home: Path) -> list[str]:
        """Those that are not in the dataset's folder ``home``."""
        folder = home / self.path
        there = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 - names alone are ten times as quick
        return [name for name in self.files if name not in there]


@dataclass(frozen=True)
class Archive:
    """An official archive and the folders that come out of it."""

    dataset: Name
    file: str
    md5: str
    folders: tuple[ImageFolder, ...]

    def place(self, member: PurePosixPath) -> Path | None:
        """Where a member of the archive goes below the dataset's folder; ``None``: it is not needed."""
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


def home_of(root: Path, dataset: Name) -> Path:
    """A dataset's folder: ``root`` itself if it is called so or holds the dataset's images, or else one below it."""
    flat = root.resolve().name == dataset or any(entry.is_dir() for entry in root.glob(f"{dataset}_*_HR"))
    return root if flat or (root / f"{dataset}_HR").is_dir() else root / dataset


def download(
    root: str | Path,
    datasets: Sequence[Name] = ("DIV2K",),
    *,
    scales: Sequence[int] = (4,),
    base_url: str | None = None,
    progress: bool = True,
) -> list[Path]:
    """Get the official archives and unpack them; what is complete already is left alone.

    An archive is removed when its images are in place. An interrupted download continues with the next call.

    Args:
        root: the data folder.
        datasets: of `NAMES`.
        scales: which LR images to get of DIV2K. Flickr2K comes as one archive of about 20 GB with all scales.
        base_url: another server that has the same files.
        progress: show progress bars on stderr.

    Returns:
        The folders of the datasets.

    Raises:
        DataError: as `fmen_data.download.fetch` and `unpack`, or an archive lacks images.
    """
    root = Path(root)
    for archive in ARCHIVES:
        needed = [folder for folder in archive.folders if folder.scale in (None, *scales)]
        home = home_of(root, archive.dataset)
        if archive.dataset not in datasets or not any(folder.missing(home) for folder in needed):
            continue
        file = home / archive.file
        if file.exists():
            check_md5(file, archive.md5, progress=progress)
        else:
            url = f"{(base_url or _URLS[archive.dataset]).rstrip('/')}/{archive.file}"
            fetch(url, file, md5=archive.md5, progress=progress)
        unpack(file, home, archive.place, progress=progress)
        for folder in needed:
            if absent := folder.missing(home):
                raise DataError(
                    f"{file} lacks {len(absent)} images of {folder.path}, {absent[0]} first; remove the file"
                )
        file.unlink()
    return [home_of(root, dataset) for dataset in datasets]


@dataclass(frozen=True)
class Verification:
    """What `verify` found: the number of images that were looked at, and one line for each problem."""

    images: int
    problems: tuple[str, ...]


def verify(root: str | Path, *, scale: int = 4, deep: bool = False, progress: bool = True) -> Verification:
    """Check a dataset folder: all images there, none truncated, LR and HR sizes consistent.

    DIV2K must hold its 800 and 100 HR images and as many LR images of the scale; Flickr2K, where it is there, 2,650 of
    each. Any other layout of `open_dataset` must hold pairs.

    Args:
        root: the folder.
        scale: of the LR images.
        deep: decode every image, instead of looking at its header and its end.
        progress: show a progress bar on stderr.

    Raises:
        DataError: the folder is missing or holds no dataset at all.
    """
    root = Path(root)
    homes = {name: home_of(root, name) for name in NAMES}
    official = [archive for archive in ARCHIVES if _present(archive.dataset, homes[archive.dataset])]
    problems: list[str] = []
    files: list[Path] = []
    pairs: list[Pair] = []
    if official:
        for archive in official:
            for folder in (folder for folder in archive.folders if folder.scale in (None, scale)):
                problems += _missing_line(homes[archive.dataset], folder)
                files += [homes[archive.dataset] / folder.path / name for name in folder.files]
        files = [file for file in files if file.exists()]
        pairs = list(_official_pairs(files, scale))
    else:
        files, pairs, problems = _other_layout(root, scale)
    check = partial(_problem_of, deep=deep)
    with ThreadPoolExecutor() as pool:
        results = tqdm(pool.map(check, files), "verify", len(files), unit="image", disable=not progress)
        damaged = {file: line for file, line in zip(files, results, strict=True) if line}
    problems += damaged.values()
    for pair in pairs:
        if pair.hr not in damaged and pair.lr not in damaged:
            problems += _size_problem(pair, scale)
    return Verification(len(files), tuple(problems))


def _present(dataset: Name, home: Path) -> bool:
    folders = [folder for archive in ARCHIVES if archive.dataset == dataset for folder in archive.folders]
    return any((home / folder.path).is_dir() for folder in folders if folder.scale is None)


def _missing_line(home: Path, folder: ImageFolder) -> list[str]:
    absent = folder.missing(home)
    if not absent:
        return []
    return [f"{home / folder.path} lacks {len(absent)} of {len(folder.files)} images: {', '.join(absent[:3])}"]


def _official_pairs(files: list[Path], scale: int) -> Iterator[Pair]:
    """The HR images with the LR images that belong to them, where both are there."""
    there = set(files)
    for file in files:
        folder = file.parent.name
        if folder.endswith("_HR"):
            lr = file.parents[1] / f"{folder.removesuffix('HR')}LR_bicubic" / f"X{scale}" / f"{file.stem}x{scale}.png"
            if lr in there:
                yield Pair(file.stem, file, lr)


def _other_layout(root: Path, scale: int) -> tuple[list[Path], list[Pair], list[str]]:
    hr_folder = root / "HR" if (root / "HR").is_dir() else root
    lr_folder = root / "LR_bicubic" / f"X{scale}" if hr_folder != root else None
    files = list_images(hr_folder)
    if lr_folder is None or not lr_folder.is_dir():
        return files, [], []
    try:
        files += list_images(lr_folder)
        return files, list(pair_folders(hr_folder, lr_folder, scale)), []
    except DataError as error:
        return files, [], [str(error)]


def _problem_of(file: Path, *, deep: bool) -> str:
    try:
        check_image(file, deep=deep)
    except DataError as error:
        return str(error)
    return ""


def _size_problem(pair: Pair, scale: int) -> list[str]:
    try:
        check_pair_sizes(pair, scale)
    except DataError as error:
        return [str(error)]
    return []


@dataclass(frozen=True)
class FolderInfo:
    """A folder: images of how many (0: not known), bytes in all, smallest and largest ``(height, width)``."""

    path: Path
    images: int
    expected: int
    size: int
    smallest: tuple[int, int]
    largest: tuple[int, int]


def info(root: str | Path) -> list[FolderInfo]:
    """What image folders of a known layout are below a data folder, and what they hold, from the files' headers.

    Raises:
        DataError: there is none.
    """
    root = Path(root)
    found = []
    for archive in ARCHIVES:
        home = home_of(root, archive.dataset)
        found += [
            (home / folder.path, len(folder.files)) for folder in archive.folders if (home / folder.path).is_dir()
        ]
    if not found:
        benchmark = [root / "HR", *(root / "LR_bicubic" / f"X{scale}" for scale in SCALES)]
        found = [(folder, 0) for folder in benchmark if folder.is_dir()]
    return [_describe(folder, expected) for folder, expected in found or [(_dataset_folder(root), 0)]]


def _dataset_folder(root: Path) -> Path:
    return open_dataset(root).pairs[0].hr.parent


def _describe(folder: Path, expected: int) -> FolderInfo:
    files = list_images(folder)
    sizes = sorted((image_size(file) for file in files), key=lambda size: size[0] * size[1])
    return FolderInfo(folder, len(files), expected, sum(file.stat().st_size for file in files), sizes[0], sizes[-1])
