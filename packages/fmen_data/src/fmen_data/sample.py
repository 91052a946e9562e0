"""The built-in ``sample`` dataset: photographs from scikit-image's wheel, without a download.

Only files in the wheel are used, not those that ``skimage.data`` downloads on demand. They are found without importing
scikit-image. The LR images are made with `fmen_data.imresize`. The split is fixed: 9 photographs for training and 2 for
validation, without a scene in common.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from .errors import DataError

# Without the wheel's microscopy images, drawings, scans and star fields, which SR benchmarks do not contain.
TRAIN = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
)
VAL = ("chelsea.png", "coffee.png")


def sample_images(split: Literal["train", "val"]) -> list[Path]:
    """Return the photographs of one split.

    Raises:
        DataError: scikit-image is not installed, or a file is missing.
    """
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the sample dataset needs scikit-image's photographs; install it: pip install scikit-image")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    files = [folder / name for name in (TRAIN if split == "train" else VAL)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"no {missing[0]} in {folder}; reinstall scikit-image: pip install --force-reinstall scikit-image"
        )
    return files
