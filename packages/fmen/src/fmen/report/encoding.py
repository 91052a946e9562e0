"""Encode the pictures of a page as WebP data URIs, within a budget of bytes per image."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from fmen.upscaling.photo import LONGEST_SIDE

Image: TypeAlias = npt.NDArray[np.uint8]

BUDGET = 800_000
"""Bytes of an image in the page, including base64."""

PAGE_BUDGET = 50_000_000
"""Bytes of all images of a page; a hundred images have 500 kB each."""

LOSSLESS = 101  # OpenCV writes lossless WebP for any quality above 100

Kind: TypeAlias = str
"""A layer to compare: ``"lr"``, ``"bicubic"``, ``"sr"`` for the first network, ``"sr2"`` and so on for others, ``"hr"``
for HR, and ``"error-KIND"`` for the error of a layer."""


class PreviewQuality(NamedTuple):
    """How previews are stored: the longest side in pixels (0: no limit), and the WebP quality."""

    side: int
    webp: int


PREVIEW_QUALITIES = (
    PreviewQuality(0, LOSSLESS),
    PreviewQuality(0, 95),
    PreviewQuality(1280, 90),
    PreviewQuality(1120, 88),
    PreviewQuality(960, 86),
    PreviewQuality(800, 84),
    PreviewQuality(640, 82),
    PreviewQuality(480, 75),
    PreviewQuality(320, 60),
)
"""From the best to the smallest previews."""

ERROR_QUALITY = 75
"""WebP quality of a lossy error map, which also has half the size of the other previews."""


@dataclass(frozen=True)
class Picture:
    """One layer in the page: a data URI, and its width and height in pixels."""

    uri: str
    width: int
    height: int


def store(layers: Mapping[Kind, Image], budget: int, *, full: bool) -> tuple[dict[Kind, Picture], PreviewQuality]:
    """Encode all layers with the first of :data:`PREVIEW_QUALITIES` that fits ``budget`` bytes, otherwise the last."""
    stored: dict[Kind, Picture] = {}
    pixels = layers["sr"].shape[0] * layers["sr"].shape[1]
    for quality in PREVIEW_QUALITIES:
        stored, spent = {}, 0
        if quality.webp == LOSSLESS and pixels > budget and not full:
            continue  # a photograph takes about a byte per pixel, and encoding it takes long
        # A layer of full size rules out most qualities alone.
        for kind in sorted(layers, key=lambda kind: kind != "sr"):
            lossy_error = kind.startswith("error") and quality.webp != LOSSLESS
            how = PreviewQuality(quality.side // 2, min(quality.webp, ERROR_QUALITY)) if lossy_error else quality
            stored[kind] = encode(layers[kind], how)
            spent += len(stored[kind].uri)
            if spent > budget and not full and quality != PREVIEW_QUALITIES[-1]:
                break
        else:
            return stored, quality
    raise AssertionError("the last quality always holds")


def encode(image: Image, quality: PreviewQuality) -> Picture:
    """Encode one picture as WebP, reduced to the longest side of ``quality`` or of the format."""
    height, width = image.shape[:2]
    longest = min(quality.side or LONGEST_SIDE["WEBP"], LONGEST_SIDE["WEBP"])
    if max(height, width) > longest:
        factor = longest / max(height, width)
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality.webp])
    return Picture(f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}", width, height)
