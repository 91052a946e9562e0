"""The images that a submission is measured on, in the challenge's own folders or in any other."""

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

OWN_SETS = {"ntire2022": "DIV2K-val", "ntire2026": "DIV2K-LSDIR-val"}
"""What ``open_dataset`` calls a challenge's validation set."""


@dataclass(frozen=True)
class SplitImages:
    """The images of one split. Participants do not get the test split's HR images.

    Attributes:
        name: The data set's name.
        own: Whether it is the challenge's own data, which the challenge's threshold is meant for.
        pairs: The image pairs, where there are HR images.
        lr_files: The LR images by name, where there are no HR images.
    """

    name: str
    own: bool
    pairs: PairDataset | None = None
    lr_files: tuple[tuple[str, Path], ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the HR images, without ``.png``."""
        return [name for name, _ in self.lr_files] if self.pairs is None else [pair.name for pair in self.pairs.pairs]

    def read(self, index: int) -> tuple[Image, Image | None]:
        """LR and HR, uint8 RGB ``(H, W, 3)``."""
        return (read_image(self.lr_files[index][1]), None) if self.pairs is None else self.pairs.read(index)


def open_images(source: Source, layout: Layout, split: Split = "valid") -> SplitImages:
    """Find the images of one split.

    Args:
        source: A folder that holds the challenge's folders, e.g. ``DIV2K_valid_LR`` and ``DIV2K_valid_HR``; or, for the
            validation split, anything that ``fmen_data.open_dataset`` takes.
        layout: The challenge.
        split: ``"valid"`` or ``"test"``.

    Raises:
        SubmissionError: The test split is asked for and is not there.
        DataError: There are no images, or LR and HR do not match.
    """
    if isinstance(source, (str, Path)):
        lr_folder, hr_folder = (Path(source) / name for name in layout.folders[split])
        name = lr_folder.name.removesuffix("_LR")
        if lr_folder.is_dir() and hr_folder.is_dir():
            return SplitImages(name, own=True, pairs=open_dataset((hr_folder, lr_folder), scale=SCALE))
        if lr_folder.is_dir():
            suffix = layout.suffixes[split]
            files = tuple((path.stem.removesuffix(suffix), path) for path in list_images(lr_folder))
            return SplitImages(name, own=True, lr_files=files)
    if split == "test":
        raise SubmissionError(f"{source}: has no folder {layout.folders['test'][0]}, with the test split's LR images")
    pairs = open_dataset(source, scale=SCALE, split="val")
    return SplitImages(pairs.name, own=pairs.name == OWN_SETS[layout.name], pairs=pairs)


def copy_out(images: SplitImages, folder: Path, layout: Layout) -> Iterator[tuple[str, Image, Image]]:
    """Yield ``(name, lr, hr)`` of each pair, and leave both under ``folder`` as the challenge's validation images.

    Raises:
        SubmissionError: There are no HR images.
        DataError: An image cannot be read or written.
    """
    lr_folder, hr_folder = (folder / name for name in layout.folders["valid"])
    for index, name in enumerate(images.names):
        lr, hr = images.read(index)
        if hr is None:
            raise SubmissionError(f"{images.name}: has no HR images, and without them there is no PSNR")
        write_image(lr_folder / f"{name}{layout.suffixes['valid']}.png", lr)
        write_image(hr_folder / f"{name}.png", hr)
        yield name, lr, hr
