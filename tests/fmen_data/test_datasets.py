"""The dataset layouts, and the errors for LR and HR images that do not belong together."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fmen_data import DataError, imresize, open_dataset, parse_source, prepare_cache, read_image, write_image

GENERATOR = np.random.default_rng(0)


def write_hr(folder: Path, *names: str, size: tuple[int, int] = (24, 32)) -> None:
    for name in names:
        write_image(folder / f"{name}.png", GENERATOR.integers(0, 256, (*size, 3), dtype=np.uint8))


def write_lr(folder: Path, *names: str, size: tuple[int, int] = (6, 8)) -> None:
    write_hr(folder, *names, size=size)


def test_the_sample_dataset_is_installed_and_its_splits_are_disjoint() -> None:
    train, val = open_dataset("sample", split="train"), open_dataset("sample")
    assert not {pair.name for pair in train.pairs} & {pair.name for pair in val.pairs}
    assert len(train) == 9
    assert [pair.name for pair in val.pairs] == ["chelsea", "coffee"]
    for name, lr, hr in val:
        assert hr.shape == (lr.shape[0] * 4, lr.shape[1] * 4, 3), name
        assert np.array_equal(lr, imresize(hr, 0.25))


def test_set5_pairs_with_the_lr_images_of_the_scale(reference: Path) -> None:
    for scale in (2, 3, 4):
        dataset = open_dataset(reference / "data/Set5", scale=scale)
        assert (dataset.name, len(dataset)) == ("Set5", 5)
        for pair, (name, lr, hr) in zip(dataset.pairs, dataset, strict=True):
            assert pair.lr and pair.lr.name == f"{name}x{scale}.png"
            assert hr.shape == (lr.shape[0] * scale, lr.shape[1] * scale, 3)


def test_div2k_and_flickr2k_add_up_for_training(tmp_path: Path) -> None:
    write_hr(tmp_path / "DIV2K/DIV2K_train_HR", "0001", "0002")
    write_lr(tmp_path / "DIV2K/DIV2K_train_LR_bicubic/X4", "0001x4", "0002x4")
    write_hr(tmp_path / "DIV2K/DIV2K_valid_HR", "0801")
    write_hr(tmp_path / "Flickr2K/Flickr2K_HR", "000001")
    train, val = open_dataset(tmp_path, split="train"), open_dataset(tmp_path, split="val")
    assert train.name == "DIV2K-train+Flickr2K"
    assert [(pair.name, pair.lr is not None) for pair in train.pairs] == [
        ("0001", True),
        ("0002", True),
        ("000001", False),
    ]
    assert (val.name, [pair.name for pair in val.pairs]) == ("DIV2K-val", ["0801"])


def test_div2k_is_found_from_its_own_folder_and_from_its_hr_folder(tmp_path: Path) -> None:
    write_hr(tmp_path / "DIV2K_valid_HR", "0801")
    write_lr(tmp_path / "DIV2K_valid_LR_bicubic/X4", "0801x4")
    for folder in (tmp_path, tmp_path / "DIV2K_valid_HR"):
        dataset = open_dataset(folder)
        assert dataset.name == "DIV2K-val"
        assert dataset.pairs[0].lr == tmp_path.resolve() / "DIV2K_valid_LR_bicubic/X4/0801x4.png"


def test_the_challenge_layout_of_div2k_and_lsdir_is_found(tmp_path: Path) -> None:
    write_hr(tmp_path / "DIV2K_LSDIR_valid_HR", "0801", "0000001")
    write_lr(tmp_path / "DIV2K_LSDIR_valid_LR", "0801x4", "0000001x4")
    assert [pair.lr is not None for pair in open_dataset(tmp_path).pairs] == [True, True]


def test_a_missing_split_is_an_error_and_not_replaced_by_the_other(tmp_path: Path) -> None:
    write_hr(tmp_path / "DIV2K_train_HR", "0001")
    with pytest.raises(DataError, match=r"no DIV2K_valid_HR for val; get it with: fmen data download"):
        open_dataset(tmp_path, split="val")


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(DataError, match="unknown split 'valid'; choose 'train' or 'val'"):
        open_dataset("sample", split="valid")  # type: ignore[arg-type]


def test_a_plain_folder_serves_either_split_with_lr_made_by_imresize(tmp_path: Path) -> None:
    write_hr(tmp_path, "a", size=(27, 33))
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split=split)  # type: ignore[arg-type]
        lr, hr = dataset.read(0)
        cropped = read_image(tmp_path / "a.png")[:24, :32]
        assert np.array_equal(hr, cropped)
        assert np.array_equal(lr, imresize(cropped, 0.25))


def test_two_folders_pair_by_name_with_or_without_the_scale(tmp_path: Path) -> None:
    write_hr(tmp_path / "hr", "a", "bx4")
    write_lr(tmp_path / "lr", "ax4", "bx4")
    dataset = open_dataset((tmp_path / "hr", tmp_path / "lr"))
    assert [(pair.name, pair.lr and pair.lr.stem) for pair in dataset.pairs] == [("a", "ax4"), ("bx4", "bx4")]


def test_an_hr_image_without_lr_is_named(tmp_path: Path) -> None:
    write_hr(tmp_path / "HR", "a", "b")
    write_lr(tmp_path / "LR_bicubic/X4", "ax4")
    with pytest.raises(DataError, match=r"no LR image for .*b\.png; put bx4\.png into"):
        open_dataset(tmp_path)


def test_an_lr_image_without_hr_is_named(tmp_path: Path) -> None:
    write_hr(tmp_path / "HR", "a")
    write_lr(tmp_path / "LR_bicubic/X4", "ax4", "strangerx4")
    with pytest.raises(DataError, match=r"no HR image for .*strangerx4\.png"):
        open_dataset(tmp_path)


def test_an_lr_image_of_another_size_is_named_when_the_dataset_is_opened(tmp_path: Path) -> None:
    write_hr(tmp_path / "HR", "a")
    write_lr(tmp_path / "LR_bicubic/X4", "ax4", size=(6, 7))
    with pytest.raises(DataError, match=r"ax4\.png is 7x6, but .*a\.png at scale 4 needs 8x6"):
        open_dataset(tmp_path)


def test_all_images_without_a_match_are_named_at_once(tmp_path: Path) -> None:
    write_hr(tmp_path / "HR", "a", "b", "c")
    write_lr(tmp_path / "LR_bicubic/X4", "ax4", "bx4", "cx4", size=(6, 9))
    with pytest.raises(DataError, match=r"^3 problems: .*ax4\.png is 9x6.*bx4\.png is 9x6.*cx4\.png is 9x6"):
        open_dataset(tmp_path)
    for name in ("ax4.png", "cx4.png"):
        (tmp_path / "LR_bicubic/X4" / name).unlink()
    with pytest.raises(DataError, match=r"^3 problems: no LR image for .*a\.png; put .*; no LR .*c\.png.*bx4\.png"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("folder", ["HR", "LR_bicubic/X4"])
def test_two_files_of_one_image_are_refused_and_both_named(tmp_path: Path, folder: str) -> None:
    write_hr(tmp_path / "HR", "0001", "0002")
    write_lr(tmp_path / "LR_bicubic/X4", "0001", "0002")
    assert len(open_dataset(tmp_path)) == 2
    size = (24, 32, 3) if folder == "HR" else (6, 8, 3)
    write_image(tmp_path / folder / "0001.jpg", np.zeros(size, np.uint8))
    write_image(tmp_path / folder / "0002.jpg", np.zeros(size, np.uint8))
    clash = rf"{folder}/0001\.jpg and .*{folder}/0001\.png have the same name; rename.*; .*0002\.jpg and .*0002\.png"
    with pytest.raises(DataError, match=clash):
        open_dataset(tmp_path)
    reported: list[str] = []
    assert [pair.name for pair in open_dataset(tmp_path, on_skip=reported.append).pairs] == ["0001", "0002"]
    assert len(reported) == 2


def test_an_image_of_the_same_name_in_div2k_and_flickr2k_is_refused(tmp_path: Path) -> None:
    write_hr(tmp_path / "DIV2K/DIV2K_train_HR", "0001")
    write_hr(tmp_path / "Flickr2K/Flickr2K_HR", "0001")
    with pytest.raises(DataError, match=r"DIV2K_train_HR/0001\.png and .*Flickr2K_HR/0001\.png have the same name"):
        open_dataset(tmp_path, split="train")


def test_a_name_that_is_not_utf8_cannot_be_in_a_cache(tmp_path: Path) -> None:
    write_image(tmp_path / "set/a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "set/a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/set/caf\xe9.png"))
    with pytest.raises(DataError, match="the name is not UTF-8; rename it"):
        prepare_cache(open_dataset(tmp_path / "set"), progress=False)
    write_image(tmp_path / "set/b.png", np.zeros((8, 8, 3), np.uint8))
    left_out: list[str] = []
    prepare_cache(open_dataset(tmp_path / "set"), tmp_path / "c.h5", progress=False, on_skip=left_out.append)
    assert left_out == [f"{tmp_path}/set/caf\ufffd.png: the name is not UTF-8; rename it"]


def test_a_source_with_a_comma_is_two_folders_unless_a_folder_has_that_name(tmp_path: Path) -> None:
    assert parse_source(f"{tmp_path}/hr, {tmp_path}/lr") == (tmp_path / "hr", tmp_path / "lr")
    (tmp_path / "hr, lr").mkdir()
    assert parse_source(f"{tmp_path}/hr, lr") == f"{tmp_path}/hr, lr"
    assert parse_source("sample") == "sample"


def test_an_image_smaller_than_the_scale_is_named(tmp_path: Path) -> None:
    write_hr(tmp_path, "dot", size=(3, 3))
    with pytest.raises(DataError, match=r"dot\.png is smaller than 4x4"):
        open_dataset(tmp_path).read(0)


@pytest.mark.parametrize("make", ["nothing", "file", "empty folder"])
def test_a_source_without_images_is_named(tmp_path: Path, make: str) -> None:
    source = tmp_path / "source"
    if make == "file":
        source.touch()
    elif make == "empty folder":
        source.mkdir()
    with pytest.raises(DataError, match="source"):
        open_dataset(source)


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown scale 5; choose one of 2, 3, 4"):
        open_dataset(tmp_path, scale=5)


def test_without_scikit_image_the_sample_dataset_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_data.sample.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-image"):
        open_dataset("sample")


def test_pairs_that_do_not_match_are_left_out_on_request(tmp_path: Path) -> None:
    for name, side in (("good", 16), ("alone", 16), ("large", 32)):
        write_image(tmp_path / f"HR/{name}.png", np.zeros((side, side, 3), np.uint8))
    for name in ("good", "large"):
        write_image(tmp_path / f"LR_bicubic/X4/{name}x4.png", np.zeros((4, 4, 3), np.uint8))
    reported: list[str] = []
    assert [pair.name for pair in open_dataset(tmp_path, on_skip=reported.append).pairs] == ["good"]
    assert [("no LR image for" in line, "at scale 4 needs 8x8" in line) for line in reported] == [
        (True, False),
        (False, True),
    ]
    with pytest.raises(DataError, match=r"2 problems: no LR image for .*alone\.png.*large\.png at scale 4 needs 8x8"):
        open_dataset(tmp_path)


def test_reading_a_dataset_names_every_image_that_cannot_be_used(tmp_path: Path) -> None:
    for name in "abcd":
        write_image(tmp_path / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    for name in "bd":
        (tmp_path / f"{name}.png").write_bytes(b"")
    images = iter(open_dataset(tmp_path))
    assert next(images)[0] == "a"
    with pytest.raises(DataError, match=r"2 problems: .*b\.png is empty.*d\.png is empty"):
        next(images)
