"""``imresize`` against MATLAB's published results, and against a slow implementation of the documented algorithm."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fmen_data import DataError, imresize, read_image

SET5 = ("baby", "bird", "butterfly", "head", "woman")
SCALES = [0.25, 0.5, 1 / 3, 0.37, 1 / 6, 0.77, 1.0, 1.5, 1.7, 2.0, 7 / 3, 3.0, 4.0, 0.01]


def cubic(x: float) -> float:
    """Keys' cubic kernel with a = -1/2."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x <= 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0


def taps(length: int, scale: float, position: int) -> list[tuple[int, float]]:
    """The input pixels and weights of the output pixel at a position, which MATLAB counts from 1."""
    shrink = min(scale, 1.0)  # antialiasing: the kernel is widened when the image becomes smaller
    width = 4 / shrink
    centre = position / scale + 0.5 * (1 - 1 / scale)
    left = math.floor(centre - width / 2)
    weights = {left + k: shrink * cubic(shrink * (centre - (left + k))) for k in range(math.ceil(width) + 2)}
    total = 0.0
    for weight in weights.values():
        total += weight
    mirrored = [*range(length), *reversed(range(length))]
    return [(mirrored[(index - 1) % (2 * length)], weight / total) for index, weight in weights.items()]


def resample_rows(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize the first dimension in double precision, one output line and one tap at a time."""
    lines = []
    for position in range(1, math.ceil(image.shape[0] * scale) + 1):
        line = np.zeros(image.shape[1:])
        for index, weight in taps(image.shape[0], scale, position):
            line = line + weight * image[index]
        lines.append(line)
    return np.array(lines)


def resample(image: np.ndarray, scale: float, after_each_pass: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resize the rows, then the columns."""
    for _ in range(2):
        image = after_each_pass(resample_rows(image, scale)).swapaxes(0, 1)
    return image


def unrounded(values: np.ndarray) -> np.ndarray:
    return values


def to_uint8(values: np.ndarray) -> np.ndarray:
    """MATLAB's conversion of doubles to uint8: half away from zero, clamped."""
    return np.clip(np.sign(values) * np.floor(np.abs(values) + 0.5), 0, 255).astype(np.uint8)


def to_uint16(values: np.ndarray) -> np.ndarray:
    return np.clip(np.sign(values) * np.floor(np.abs(values) + 0.5), 0, 65535).astype(np.uint16)


def slow_imresize(image: np.ndarray, scale: float) -> np.ndarray:
    return resample(image, scale, to_uint8 if image.dtype == np.uint8 else to_uint16)


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 luma from 16 to 235 of an RGB image, as MATLAB's ``rgb2ycbcr`` computes it for doubles."""
    return image @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def set5_image(reference: Path, name: str, scale: int) -> np.ndarray:
    image = read_image(reference / f"data/Set5/HR/{name}.png")
    return image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]


def test_imresize_equals_matlab_on_every_set5_lr_file(reference: Path) -> None:
    files = sorted((reference / "data/Set5/LR_bicubic").glob("X*/*.png"))
    assert len(files) == 15
    for file in files:
        scale = int(file.parent.name[1:])
        hr = set5_image(reference, file.stem.removesuffix(f"x{scale}"), scale)
        assert np.count_nonzero(imresize(hr, 1 / scale) != read_image(file)) == 0, file


ENLARGED = {
    2: ("ef5969f76f1e1250", "397f01470dc7cb12", "bbac3fdbd3999e3b", "b2fe7d07bf3a2844", "0d93656d020a0670"),
    3: ("75931db8cc74c4bc", "b4f3b2f9c2b20b26", "55520474e2cf89bd", "16c4806dfdefd997", "9d8fb38fa00340f7"),
    4: ("bdc7d959f2c6f2ad", "b5dba7a322a90ccb", "af4cbfda44f60c3a", "85d101838f53a7ff", "f773d8171ad3f541"),
}
"""First 16 digits of the SHA-256 of the pixels of Set5's images, downscaled and upscaled again by MATLAB in uint8, as
published in github.com/twtygqyy/pytorch-vdsr: ``Set5/NAME_GT_scale_SCALE.bmp``, in the order of `SET5`."""


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_imresize_equals_matlab_on_every_published_enlarged_set5_file(reference: Path, scale: int) -> None:
    for name, digest in zip(SET5, ENLARGED[scale], strict=True):
        enlarged = imresize(imresize(set5_image(reference, name, scale), 1 / scale), scale)
        assert hashlib.sha256(enlarged.tobytes()).hexdigest().startswith(digest), name


@pytest.mark.parametrize(
    ("name", "scale", "height", "expected"),
    [
        (
            "bird",
            2,
            288,
            {
                (0, 0): 42.478412413063815,
                (0, 287): 154.6457106978751,
                (287, 1): 132.14925604261862,
                (100, 50): 88.51463663929643,
                (144, 285): 163.20463152548632,
            },
        ),
        (
            "butterfly",
            3,
            255,
            {
                (0, 0): 55.03088193290678,
                (0, 254): 71.67482933281177,
                (254, 1): 60.19309421507362,
                (100, 50): 125.53166327267571,
                (127, 252): 89.51409688816217,
            },
        ),
        (
            "woman",
            4,
            340,
            {
                (0, 0): 38.38391550060615,
                (0, 227): 22.67477647058823,
                (339, 1): 110.97967701552513,
                (100, 50): 185.33079066797853,
                (170, 225): 27.557630787100422,
            },
        ),
    ],
)
def test_the_slow_implementation_equals_matlabs_double_precision(
    reference: Path, name: str, scale: int, height: int, expected: dict[tuple[int, int], float]
) -> None:
    """Against the array ``im_b_y`` of ``Set5_mat/NAME_GT_xSCALE.mat`` in github.com/twtygqyy/pytorch-vdsr."""
    hr = set5_image(reference, name, scale)[:height]
    enlarged = resample(resample(luma(hr), 1 / scale, unrounded), scale, unrounded)
    for position, value in expected.items():
        assert enlarged[position] == pytest.approx(value, abs=1e-11)


@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_the_slow_implementation_gives_the_bicubic_psnr_of_sr_papers(
    reference: Path, scale: int, published: float
) -> None:
    """SRCNN's protocol, whose numbers later papers repeat: rounded luma, resized as doubles, rounded at the end."""
    decibels = []
    for name in SET5:
        hr = to_uint8(luma(set5_image(reference, name, scale)))
        sr = to_uint8(resample(resample(hr, 1 / scale, unrounded), scale, unrounded))
        error = (sr.astype(float) - hr)[scale:-scale, scale:-scale]
        decibels.append(10 * math.log10(255**2 / np.mean(error**2)))
    assert round(np.mean(decibels), 2) == published


def random_image(generator: np.random.Generator, kind: str) -> np.ndarray:
    height, width = generator.integers(1, 40, 2)
    shape = (height, width) if generator.integers(2) else (height, width, 3)
    if kind == "noise":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    if kind == "black and white":
        return (generator.integers(0, 2, shape) * 255).astype(np.uint8)
    if kind == "constant":
        return np.full(shape, generator.integers(0, 256), np.uint8)
    stripes = np.arange(height)[:, None] % 2 if kind == "horizontal stripes" else np.arange(width)[None] % 2
    return np.ascontiguousarray(
        np.broadcast_to(255 * stripes.reshape(*stripes.shape, *[1] * (len(shape) - 2)), shape), np.uint8
    )


KINDS = ["noise", "black and white", "constant", "horizontal stripes", "vertical stripes"]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_imresize_equals_the_slow_implementation(scale: float, kind: str) -> None:
    generator = np.random.default_rng([SCALES.index(scale), KINDS.index(kind)])
    for _ in range(4):
        image = random_image(generator, kind)
        assert np.array_equal(imresize(image, scale), slow_imresize(image, scale)), image.shape


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 2.0, 3.0])
def test_imresize_equals_the_slow_implementation_on_images_of_several_blocks(scale: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    assert np.array_equal(imresize(image, scale), slow_imresize(image, scale))


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 2.0])
def test_imresize_equals_the_slow_implementation_in_sixteen_bits(scale: float) -> None:
    image = np.random.default_rng(0).integers(0, 2**16, (60, 80, 3), dtype=np.uint16)
    image[:20] = 65535 * (image[:20] > 32768)  # overshoots, which are clamped
    resized = imresize(image, scale)
    assert resized.dtype == np.uint16 and np.array_equal(resized, slow_imresize(image, scale))


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 3.0])
def test_a_gray_image_is_resized_as_each_of_three_equal_channels(scale: float) -> None:
    gray = np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
    small = imresize(gray, scale)
    assert small.ndim == 2
    assert np.array_equal(imresize(np.dstack([gray] * 3), scale), np.dstack([small] * 3))


def test_an_image_that_is_not_contiguous_is_resized_as_its_copy() -> None:
    image = np.random.default_rng(3).integers(0, 256, (41, 60, 3), dtype=np.uint8)[::2, ::-1]
    assert np.array_equal(imresize(image, 0.5), imresize(image.copy(), 0.5))


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
        ([[0]], 2, "takes uint8 or uint16 images, got list"),
        (np.zeros((4, 4), np.float32), 2, "takes uint8 or uint16 images, got float32"),
        (np.zeros((4, 4, 4), np.uint8), 2, r"takes images of shape \(H, W\) or \(H, W, 3\), got \(4, 4, 4\)"),
        (np.zeros(4, np.uint8), 2, r"got \(4,\)"),
        (np.zeros((0, 4), np.uint8), 2, r"got \(0, 4\)"),
        (np.zeros((4, 4), np.uint8), 0, "takes a positive scale such as 0.25 or 2, got 0"),
        (np.zeros((4, 4), np.uint8), -1, "got -1"),
        (np.zeros((4, 4), np.uint8), float("nan"), "got nan"),
        (np.zeros((4, 4), np.uint8), float("inf"), "got inf"),
    ],
)
def test_imresize_names_what_it_does_not_take(image: np.ndarray, scale: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        imresize(image, scale)
