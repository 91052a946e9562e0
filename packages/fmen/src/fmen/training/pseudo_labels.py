"""``fmen data label``: training pairs made from the outputs of a stronger network (pseudo-labels).

If a teacher network provides the HR side, any image can serve as an LR image. A photograph, resized by a factor or
unchanged, becomes the LR image of a pair, and the teacher's upscaled output becomes the HR image. One photograph gives
one pair per factor; at factor 1 the HR image has scale^2 times the pixels of the photograph. The result is a dataset in
the EDSR benchmark layout, for training together with the photographs::

    fmen data label --weights imdn_baseline.pth --data photos --out labelled
    fmen train --recipe cpu --data photos --data labelled

This is knowledge distillation (Hinton et al., 2015) through files: training needs no teacher.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fmen.errors import UserError
from fmen.json_file import write_json
from fmen_data import imresize, list_images, read_image, write_image

Image = npt.NDArray[np.uint8]


def label_folders(
    teachers: Sequence[Callable[[Image], Image]],
    folders: Sequence[Path],
    out: Path,
    *,
    scale: int,
    factors: Sequence[float] = (0.6, 1.0),
    progress: bool = True,
) -> int:
    """Write a pair for every photograph and factor. Existing pairs are skipped.

    A pair is named after its photograph and factor, ``cat_060``. If there are both ``cat.jpg`` and ``cat.png``, their
    pairs are ``cat.jpg_060`` and ``cat.png_060``.

    Args:
        teachers: Upscalers of ``scale``. The HR image is the mean of their outputs.
        folders: Folders of images.
        out: The dataset to write: ``HR/`` and ``LR_bicubic/X<scale>/`` below it.
        scale: The upscaling factor.
        factors: Factors by which a photograph is resized to make an LR image, each above 0 and at most 1.
        progress: Show a progress bar on stderr.

    Returns:
        The number of pairs written.

    Raises:
        DataError: A photograph cannot be read.
        UserError: A factor is out of range, two factors are equal when rounded to percent, two folders have an image of
            one name, or an existing pair was made from another photograph.
    """
    if not factors or not all(0 < factor <= 1 for factor in factors):
        raise UserError(f"factors {list(factors)} are out of range; give numbers above 0 and at most 1")
    if len({_percent(factor) for factor in factors}) < len(factors):
        raise UserError(f"factors {list(factors)} must differ by 0.01 or more; remove one")
    files = [file for folder in folders for file in list_images(folder)]
    by_name: dict[str, Path] = {}
    for file in files:
        other = by_name.setdefault(file.name, file)
        if other is not file:
            raise UserError(f"{other} and {file} would give pairs of one name; rename one")
    stems = Counter(file.stem for file in files)
    pairs = {
        f"{file.stem if stems[file.stem] == 1 else file.name}_{_percent(factor):03}": (file, factor)
        for file in files
        for factor in factors
    }
    missing = record_photographs(out, {name: file for name, (file, _) in pairs.items()})
    for name, (file, factor) in tqdm(pairs.items(), f"label {out.name}", unit="pair", disable=not progress):
        if name in missing:
            photograph = read_image(file)
            lr = photograph if factor == 1 else imresize(photograph, factor)
            write_image(out / f"LR_bicubic/X{scale}" / f"{name}x{scale}.png", lr)
            write_image(_hr_file(out, name), mean_output(teachers, lr))  # last: it marks a complete pair
    return len(missing)


def record_photographs(out: Path, photographs: Mapping[str, Path]) -> set[str]:
    """Record the photographs of new pairs, and verify that existing pairs were made from theirs.

    Args:
        out: The dataset.
        photographs: The photograph of each pair, by the pair's name.

    Returns:
        The names of the pairs that do not exist.

    Raises:
        UserError: A pair was made from another photograph, or the record is damaged.
    """
    record = out / "photographs.json"
    before = read_record(record) if record.is_file() else {}  # datasets of older versions have none
    paths = {name: str(file.resolve()) for name, file in photographs.items()}
    missing = {name for name in paths if not _hr_file(out, name).exists()}
    for name, path in paths.items():
        if name not in missing and before.get(name, path) != path:
            raise UserError(
                f"{_hr_file(out, name)} was made from {before[name]}, not from {path}; name another folder with --out, "
                f"or remove {record} if the photographs were moved"
            )
    if missing:
        write_json(record, before | {name: paths[name] for name in sorted(missing)})
    return missing


def _hr_file(out: Path, name: str) -> Path:
    return out / "HR" / f"{name}.png"


def check_teachers(out: Path, weights: Sequence[Path], *, self_ensemble: bool) -> None:
    """Record the teachers of a dataset, or verify that they are the recorded ones.

    Args:
        out: The dataset that ``label_folders`` writes.
        weights: The teachers' weights files.
        self_ensemble: Whether the teachers' outputs are means over flips and rotations.

    Raises:
        UserError: The dataset was made with other teachers, is not one of pseudo-labels, or its record is damaged.
    """
    record = out / "teachers.json"
    suffix = " (ensemble)" if self_ensemble else ""
    teachers = {hashlib.sha256(file.read_bytes()).hexdigest() + suffix: file.name + suffix for file in weights}
    has_pairs = any((out / "HR").glob("*"))  # otherwise there is nothing to mix
    if has_pairs and not record.is_file():
        raise UserError(f"{out / 'HR'}: its images are no pseudo-labels; name another folder with --out")
    if has_pairs:
        before = read_record(record)
        if before.keys() != teachers.keys():
            names = ", ".join(before.values())
            raise UserError(f"{out} has pairs from other teachers ({names}); name another folder with --out")
    else:
        write_json(record, teachers)


def read_record(file: Path) -> dict[str, str]:
    """Read a JSON file of texts by name.

    Raises:
        UserError: It is anything else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UserError(f"{file} is damaged; restore it, or name another folder with --out")
    return content


def _percent(factor: float) -> int:
    return round(factor * 100)


def mean_output(teachers: Sequence[Callable[[Image], Image]], lr: Image) -> Image:
    """Return the mean of the teachers' outputs for ``lr`` ``(H, W, 3)``, rounded to uint8."""
    total = np.sum([teacher(lr) for teacher in teachers], axis=0, dtype=np.uint32)
    mean: Image = ((total + len(teachers) // 2) // len(teachers)).astype(np.uint8)
    return mean
