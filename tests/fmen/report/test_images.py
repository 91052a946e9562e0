"""Images of the report: how previews are stored, and the colors of error maps."""

from __future__ import annotations

import base64
import math

import cv2
import numpy as np
import pytest

from fmen.report.encoding import LOSSLESS, Kind, PreviewQuality, encode, store
from fmen.report.images import cut, error_map
from fmen_data import imresize
from fmen_eval import Protocol


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_preview_is_webp_of_its_quality() -> None:
    image = imresize(noise(6, 10), 16)
    pictures, quality = store({"sr": image}, image.size // 3 - 1, full=False)  # less than a byte per pixel
    assert quality == (0, 95)
    _, expected = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 95])
    assert base64.b64decode(pictures["sr"].uri.partition(",")[2]) == expected.tobytes()


def test_a_picture_beyond_the_longest_side_of_webp_is_reduced() -> None:
    picture = encode(np.zeros((8, 20_000, 3), np.uint8), PreviewQuality(0, 95))
    assert (picture.width, picture.height) == (16383, 7)


def test_previews_become_smaller_until_they_fit_their_budget() -> None:
    layers: dict[Kind, np.ndarray] = {"sr": noise(30, 1400)}
    stored = []
    pictures, quality = store(layers, 10**6, full=False)
    while not stored or quality != stored[-1][1]:
        stored.append((pictures["sr"].width, quality))
        pictures, quality = store(layers, len(pictures["sr"].uri) - 1, full=False)
    sides, qualities = zip(*((width, quality.webp) for width, quality in stored), strict=True)
    assert sides == (1400, 1400, 1280, 1120, 960, 800, 640, 480, 320)
    assert qualities == (LOSSLESS, 95, 90, 88, 86, 84, 82, 75, 60)


def test_a_lossy_error_map_has_half_the_size_and_at_most_quality_75() -> None:
    image = noise(30, 1400)
    layers: dict[Kind, np.ndarray] = {"error-sr": image, "sr": image}
    size = sum(len(encode(image, PreviewQuality(0, webp)).uri) for webp in (95, 75))
    for budget, quality, of_error in (
        (10**6, (0, LOSSLESS), (0, LOSSLESS)),
        (size, (0, 95), (0, 75)),
        (size - 1, (1280, 90), (640, 75)),
        (0, (320, 60), (160, 60)),
    ):
        pictures, used = store(layers, budget, full=False)
        assert used == quality and pictures["sr"] == encode(image, used)
        assert pictures["error-sr"] == encode(image, PreviewQuality(*of_error))


@pytest.mark.parametrize(("protocol", "share"), [("ntire", 1.0), ("paper", 219 / 255)])
def test_the_psnr_of_a_crop_is_that_of_its_pixels_up_to_the_edge(protocol: Protocol, share: float) -> None:
    hr = np.zeros((24, 32, 3), np.uint8)
    sr = hr.copy()
    sr[4, 8] = 10  # the corner of the window
    sr[3, 8] = 200
    layers: dict[Kind, np.ndarray] = {"lr": hr[::4, ::4], "bicubic": hr, "sr": sr, "hr": hr}
    layers |= {"error-bicubic": hr, "error-sr": hr}
    crop = cut(layers, (4, 8, 12, 16), "why", 4, protocol)
    assert (crop.layers["lr"].width, crop.layers["sr"].width, crop.layers["sr"].height) == (4, 16, 12)
    # Luma has 219 levels. Of 12 * 16 pixels one differs by 10.
    assert crop.psnr == pytest.approx({"bicubic": math.inf, "sr": 10 * math.log10(255**2 * 192 / (10 * share) ** 2)})
    assert cut({"lr": hr[::4, ::4], "sr": sr}, (4, 8, 12, 16), "why", 4, protocol).psnr == {}


def test_the_error_map_is_brightest_from_a_difference_of_48_gray_levels() -> None:
    hr = np.zeros((1, 4, 3), np.uint8)
    sr = np.array([0, 47, 48, 255], np.uint8).reshape(1, 4, 1).repeat(3, 2)
    black, below, ceiling, above = error_map(sr, hr)[0].sum(1)
    assert black < below < ceiling == above
