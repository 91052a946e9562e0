"""``fmen upscale``: image files and folders in, larger image files out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmen_data import DataError, list_images, read_image, write_image

Image = npt.NDArray[np.uint8]


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """The files among ``inputs`` and the images in the folders among them.

    Raises:
        DataError: There are none, or one does not exist.
    """
    files: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        files += list_images(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{', '.join(map(str, inputs))}: no images there")
    return files


def plan(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Which file each image is written to: ``output`` itself for a single file, or else a folder of that name.

    Raises:
        DataError: Two images would be written to the same file.
    """
    files = find_images(inputs)
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix and not output.is_dir():
        return [(files[0], output)]
    targets = [output / f"{file.stem}.png" for file in files]
    if len(set(targets)) < len(targets):
        raise DataError(f"{output}: two of the images have the same name; upscale them into different folders")
    return list(zip(files, targets, strict=True))


def upscale_files(
    upscaler: Callable[[Image], Image], jobs: Sequence[tuple[Path, Path]], *, say: Callable[[str], None] = print
) -> None:
    """Upscale each image into its file; a file appears when it is whole.

    Raises:
        DataError: An image cannot be read or written.
    """
    for source, target in jobs:
        lr = read_image(source)
        sr = upscaler(lr)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_image(target, sr)
        say(f"{source} ({lr.shape[1]}x{lr.shape[0]}) -> {target} ({sr.shape[1]}x{sr.shape[0]})")
