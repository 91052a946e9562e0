"""Images of the report: how previews are stored, and the colors of error maps."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from fmen.report.encoding import LOSSLESS, Kind, PreviewQuality, encode, store
from fmen.report.images import error_map
from fmen_data import imresize


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


def test_the_error_map_is_brightest_from_a_difference_of_48_gray_levels() -> None:
    hr = np.zeros((1, 4, 3), np.uint8)
    sr = np.array([0, 47, 48, 255], np.uint8).reshape(1, 4, 1).repeat(3, 2)
    black, below, ceiling, above = error_map(sr, hr)[0].sum(1)
    assert black < below < ceiling == above
