"""The images that a submission is measured on: the challenge's own, or any dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmen.submission.rules import SCALE, Layout, Split, SubmissionError
from fmen_data import PairDataset, list_images, open_dataset, read_image, write_image
from fmen_data.datasets import Source

Image: TypeAlias = NDArray[np.uint8]

OFFICIAL_SETS = {"ntire2022": "DIV2K-val", "ntire2026": "DIV2K-LSDIR-val"}
"""The name that ``open_dataset`` gives to a challenge's validation set."""


@dataclass(frozen=True)
class SplitImages:
    """The images of one split. The HR images of the test split are not public.

    Attributes:
        name: The dataset's name.
        official: Whether this is the challenge's own data, to which its threshold applies.
        pairs: The image pairs; None without HR images.
        lr_files: Without HR images, the name and the path of each LR image.
    """

    name: str
    official: bool
    pairs: PairDataset | None = None
    lr_files: tuple[tuple[str, Path], ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the HR images, without ``.png``."""
        return [name for name, _ in self.lr_files] if self.pairs is None else [pair.name for pair in self.pairs.pairs]

    def read(self, index: int) -> tuple[Image, Image | None]:
        """Read LR and HR, uint8 RGB ``(H, W, 3)``; HR is None if there is none."""
        return (read_image(self.lr_files[index][1]), None) if self.pairs is None else self.pairs.read(index)


def open_images(source: Source, layout: Layout, split: Split = "valid") -> SplitImages:
    """Find the images of one split.

    Args:
        source: A folder with the challenge's folders, e.g. ``DIV2K_valid_LR`` and ``DIV2K_valid_HR``; for the
            validation split, also anything that ``fmen_data.open_dataset`` takes.
        layout: The challenge.
        split: ``"valid"`` or ``"test"``.

    Raises:
        SubmissionError: ``split`` is ``"test"`` and its folder does not exist.
        DataError: No images are found, or LR and HR do not match.
    """
    if isinstance(source, (str, Path)):
        lr_folder, hr_folder = (Path(source) / name for name in layout.folders[split])
        name = lr_folder.name.removesuffix("_LR")
        if lr_folder.is_dir() and hr_folder.is_dir():
            return SplitImages(name, official=True, pairs=open_dataset((hr_folder, lr_folder), scale=SCALE))
        if lr_folder.is_dir():
            suffix = layout.suffixes[split]
            files = tuple((path.stem.removesuffix(suffix), path) for path in list_images(lr_folder))
            return SplitImages(name, official=True, lr_files=files)
    if split == "test":
        raise SubmissionError(f"{source}: no folder {layout.folders['test'][0]} with the LR images of the test split")
    pairs = open_dataset(source, scale=SCALE, split="val")
    return SplitImages(pairs.name, official=pairs.name == OFFICIAL_SETS[layout.name], pairs=pairs)


def write_validation_images(images: SplitImages, folder: Path, layout: Layout) -> Iterator[tuple[str, Image, Image]]:
    """Write each pair to ``folder`` as the challenge's validation images, and yield ``(name, lr, hr)``.

    Raises:
        SubmissionError: The split has no HR images.
        DataError: An image cannot be read or written.
    """
    lr_folder, hr_folder = (folder / name for name in layout.folders["valid"])
    for index, name in enumerate(images.names):
        lr, hr = images.read(index)
        if hr is None:
            raise SubmissionError(f"{images.name}: no HR images, so PSNR cannot be measured")
        write_image(lr_folder / f"{name}{layout.suffixes['valid']}.png", lr)
        write_image(hr_folder / f"{name}.png", hr)
        yield name, lr, hr
