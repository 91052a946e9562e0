"""The pictures of docs/gallery.md: the page shows all of them, and they are what the script draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fmen_data import imresize, read_image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gallery(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("gallery")


def test_the_page_shows_every_picture_and_they_are_small(gallery: ModuleType) -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in gallery.cases(4):
        file = ROOT / "docs" / "images" / f"gallery-{name}.png"
        assert f"(images/{file.name})" in page and file.stat().st_size < 300_000


def test_the_pictures_show_lr_then_bicubic_then_a_network(gallery: ModuleType) -> None:
    width, height = gallery.SIZE
    for name, lr in gallery.cases(4).items():
        picture = read_image(ROOT / "docs" / "images" / f"gallery-{name}.png")
        first, second, third = (picture[:, start : start + width] for start in range(0, picture.shape[1], width + 6))
        assert first.shape == third.shape == (height, width, 3)
        most = 0 if name == "clean" else 1  # fonts and JPEG differ slightly between versions of libraries
        assert np.abs(first[::4, ::4].astype(float) - lr).mean() <= most
        assert np.abs(second.astype(float) - imresize(lr, 4)).mean() <= most
        assert not np.array_equal(third, second)


def test_the_damage_is_what_the_page_says(gallery: ModuleType) -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)
    assert gallery.noisy(flat, 12).astype(float).std() == pytest.approx(12, rel=0.05)
    clean = gallery.photograph(4)
    assert clean.shape == (42, 56, 3)
    assert 2 < np.abs(gallery.jpeg(clean, 40).astype(float) - clean).mean() < 20
