"""Training pairs made from a teacher's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fmen.errors import UserError
from fmen.training.pseudo_labels import check_teachers, label_folders, mean_output
from fmen_data import imresize, open_dataset, read_image, write_image


def double(lr: np.ndarray) -> np.ndarray:
    return lr.repeat(2, 0).repeat(2, 1)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        write_image(tmp_path / f"photos/{name}.png", generator.integers(0, 256, (20, 30, 3), np.uint8))
    return tmp_path / "photos"


def test_the_labelled_folder_is_a_dataset_of_the_teachers_outputs(photographs: Path, tmp_path: Path) -> None:
    made = label_folders([double], [photographs], tmp_path / "out", scale=2, factors=(0.5, 1.0), progress=False)
    assert made == 4
    dataset = open_dataset(tmp_path / "out", scale=2, split="train")
    assert [pair.name for pair in dataset.pairs] == ["a_050", "a_100", "b_050", "b_100"]
    photograph = read_image(photographs / "a.png")
    for index, lr in ((0, imresize(photograph, 0.5)), (1, photograph)):
        found_lr, found_hr = dataset.read(index)
        assert np.array_equal(found_lr, lr)
        assert np.array_equal(found_hr, double(lr))


def test_labelling_continues_where_it_stopped(photographs: Path, tmp_path: Path) -> None:
    label_folders([double], [photographs], tmp_path / "out", scale=2, factors=(1.0,), progress=False)
    (tmp_path / "out/HR/b_100.png").unlink()
    asked: list[tuple[int, ...]] = []

    def teacher(lr: np.ndarray) -> np.ndarray:
        asked.append(lr.shape)
        return double(lr)

    assert label_folders([teacher], [photographs], tmp_path / "out", scale=2, factors=(1.0,), progress=False) == 1
    assert asked == [(20, 30, 3)]


def test_photographs_of_one_name_in_two_formats_give_two_pairs(photographs: Path, tmp_path: Path) -> None:
    write_image(photographs / "a.jpg", np.full((12, 16, 3), 7, np.uint8))
    made = label_folders([double], [photographs], tmp_path / "out", scale=2, factors=(1.0,), progress=False)
    assert made == 3
    dataset = open_dataset(tmp_path / "out", scale=2)
    assert [pair.name for pair in dataset.pairs] == ["a.jpg_100", "a.png_100", "b_100"]
    assert np.array_equal(dataset.read(0)[0], read_image(photographs / "a.jpg"))
    assert np.array_equal(dataset.read(1)[0], read_image(photographs / "a.png"))
    assert label_folders([double], [photographs], tmp_path / "out", scale=2, factors=(1.0,), progress=False) == 0


def test_the_photographs_of_several_folders_are_labelled(photographs: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "others/c.png", np.full((12, 16, 3), 7, np.uint8))
    folders = [photographs, tmp_path / "others"]
    assert label_folders([double], folders, tmp_path / "out", scale=2, factors=(1.0,), progress=False) == 3
    assert [pair.name for pair in open_dataset(tmp_path / "out", scale=2).pairs] == ["a_100", "b_100", "c_100"]


def test_two_folders_with_an_image_of_one_name_are_refused(photographs: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "others/b.png", np.full((12, 16, 3), 7, np.uint8))
    with pytest.raises(UserError, match=r"photos/b\.png and .*others/b\.png would give pairs of one name; rename one"):
        label_folders([double], [photographs, tmp_path / "others"], tmp_path / "out", scale=2)
    assert not (tmp_path / "out").exists()


def test_existing_pairs_of_other_photographs_are_not_taken_for_those_of_these(
    photographs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    label_folders([double], [photographs], out, scale=2, factors=(1.0,), progress=False)
    write_image(tmp_path / "others/b.png", np.full((12, 16, 3), 7, np.uint8))
    write_image(tmp_path / "others/c.png", np.full((12, 16, 3), 7, np.uint8))
    with pytest.raises(UserError, match=r"HR/b_100\.png was made from .*photos/b\.png, not from .*others/b\.png; name"):
        label_folders([double], [tmp_path / "others"], out, scale=2, factors=(1.0,), progress=False)
    assert not (out / "HR/c_100.png").exists()
    (out / "HR/b_100.png").unlink()  # a pair that was not completed
    assert label_folders([double], [tmp_path / "others"], out, scale=2, factors=(1.0,), progress=False) == 2
    (out / "photographs.json").unlink()
    assert label_folders([double], [photographs], out, scale=2, factors=(1.0,), progress=False) == 0


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}'])
def test_a_damaged_record_is_one_line(content: str, photographs: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "out/HR/other_100.png", np.zeros((4, 4, 3), np.uint8))
    for name in ("teachers", "photographs"):
        (tmp_path / f"out/{name}.json").write_text(content)
    with pytest.raises(UserError, match=r"out/teachers\.json is damaged; restore it, or name another folder"):
        check_teachers(tmp_path / "out", [], self_ensemble=False)
    with pytest.raises(UserError, match=r"out/photographs\.json is damaged"):
        label_folders([double], [photographs], tmp_path / "out", scale=2, progress=False)


@pytest.mark.parametrize("factors", [(0.601, 0.604), (1.0, 1.0)])
def test_factors_with_the_same_percentage_are_refused(
    photographs: Path, tmp_path: Path, factors: tuple[float, ...]
) -> None:
    with pytest.raises(UserError, match=r"must differ by 0\.01 or more"):
        label_folders([double], [photographs], tmp_path / "out", scale=2, factors=factors)


def test_several_teachers_are_averaged_and_rounded() -> None:
    def constant(value: int) -> np.ndarray:
        return np.full((2, 2, 3), value, np.uint8)

    assert mean_output([lambda _: constant(250), lambda _: constant(255)], constant(0)).max() == 253


@pytest.mark.parametrize("factors", [(), (0.0,), (1.5,)])
def test_factors_out_of_range_are_refused(photographs: Path, tmp_path: Path, factors: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="above 0 and at most 1"):
        label_folders([double], [photographs], tmp_path / "out", scale=2, factors=factors)
