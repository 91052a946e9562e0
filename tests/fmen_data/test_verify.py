"""Verification and listing of datasets: every layout that ``open_dataset`` takes, and what is reported about each."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fmen_data import DataError, Source, open_dataset, write_image
from fmen_data.div2k import Verification, info, verify


def write(folder: Path, *names: str, size: tuple[int, int] = (16, 24)) -> None:
    first = folder / f"{names[0]}.png"
    write_image(first, np.zeros((*size, 3), np.uint8))
    for name in names[1:]:
        shutil.copy(first, folder / f"{name}.png")  # far quicker than encoding and synchronising each


def make_layout(root: Path, layout: str) -> Source:
    """Two or three images in one of the layouts."""
    if layout == "sample":
        return "sample"
    hr, lr, names, source = {
        "two folders": ("a", "b", ("1", "2"), (root / "a", root / "b")),
        "DIV2K_LSDIR": ("DIV2K_LSDIR_valid_HR", "DIV2K_LSDIR_valid_LR", ("0801", "0000001"), root),
        "DIV2K_LSDIR in DIV2K": (
            "DIV2K/DIV2K_LSDIR_valid_HR",
            "DIV2K/DIV2K_LSDIR_valid_LR",
            ("0801", "0000001"),
            root,
        ),
        "its HR folder": (
            "DIV2K_LSDIR_valid_HR",
            "DIV2K_LSDIR_valid_LR",
            ("0801", "0000001"),
            root / "DIV2K_LSDIR_valid_HR",
        ),
        "benchmark": ("HR", "LR_bicubic/X4", ("a", "b"), root),
        "benchmark without LR": ("HR", "", ("a", "b"), root),
        "plain": ("", "", ("a", "b"), root),
    }[layout]
    write(root / hr, *names)
    if lr:
        write(root / lr, *(f"{name}x4" for name in names), size=(4, 6))
    return source


LAYOUTS = {
    "sample": 11,
    "two folders": 4,
    "DIV2K_LSDIR": 4,
    "DIV2K_LSDIR in DIV2K": 4,
    "its HR folder": 4,
    "benchmark": 4,
    "benchmark without LR": 2,
    "plain": 2,
}
"""Layouts, and the number of image files in each."""


@pytest.mark.parametrize(("layout", "images"), LAYOUTS.items())
def test_every_layout_that_opens_is_verified(tmp_path: Path, layout: str, images: int) -> None:
    source = make_layout(tmp_path, layout)
    assert len(open_dataset(source)) == 2
    assert verify(source, progress=False) == Verification(images, ())
    assert sum(folder.images for folder in info(source)) == images


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in ("sample", "its HR folder")])
def test_a_damaged_image_is_reported_in_every_layout(tmp_path: Path, layout: str) -> None:
    source = make_layout(tmp_path, layout)
    file = sorted(tmp_path.rglob("*.png"))[-1]
    file.write_bytes(file.read_bytes()[:-5])
    (problem,) = verify(source, progress=False).problems
    assert problem.startswith(f"{file} is truncated")


@pytest.mark.parametrize("file", ["HR/a.png", "LR_bicubic/X4/ax4.png"])
def test_a_damaged_image_of_a_pair_is_reported_once(tmp_path: Path, file: str) -> None:
    make_layout(tmp_path, "benchmark")
    (tmp_path / file).write_bytes(b"")
    (problem,) = verify(tmp_path, progress=False).problems
    assert problem.startswith(f"{tmp_path / file} is empty")


def test_images_without_a_partner_are_all_reported(tmp_path: Path) -> None:
    make_layout(tmp_path, "DIV2K_LSDIR")
    write(tmp_path / "DIV2K_LSDIR_valid_HR", "0802", "0803")
    write(tmp_path / "DIV2K_LSDIR_valid_LR", "0804x4", size=(4, 6))
    problems = verify(tmp_path, progress=False).problems
    assert [problem.split(";")[0] for problem in problems] == [
        f"no LR image for {tmp_path}/DIV2K_LSDIR_valid_HR/0802.png",
        f"no LR image for {tmp_path}/DIV2K_LSDIR_valid_HR/0803.png",
        f"no HR image for {tmp_path}/DIV2K_LSDIR_valid_LR/0804x4.png in {tmp_path}/DIV2K_LSDIR_valid_HR",
    ]
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path)
    assert str(error.value) == f"3 problems: {'; '.join(problems)}"


def test_an_lr_image_of_another_size_is_reported(tmp_path: Path) -> None:
    make_layout(tmp_path, "benchmark")
    write(tmp_path / "LR_bicubic/X4", "bx4", size=(4, 5))
    (problem,) = verify(tmp_path, progress=False).problems
    assert "bx4.png is 5x4, but" in problem and "needs 6x4" in problem


def test_an_hr_image_smaller_than_the_scale_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "dot", size=(3, 9))
    assert verify(tmp_path, progress=False).problems == (f"{tmp_path}/dot.png is smaller than 4x4 pixels; remove it",)


def test_two_files_of_one_image_are_reported(tmp_path: Path) -> None:
    make_layout(tmp_path, "benchmark")
    shutil.copy(tmp_path / "LR_bicubic/X4/ax4.png", tmp_path / "LR_bicubic/X4/a.png")
    write_image(tmp_path / "LR_bicubic/X4/ax4.jpg", np.zeros((4, 6, 3), np.uint8))
    problems = verify(tmp_path, progress=False).problems
    assert any("ax4.jpg and " in problem and "ax4.png have the same name" in problem for problem in problems)


def test_div2k_must_be_complete_and_one_hr_folder_of_it_alone_may_be_verified(tmp_path: Path) -> None:
    names = [f"{number:04d}" for number in range(801, 901)]
    write(tmp_path / "DIV2K_valid_HR", *names)
    write(tmp_path / "DIV2K_valid_LR_bicubic/X4", *(f"{name}x4" for name in names), size=(4, 6))
    assert verify(tmp_path / "DIV2K_valid_HR", progress=False) == Verification(200, ())
    found = verify(tmp_path, progress=False)
    assert found.images == 200
    assert "DIV2K_train_HR lacks 800 of 800 images: 0001.png, 0002.png, 0003.png; get them with" in found.problems[0]
    assert [problem.split(":")[0] for problem in found.problems] == [
        f"{tmp_path}/DIV2K_train_HR lacks 800 of 800 images",
        f"{tmp_path}/DIV2K_train_LR_bicubic/X4 lacks 800 of 800 images",
    ]
    (tmp_path / "DIV2K_valid_LR_bicubic/X4/0803x4.png").unlink()
    (problem,) = verify(tmp_path / "DIV2K_valid_HR", progress=False).problems
    assert problem.startswith(f"{tmp_path}/DIV2K_valid_LR_bicubic/X4 lacks 1 of 100 images: 0803x4.png;")


def test_the_benchmark_folder_is_verified_and_listed(reference: Path) -> None:
    assert verify(reference / "data/Set5", scale=3, progress=False) == Verification(10, ())
    listed = info(reference / "data/Set5")
    assert [(folder.path.name, folder.images, folder.expected) for folder in listed] == [
        ("HR", 5, 0),
        ("X2", 5, 0),
        ("X3", 5, 0),
        ("X4", 5, 0),
    ]
    assert (listed[0].smallest, listed[0].largest) == ((256, 256), (512, 512))
    assert listed[0].size == sum(file.stat().st_size for file in (reference / "data/Set5/HR").iterdir())


def test_the_official_number_of_images_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "DIV2K/DIV2K_valid_HR", "0801")
    write(tmp_path / "DIV2K/DIV2K_valid_LR_bicubic/X3", "0801x3")
    assert [(folder.images, folder.expected) for folder in info(tmp_path)] == [(1, 100), (1, 100)]


def test_the_progress_is_shown_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a")
    verify(tmp_path, progress=False)
    assert capsys.readouterr().err == ""
    verify(tmp_path)
    assert "verify: 100%" in capsys.readouterr().err


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in"):
        verify(tmp_path, progress=False)
    for function in (verify, info):
        with pytest.raises(DataError, match="absent does not exist"):
            function(tmp_path / "absent")
