"""The built-in ``sample`` dataset: real photographs that ship inside scikit-image's wheel. No download.

Only files that the wheel itself carries are used, never those that ``skimage.data`` fetches on demand. They are found
without importing scikit-image, and their LR images are made with `fmen_data.imresize`. The split is fixed: 9
photographs to train on, 2 to validate on, none of a scene that is in the other split.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from .errors import DataError

# No microscopy, drawings, scans or star fields: they are in the wheel too, but they are not what super-resolution is
# judged on.
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
    """The photographs of one split.

    Raises:
        DataError: scikit-image is not installed, or its wheel lacks a file.
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
