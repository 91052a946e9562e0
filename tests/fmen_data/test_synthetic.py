"""Images that are drawn by code."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmen.cli.data import Kind
from fmen_data import DataError, open_dataset, read_image, synthetic
from fmen_data.synthetic import KINDS, draw_image, write_images

WITHOUT_TEXT = ["leaves", "lines", "facade"]


def kind_or_skip(kind: str) -> str:
    if kind not in WITHOUT_TEXT:
        try:
            synthetic.installed_fonts()
        except DataError as error:
            pytest.skip(str(error))
    return kind


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_follows_from_kind_number_and_seed(kind: str) -> None:
    kind_or_skip(kind)
    image = draw_image(kind, 1, side=96)
    assert image.shape == (96, 96, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, draw_image(kind, 1, side=96))
    assert not np.array_equal(image, draw_image(kind, 2, side=96))
    assert not np.array_equal(image, draw_image(kind, 1, side=96, seed=1))
    assert image.std() > 10


def test_the_radii_of_leaves_follow_the_power_law(monkeypatch: pytest.MonkeyPatch) -> None:
    areas: list[float] = []

    def record(_: Any, shapes: list[Any], label: int) -> None:
        points = shapes[0].astype(np.float64)
        areas.append(np.hypot(*(points - points.mean(0)).T).max())

    monkeypatch.setattr(synthetic.cv2, "fillPoly", record)
    synthetic.draw_leaves(3000, np.random.default_rng(0))
    radii = np.array(areas)
    # P(radius > r) is proportional to r^-2: doubling the radius leaves a quarter.
    shares = [float((radii > 2 * r).sum() / (radii > r).sum()) for r in (5.0, 10.0)]
    assert shares == pytest.approx([0.25, 0.25], abs=0.04)


def test_line_art_is_black_and_white_before_it_is_reduced() -> None:
    page = synthetic.draw_lines(192, np.random.default_rng(0))
    assert set(np.unique(page)) == {0, 255}


def test_a_folder_is_completed_and_becomes_a_dataset(tmp_path: Path) -> None:
    assert write_images(tmp_path, 3, kinds=["leaves", "lines"], side=64, progress=False) == 3
    first = tmp_path / "leaves_00000.png"
    before = first.stat().st_mtime_ns
    (tmp_path / "lines_00000.png").unlink()
    assert write_images(tmp_path, 4, kinds=["leaves", "lines"], side=64, progress=False) == 2
    assert first.stat().st_mtime_ns == before
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["leaves_00000.png", "leaves_00001.png", "lines_00000.png", "lines_00001.png"]
    assert np.array_equal(read_image(tmp_path / "lines_00000.png"), draw_image("lines", 0, side=64))
    assert len(open_dataset(str(tmp_path), scale=4, split="train")) == 4


def test_existing_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, 1, kinds=["leaves"], side=64, progress=False)
    with pytest.raises(DataError, match=r"leaves_00000\.png is 64x64, not 96x96; choose its size or another folder"):
        write_images(tmp_path, 2, kinds=["leaves"], side=96, progress=False)
    assert len(list(tmp_path.iterdir())) == 1


def test_text_without_pillow_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(DataError, match="pip install Pillow"):
        draw_image("text", 0, side=64)


@pytest.mark.parametrize("damaged", [False, True])
def test_text_without_usable_fonts_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damaged: bool
) -> None:
    if damaged:
        (tmp_path / "damaged.ttf").write_bytes(b"no font")
    monkeypatch.setattr(synthetic, "FONT_FOLDERS", (tmp_path,))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    synthetic.installed_fonts.cache_clear()
    try:
        with pytest.raises(DataError, match="no fonts are installed"):
            draw_image("text", 0, side=64)
    finally:
        synthetic.installed_fonts.cache_clear()


def test_the_command_offers_every_kind() -> None:
    assert [kind.value for kind in Kind] == list(KINDS)


@pytest.mark.parametrize(
    ("kind", "number", "options", "message"),
    [
        ("leave", 0, {}, "there is no kind 'leave'; choose from leaves, text, "),
        ("leaves", -1, {}, "number -1, side 480, seed 0: give a side of at least 64"),
        ("leaves", 0, {"side": 63}, "side 63"),
        ("leaves", 0, {"seed": -1}, "seed -1"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused(kind: str, number: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_image(kind, number, **options)
