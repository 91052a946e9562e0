"""The images of a report: LR, bicubic, network, HR and the errors, whole and in crops, as data URIs.

Each image has a budget of bytes, so that a page with a hundred DIV2K images still opens and can be sent by mail. The
crops, which are lossless, come first; the rest of the budget goes to previews of the whole image, lossless if they fit
and otherwise of the best quality and size that does.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from fmen.errors import UserError
from fmen_data import imresize
from fmen_eval import EvaluationError, Protocol, psnr, ssim

Image: TypeAlias = npt.NDArray[np.uint8]

BUDGET = 800_000
"""Bytes of an image in the page, including base64."""

PAGE_BUDGET = 50_000_000
"""Bytes of all images of a page; a hundred images have 500 kB each."""

CROP = 96
"""Side of a crop in HR pixels; a multiple of every scale."""

ERROR_CEILING = 48
"""Difference in gray levels that the error map shows as its brightest color."""

LOSSLESS = 101  # OpenCV writes lossless WebP for any quality above 100

Kind = Literal["lr", "bicubic", "sr", "hr", "error-bicubic", "error-sr"]
"""The layers to compare, in the order of the menu."""


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


class Quality(NamedTuple):
    """PSNR in dB and SSIM."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Picture:
    """One layer in the page: a data URI, and its width and height in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Crop:
    """A window of the HR image, square where the image is large enough.

    Attributes:
        top, left, height, width: In HR pixels.
        reason: Why it was chosen, for the caption.
        layers: Lossless, by kind.
        psnr: PSNR in dB on RGB within the window, of bicubic and of the network.
    """

    top: int
    left: int
    height: int
    width: int
    reason: str
    layers: Mapping[Kind, Picture]
    psnr: Mapping[Kind, float]


@dataclass(frozen=True)
class ComparedImage:
    """One image of the report.

    Attributes:
        width, height: Of HR, in pixels.
        layers: The previews, by kind.
        quality: How the previews are stored.
        bicubic, ours: PSNR and SSIM of bicubic and of the network.
    """

    name: str
    width: int
    height: int
    layers: Mapping[Kind, Picture]
    quality: PreviewQuality
    crops: tuple[Crop, ...]
    bicubic: Quality
    ours: Quality

    @property
    def bytes(self) -> int:
        """Size of its pictures in the page."""
        pictures = [*self.layers.values(), *(picture for crop in self.crops for picture in crop.layers.values())]
        return sum(len(picture.uri) for picture in pictures)

    @property
    def preview(self) -> str:
        """How the whole image is stored, as a sentence."""
        if self.quality.webp == LOSSLESS:
            return "Whole image and crops are lossless."
        shown = self.layers["hr"]
        size = "in full size" if shown.width == self.width else f"as a preview of {shown.width} × {shown.height}"
        return f"The whole image is shown {size}, as WebP of quality {self.quality.webp}; the crops are lossless."


def compare(
    name: str,
    lr: Image,
    hr: Image,
    upscaler: Callable[[Image], Image],
    *,
    scale: int,
    protocol: Protocol,
    full: bool = False,
    budget: int = BUDGET,
) -> ComparedImage:
    """Upscale one image with bicubic and the network, measure both, and encode the layers.

    Args:
        name: Name of the image.
        lr: uint8 ``(h, w, 3)`` RGB.
        hr: uint8 ``(h * scale, w * scale, 3)`` RGB.
        upscaler: The network.
        scale: 2, 3 or 4.
        protocol: Protocol of PSNR and SSIM.
        full: Store whole images without loss, whatever their size.
        budget: Bytes of the image in the page; the crops are stored even if they alone exceed it.

    Raises:
        UserError: The image cannot be measured; the message names it.
    """
    ours, bicubic = upscaler(lr), imresize(lr, scale)

    def measured(sr: Image) -> Quality:
        return Quality(psnr(sr, hr, border=scale, protocol=protocol), ssim(sr, hr, border=scale, protocol=protocol))

    try:
        qualities = measured(bicubic), measured(ours)
    except EvaluationError as error:
        raise UserError(f"{name}: {error}") from error
    layers: dict[Kind, Image] = {
        "lr": lr,
        "bicubic": bicubic,
        "sr": ours,
        "hr": hr,
        "error-bicubic": error_map(bicubic, hr),
        "error-sr": error_map(ours, hr),
    }
    crops = tuple(cut(layers, window, reason, scale) for window, reason in pick_windows(bicubic, ours, hr, scale))
    spent = sum(len(picture.uri) for crop in crops for picture in crop.layers.values())
    whole = {**layers, **coarse_errors(bicubic, ours, hr, scale)}
    previews, quality = store(whole, budget - spent, full=full)
    height, width = hr.shape[:2]
    return ComparedImage(name, width, height, previews, quality, crops, *qualities)


def error_map(sr: Image, hr: Image, block: int = 1) -> Image:
    """Mean absolute difference of R, G and B, from black at 0 to pale yellow at :data:`ERROR_CEILING`, as RGB.

    With ``block``, one pixel per ``block`` x ``block`` pixels, their mean.
    """
    difference = cv2.absdiff(sr, hr).mean(axis=2)
    if block > 1:
        height, width = difference.shape
        difference = difference.reshape(height // block, block, width // block, block).mean(axis=(1, 3))
    levels = np.minimum(difference * (255 / ERROR_CEILING), 255).round().astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


Window: TypeAlias = tuple[int, int, int, int]  # top, left, height, width in HR pixels


def coarse_errors(bicubic: Image, ours: Image, hr: Image, scale: int) -> dict[Kind, Image]:
    """Return the error maps of a whole image, one pixel per LR pixel.

    At full resolution they are noise, which needs more bytes than all other layers together.
    """
    return {"error-bicubic": error_map(bicubic, hr, scale), "error-sr": error_map(ours, hr, scale)}


def pick_windows(bicubic: Image, ours: Image, hr: Image, scale: int) -> Iterator[tuple[Window, str]]:
    """Yield the two windows where the methods differ most, and the one where the network differs most from HR.

    Windows do not overlap and, if the image is large enough, are at a distance; a small image has fewer than three.
    Their corners are at whole LR pixels.
    """
    height, width = (min(CROP, side // scale * scale) for side in hr.shape[:2])
    between, wrong = (
        window_sums(cv2.absdiff(ours, other).sum(axis=2), height, width, scale) for other in (bicubic, hr)
    )
    picked: list[Window] = []
    for sums, reason in (
        (between, "largest difference"),
        (between, "second largest"),
        (wrong, "largest error elsewhere"),
    ):
        places = (best_place(sums, picked, scale, gap) for gap in (CROP, CROP // 2, 0))
        place = next((place for place in places if place is not None), None)
        if place is None:
            return
        picked.append((*place, height, width))
        yield picked[-1], reason


def best_place(sums: npt.NDArray[np.float64], picked: list[Window], step: int, gap: int) -> tuple[int, int] | None:
    """Return top and left of the window with the largest sum at least ``gap`` away from those picked, or None."""
    free = sums.copy()
    for top, left, height, width in picked:
        above, before = max(0, (top - height - gap) // step + 1), max(0, (left - width - gap) // step + 1)
        free[above : (top + height + gap - 1) // step + 1, before : (left + width + gap - 1) // step + 1] = -1
    row, column = np.unravel_index(int(free.argmax()), free.shape)
    return None if free[row, column] < 0 else (int(row) * step, int(column) * step)


def window_sums(values: npt.NDArray[Any], height: int, width: int, step: int) -> npt.NDArray[np.float64]:
    """Return sums over the windows of that size; element ``[i, j]`` starts at ``(i * step, j * step)``."""
    total = np.asarray(cv2.integral(values.astype(np.float64)), np.float64)
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    return np.ascontiguousarray(sums[::step, ::step])


def cut(layers: Mapping[Kind, Image], window: Window, reason: str, scale: int) -> Crop:
    """Crop a window of every layer."""
    top, left, height, width = window

    def part(kind: Kind) -> Image:
        step = scale if kind == "lr" else 1
        return layers[kind][top // step : (top + height) // step, left // step : (left + width) // step]

    pictures = {kind: encode(part(kind), PreviewQuality(0, LOSSLESS)) for kind in layers}
    decibels: dict[Kind, float] = {kind: cv2.PSNR(part(kind), part("hr")) for kind in ("bicubic", "sr")}
    return Crop(top, left, height, width, reason, pictures, decibels)


def store(layers: Mapping[Kind, Image], budget: int, *, full: bool) -> tuple[dict[Kind, Picture], PreviewQuality]:
    """Encode all layers with the first of :data:`PREVIEW_QUALITIES` that fits ``budget`` bytes, otherwise the last."""
    stored: dict[Kind, Picture] = {}
    pixels = layers["hr"].shape[0] * layers["hr"].shape[1]
    for quality in PREVIEW_QUALITIES:
        stored, spent = {}, 0
        if quality.webp == LOSSLESS and pixels > budget and not full:
            continue  # a photograph takes about a byte per pixel, and encoding it takes long
        # HR is the largest, so that it alone rules out most qualities.
        for kind in sorted(layers, key=lambda kind: kind != "hr"):
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
    """Encode one picture as WebP, reduced to the longest side of ``quality``."""
    height, width = image.shape[:2]
    if quality.side and max(height, width) > quality.side:
        factor = quality.side / max(height, width)
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality.webp])
    return Picture(f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}", width, height)
