"""imresize against MATLAB's own output, and against the plain double-precision sum that it must equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fmen_data import imresize, read_image
from fmen_data.bicubic import _contributions

SCALES = [0.25, 0.5, 1 / 3, 0.3, 1 / 6, 0.77, 1.0, 1.5, 7 / 3, 4.0, 0.01]


def plain_pass(image: np.ndarray, scale: float) -> np.ndarray:
    """One dimension, one tap after the other, as MATLAB sums them: the slow definition."""
    weights, sources = _contributions(image.shape[0], scale)
    total = np.zeros((len(weights), *image.shape[1:]))
    for tap in range(weights.shape[1]):
        total += weights[:, tap].reshape(-1, *[1] * (image.ndim - 1)) * image[sources[:, tap]]
    return np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)


def plain_imresize(image: np.ndarray, scale: float) -> np.ndarray:
    return plain_pass(plain_pass(image, scale).swapaxes(0, 1), scale).swapaxes(0, 1)


def test_imresize_equals_matlab_on_every_set5_file(reference: Path) -> None:
    files = sorted((reference / "data/Set5/LR_bicubic").glob("X*/*.png"))
    assert len(files) == 15
    for file in files:
        scale = int(file.parent.name[1:])
        hr = read_image(reference / "data/Set5/HR" / f"{file.stem.removesuffix(f'x{scale}')}.png")
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        assert np.count_nonzero(imresize(hr, 1 / scale) != read_image(file)) == 0, file


@pytest.mark.parametrize("scale", SCALES)
def test_imresize_equals_the_plain_sum_at_any_scale(scale: float) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (57, 83, 3), dtype=np.uint8)
    extremes = (generator.integers(0, 2, (31, 20, 3)) * 255).astype(np.uint8)
    for image in (noise, extremes, noise[:2, :3], noise[::2, ::-1]):
        assert np.array_equal(imresize(image, scale), plain_imresize(image, scale))


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 3.0])
def test_a_gray_image_resizes_as_each_of_three_equal_channels(scale: float) -> None:
    gray = np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
    small = imresize(gray, scale)
    assert small.ndim == 2
    assert np.array_equal(imresize(np.dstack([gray] * 3), scale), np.dstack([small] * 3))


def test_the_output_size_is_rounded_up() -> None:
    assert imresize(np.zeros((10, 13, 3), np.uint8), 0.25).shape == (3, 4, 3)
    assert imresize(np.zeros((10, 13), np.uint8), 2).shape == (20, 26)


def test_a_constant_image_stays_constant_and_scale_one_changes_nothing() -> None:
    constant = np.full((9, 11, 3), 255, np.uint8)
    assert (imresize(constant, 0.3) == 255).all()
    noise = np.random.default_rng(2).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    assert np.array_equal(imresize(noise, 1), noise)


@pytest.mark.parametrize(
    ("image", "scale", "message"),
    [
        (np.zeros((4, 4), np.float32), 2, "uint8"),
        (np.zeros((4, 4, 4), np.uint8), 2, "shape"),
        (np.zeros((0, 4), np.uint8), 2, "shape"),
        (np.zeros((4, 4), np.uint8), 0, "positive"),
        (np.zeros((4, 4), np.uint8), float("nan"), "positive"),
    ],
)
def test_imresize_says_what_it_cannot_take(image: np.ndarray, scale: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        imresize(image, scale)
