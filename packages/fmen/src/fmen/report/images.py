"""The pictures of a report: for each image LR, bicubic, ours, HR and the errors, whole and in crops, as data URIs.

A page with a hundred DIV2K images must still open and be sent, so that each image has a budget of bytes. Its crops are
spent first: they hold every pixel, losslessly, of the places that a reader looks for. What is left goes to previews of
the whole image, losslessly where that fits, else as good and as large as it can be.
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
"""Bytes that an image may take in the page, base64 included."""

PAGE_BUDGET = 50_000_000
"""Bytes that the images of a page share; a hundred of them have 500 kB each."""

CROP = 96
"""Side of a crop in HR pixels: a multiple of every scale."""

ERROR_CEILING = 48
"""Gray levels of difference that the error map shows at its brightest."""

LOSSLESS = 101  # OpenCV's WebP writer takes any quality above 100 for lossless

Kind = Literal["lr", "bicubic", "sr", "hr", "error-bicubic", "error-sr"]
"""The layers that can be laid over one another, in the order in which they are offered."""


class Rung(NamedTuple):
    """A way to store previews: the longer side in pixels at most (0: as it is), and the WebP quality."""

    side: int
    quality: int


LADDER = (
    Rung(0, LOSSLESS),
    Rung(0, 95),
    Rung(1280, 90),
    Rung(1120, 88),
    Rung(960, 86),
    Rung(800, 84),
    Rung(640, 82),
    Rung(480, 75),
    Rung(320, 60),
)
"""From the best previews to the smallest."""

ERROR_QUALITY = 75
"""WebP quality of an error map, unless it is lossless. It has half the size of the other previews, too."""


class Quality(NamedTuple):
    """PSNR in dB and SSIM."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Picture:
    """One layer as the page holds it: a data URI, and the size of what is in it."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Crop:
    """A window of the HR image, square where the image is large enough.

    Attributes:
        top, left, height, width: In HR pixels.
        reason: Why it was picked, for a caption.
        layers: Losslessly, by kind.
        psnr: On RGB in dB within the window, of the bicubic image and of ours.
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
        rung: How the previews are stored.
        bicubic, ours: What was measured.
    """

    name: str
    width: int
    height: int
    layers: Mapping[Kind, Picture]
    rung: Rung
    crops: tuple[Crop, ...]
    bicubic: Quality
    ours: Quality

    @property
    def bytes(self) -> int:
        """What its pictures take in the page."""
        pictures = [*self.layers.values(), *(picture for crop in self.crops for picture in crop.layers.values())]
        return sum(len(picture.uri) for picture in pictures)

    @property
    def preview(self) -> str:
        """How the whole image is stored, in words."""
        if self.rung.quality == LOSSLESS:
            return "Whole image and crops are lossless."
        shown = self.layers["hr"]
        size = "in full size" if shown.width == self.width else f"as a preview of {shown.width} × {shown.height}"
        return f"The whole image is here {size}, as WebP of quality {self.rung.quality}; the crops are lossless."


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
    """Upscale one image both ways, measure, and store what there is to see.

    Args:
        name: What to call it.
        lr: uint8 ``(h, w, 3)`` RGB.
        hr: uint8 ``(h * scale, w * scale, 3)`` RGB.
        upscaler: The network.
        scale: 2, 3 or 4.
        protocol: How PSNR and SSIM are measured.
        full: Keep whole images losslessly, whatever it takes.
        budget: Bytes that it may take, which its crops alone need not stay within.

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
    previews, rung = store(whole, budget - spent, full=full)
    height, width = hr.shape[:2]
    return ComparedImage(name, width, height, previews, rung, crops, *qualities)


def error_map(sr: Image, hr: Image, block: int = 1) -> Image:
    """Mean absolute difference of R, G and B, from black at 0 to pale yellow at :data:`ERROR_CEILING`, as RGB.

    With ``block``, one pixel for each block of so many pixels on a side, their mean.
    """
    difference = cv2.absdiff(sr, hr).mean(axis=2)
    if block > 1:
        height, width = difference.shape
        difference = difference.reshape(height // block, block, width // block, block).mean(axis=(1, 3))
    levels = np.minimum(difference * (255 / ERROR_CEILING), 255).round().astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


Window: TypeAlias = tuple[int, int, int, int]  # top, left, height, width in HR pixels


def coarse_errors(bicubic: Image, ours: Image, hr: Image, scale: int) -> dict[Kind, Image]:
    """The error maps of a whole image, one pixel per LR pixel.

    Pixel by pixel they are noise, which takes more bytes than all other layers together and shows less.
    """
    return {"error-bicubic": error_map(bicubic, hr, scale), "error-sr": error_map(ours, hr, scale)}


def pick_windows(bicubic: Image, ours: Image, hr: Image, scale: int) -> Iterator[tuple[Window, str]]:
    """The two places where the methods differ most, and the one where ours is farthest from the truth.

    No two of them overlap, and where there is room they lie apart; an image too small for three has fewer. Their
    corners lie on whole LR pixels.
    """
    height, width = (min(CROP, side // scale * scale) for side in hr.shape[:2])
    between, wrong = (
        window_sums(cv2.absdiff(ours, other).sum(axis=2), height, width, scale) for other in (bicubic, hr)
    )
    picked: list[Window] = []
    for sums, reason in (
        (between, "largest difference"),
        (between, "second largest"),
        (wrong, "farthest from HR elsewhere"),
    ):
        places = (best_place(sums, picked, scale, gap) for gap in (CROP, CROP // 2, 0))
        place = next((place for place in places if place is not None), None)
        if place is None:
            return
        picked.append((*place, height, width))
        yield picked[-1], reason


def best_place(sums: npt.NDArray[np.float64], picked: list[Window], step: int, gap: int) -> tuple[int, int] | None:
    """Top and left of the window with the largest sum that is ``gap`` or more away from those picked, if there is."""
    free = sums.copy()
    for top, left, height, width in picked:
        above, before = max(0, (top - height - gap) // step + 1), max(0, (left - width - gap) // step + 1)
        free[above : (top + height + gap - 1) // step + 1, before : (left + width + gap - 1) // step + 1] = -1
    row, column = np.unravel_index(int(free.argmax()), free.shape)
    return None if free[row, column] < 0 else (int(row) * step, int(column) * step)


def window_sums(values: npt.NDArray[Any], height: int, width: int, step: int) -> npt.NDArray[np.float64]:
    """Sums over all windows of that size whose corners are multiples of ``step``; ``[i, j]`` begins at ``i * step``."""
    total = np.asarray(cv2.integral(values.astype(np.float64)), np.float64)
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    return np.ascontiguousarray(sums[::step, ::step])


def cut(layers: Mapping[Kind, Image], window: Window, reason: str, scale: int) -> Crop:
    """A window of every layer."""
    top, left, height, width = window

    def part(kind: Kind) -> Image:
        step = scale if kind == "lr" else 1
        return layers[kind][top // step : (top + height) // step, left // step : (left + width) // step]

    pictures = {kind: encode(part(kind), Rung(0, LOSSLESS)) for kind in layers}
    decibels: dict[Kind, float] = {kind: cv2.PSNR(part(kind), part("hr")) for kind in ("bicubic", "sr")}
    return Crop(top, left, height, width, reason, pictures, decibels)


def store(layers: Mapping[Kind, Image], budget: int, *, full: bool) -> tuple[dict[Kind, Picture], Rung]:
    """All layers on the highest rung of :data:`LADDER` that stays within ``budget`` bytes, or else on the lowest."""
    stored: dict[Kind, Picture] = {}
    pixels = layers["hr"].shape[0] * layers["hr"].shape[1]
    for rung in LADDER:
        stored, spent = {}, 0
        if rung.quality == LOSSLESS and pixels > budget and not full:
            continue  # a photograph takes about a byte per pixel, and long to find out
        # HR, which takes most, comes first: it alone rules most rungs out.
        for kind in sorted(layers, key=lambda kind: kind != "hr"):
            lossy_error = kind.startswith("error") and rung.quality != LOSSLESS
            how = Rung(rung.side // 2, min(rung.quality, ERROR_QUALITY)) if lossy_error else rung
            stored[kind] = encode(layers[kind], how)
            spent += len(stored[kind].uri)
            if spent > budget and not full and rung != LADDER[-1]:
                break
        else:
            return stored, rung
    raise AssertionError("the last rung always holds")


def encode(image: Image, rung: Rung) -> Picture:
    """One picture as WebP, made smaller first where it is larger than the rung has it."""
    height, width = image.shape[:2]
    if rung.side and max(height, width) > rung.side:
        factor = rung.side / max(height, width)
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, rung.quality])
    return Picture(f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}", width, height)
