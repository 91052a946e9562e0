"""``fmen data label``: make training pairs out of a stronger network's answers, where photographs are few.

Any image can be an LR image if a teacher stands in for the HR image that nobody took: a photograph shrunk by a factor,
or as it is, becomes the LR side of a pair and the teacher's enlargement of it the HR side. One photograph gives as many
pairs as there are factors, and at factor 1 sixteen times the pixels. The result is a dataset in the EDSR benchmark
layout, to be trained on beside the photographs themselves::

    fmen data label --weights imdn_baseline.pth --data photos --out labelled
    fmen train --recipe cpu --data photos --data labelled

This is knowledge distillation (Hinton et al., 2015) by way of files on disk: the trainer need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fmen.errors import UserError
from fmen_data import imresize, list_images, read_image, write_image

Image = npt.NDArray[np.uint8]


def label_folder(
    teachers: Sequence[Callable[[Image], Image]],
    photographs: Path,
    out: Path,
    *,
    scale: int,
    factors: Sequence[float] = (0.6, 1.0),
    progress: bool = True,
) -> int:
    """Write the pairs of every photograph at every factor; those that are there already are left alone.

    Args:
        teachers: Upscalers of ``scale``; the HR image is the mean of their answers.
        photographs: A folder of images.
        out: The dataset's folder: ``HR/`` and ``LR_bicubic/X<scale>/`` below it.
        scale: The upscaling factor.
        factors: By how much a photograph is shrunk before it becomes an LR image, each above 0 and at most 1.
        progress: Show a bar.

    Returns:
        How many pairs were made.

    Raises:
        DataError: A photograph cannot be read.
        UserError: A factor is out of range.
    """
    if not factors or not all(0 < factor <= 1 for factor in factors):
        raise UserError(f"factors {list(factors)}: give numbers above 0 and at most 1")
    files = list_images(photographs)
    made = 0
    with tqdm(total=len(files) * len(factors), desc=f"label {out.name}", unit="pair", disable=not progress) as bar:
        for file in files:
            for factor in factors:
                name = f"{file.stem}_{round(factor * 100):03}"
                hr_file, lr_file = out / "HR" / f"{name}.png", out / f"LR_bicubic/X{scale}" / f"{name}x{scale}.png"
                if not hr_file.exists():
                    photograph = read_image(file)
                    lr = photograph if factor == 1 else imresize(photograph, factor)
                    write_image(lr_file, lr)
                    write_image(hr_file, mean_answer(teachers, lr))  # last: its presence says that the pair is whole
                    made += 1
                bar.update()
    return made


def mean_answer(teachers: Sequence[Callable[[Image], Image]], lr: Image) -> Image:
    """The mean of the teachers' enlargements of ``lr`` ``(H, W, 3)``, rounded to uint8."""
    total = np.sum([teacher(lr) for teacher in teachers], axis=0, dtype=np.uint16)
    mean: Image = ((total + len(teachers) // 2) // len(teachers)).astype(np.uint8)
    return mean
