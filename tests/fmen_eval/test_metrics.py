"""PSNR and SSIM against a plain spelling-out of their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fmen_eval import PROTOCOLS, EvaluationError, Protocol, psnr, rgb_to_y, ssim


def noisy_pair(height: int, width: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    rows, columns, channels = np.mgrid[:height, :width, :3]
    smooth = 128 + 100 * np.sin(rows / 9 + channels) * np.cos(columns / 13)
    hr = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).round().astype(np.uint8)
    sr = np.clip(hr + rng.normal(0, 6, hr.shape), 0, 255).round().astype(np.uint8)
    return sr, hr


def compared_channels(image: NDArray[np.uint8], border: int, protocol: str) -> list[NDArray[np.float64]]:
    height, width = image.shape[:2]
    if protocol != "ntire":
        luma = 16 + (65.481 * image[..., 0] + 128.553 * image[..., 1] + 24.966 * image[..., 2]) / 255
        image = np.round(luma)[..., None] if protocol == "kair-y" else luma[..., None]
    cropped = image[border : height - border, border : width - border].astype(np.float64)
    return [cropped[..., channel] for channel in range(cropped.shape[2])]


def defined_psnr(sr: NDArray[np.uint8], hr: NDArray[np.uint8], border: int, protocol: str) -> float:
    pairs = zip(compared_channels(sr, border, protocol), compared_channels(hr, border, protocol), strict=True)
    return 20 * math.log10(255 / math.sqrt(np.mean([(a - b) ** 2 for a, b in pairs])))


def defined_ssim(sr: NDArray[np.uint8], hr: NDArray[np.uint8], border: int, protocol: str) -> float:
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    means = []
    for a, b in zip(compared_channels(sr, border, protocol), compared_channels(hr, border, protocol), strict=True):

        def expectation(image: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.einsum("ijkl,kl->ij", np.lib.stride_tricks.sliding_window_view(image, (11, 11)), window)

        mean_a, mean_b = expectation(a), expectation(b)
        variance_a, variance_b = expectation(a * a) - mean_a**2, expectation(b * b) - mean_b**2
        covariance = expectation(a * b) - mean_a * mean_b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        means.append(np.mean(numerator / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))
    return float(np.mean(means))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("height", "width", "border"), [(19, 20, 4), (64, 83, 0), (151, 90, 3)])
def test_metrics_equal_their_definition(protocol: Protocol, height: int, width: int, border: int) -> None:
    sr, hr = noisy_pair(height, width)
    assert psnr(sr, hr, border=border, protocol=protocol) == pytest.approx(
        defined_psnr(sr, hr, border, protocol), abs=1e-9
    )
    assert ssim(sr, hr, border=border, protocol=protocol) == pytest.approx(
        defined_ssim(sr, hr, border, protocol), abs=1e-9
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_identical_images_are_infinitely_good(protocol: Protocol) -> None:
    _, hr = noisy_pair(40, 40)
    assert psnr(hr, hr, protocol=protocol) == math.inf
    assert ssim(hr, hr, protocol=protocol) == pytest.approx(1, abs=1e-12)


def test_opposite_images_are_measured_without_overflow() -> None:
    black, white = np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0, abs=1e-12)
    assert ssim(black, white) == pytest.approx(defined_ssim(black, white, 4, "ntire"), abs=1e-12)


def test_metrics_ignore_the_border() -> None:
    sr, hr = noisy_pair(40, 40)
    spoilt = sr.copy()
    spoilt[:4], spoilt[-4:], spoilt[:, :4], spoilt[:, -4:] = 0, 0, 0, 0
    assert psnr(spoilt, hr) == psnr(sr, hr)
    assert ssim(spoilt, hr) == ssim(sr, hr)


def test_metrics_take_strided_views() -> None:
    sr, hr = noisy_pair(60, 60)
    views = sr[::-1, ::2], hr[::-1, ::2]
    copies = np.ascontiguousarray(views[0]), np.ascontiguousarray(views[1])
    assert psnr(*views) == psnr(*copies)
    assert ssim(*views) == ssim(*copies)


def test_luma_spans_16_to_235() -> None:
    image = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    assert rgb_to_y(image) == pytest.approx(np.array([[16, 235, 81.481]]))
    assert rgb_to_y(image, rounded=True).tolist() == [[16, 235, 81]]
    for other in (image[0], image[..., 0], image[..., :2]):
        with pytest.raises(EvaluationError, match=r"expected an RGB image \(H, W, 3\), got "):
            rgb_to_y(other)


def test_rounding_the_luma_costs_hundredths_of_a_decibel(reference: Path) -> None:
    hr = cv2.imread(str(reference / "data/Set5/HR/baby.png"))[..., ::-1]
    lr = cv2.imread(str(reference / "data/Set5/LR_bicubic/X4/babyx4.png"))[..., ::-1]
    sr = cv2.resize(lr, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    exact, rounded = (psnr(sr, hr[:512, :512], protocol=p) for p in PROTOCOLS[1:])
    assert 0.005 < exact - rounded < 0.05


@pytest.mark.parametrize(
    ("sr", "hr", "arguments", "message"),
    [
        (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 24, 3), np.uint8), {}, "SR image is 20x20, the HR image 24x20"),
        ([[[0, 0, 0]]], np.zeros((1, 1, 3), np.uint8), {}, "the SR image is a list: an array of NumPy is needed"),
        (np.zeros((20, 20, 3)), np.zeros((20, 20, 3), np.uint8), {}, "SR image is float64"),
        (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8), {}, "HR image is uint8 \\(20, 20\\)"),
        (np.zeros((18, 30, 3), np.uint8), np.zeros((18, 30, 3), np.uint8), {}, "at least 11x11"),
        (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8), {"protocol": "y"}, "ntire, paper, kair-y"),
        (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8), {"border": -1}, "border is -1"),
    ],
)
def test_unusable_input_is_named_in_one_line(
    sr: NDArray[np.uint8], hr: NDArray[np.uint8], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        ssim(sr, hr, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_default_border_is_4() -> None:
    sr, hr = noisy_pair(40, 40)
    assert psnr(sr, hr) == psnr(sr, hr, border=4)
    assert ssim(sr, hr) == ssim(sr, hr, border=4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_psnr_needs_one_pixel_inside_the_border(protocol: Protocol) -> None:
    sr, hr = noisy_pair(9, 9)
    assert psnr(sr, hr, protocol=protocol) == pytest.approx(defined_psnr(sr, hr, 4, protocol), abs=1e-9)
    with pytest.raises(EvaluationError, match=r"the images are 8x9: without a border of 4 pixels .* at least 1x1"):
        psnr(sr[:, :8], hr[:, :8], protocol=protocol)
