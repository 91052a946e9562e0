"""The images of a report: LR, bicubic, networks, HR and the errors, whole and in crops, as data URIs.

Each image has a budget of bytes, so that a page with a hundred DIV2K images still opens and can be sent by mail. The
crops, which are lossless, come first; the rest of the budget goes to previews of the whole image, lossless if they fit
and otherwise of the best quality and size that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from fmen.errors import UserError
from fmen.report.encoding import BUDGET, LOSSLESS, Image, Kind, Picture, PreviewQuality, encode, store
from fmen_data import imresize
from fmen_eval import EvaluationError, Protocol, psnr, ssim

CROP = 96
"""Side of a crop in HR pixels; a multiple of every scale."""

ERROR_CEILING = 48
"""Difference in gray levels that the error map shows as its brightest color."""

Distances: TypeAlias = Callable[[Image, Image], tuple[float, float]]
"""Returns LPIPS and DISTS of an SR and an HR image."""


class Quality(NamedTuple):
    """PSNR in dB and SSIM; LPIPS and DISTS if they were asked for."""

    psnr: float
    ssim: float
    lpips: float | None = None
    dists: float | None = None


@dataclass(frozen=True)
class Crop:
    """A window of the image, square where the image is large enough.

    Attributes:
        top, left, height, width: In SR pixels.
        reason: Why it was chosen, for the caption.
        layers: Lossless, by kind.
        psnr: PSNR in dB within the window, of bicubic and of the networks; empty without HR.
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
        width, height: Of SR, in pixels.
        layers: The previews, by kind.
        quality: How the previews are stored.
        measured: The figures of bicubic and of the networks, by kind; empty without HR.
    """

    name: str
    width: int
    height: int
    layers: Mapping[Kind, Picture]
    quality: PreviewQuality
    crops: tuple[Crop, ...]
    measured: Mapping[Kind, Quality]

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
        shown = self.layers["sr"]
        size = "in full size" if shown.width == self.width else f"as a preview of {shown.width} × {shown.height}"
        return f"The whole image is shown {size}, as WebP of quality {self.quality.webp}; the crops are lossless."


def network_kind(index: int) -> Kind:
    """Return the kind of the layer of a network, by its place among the networks."""
    return "sr" if index == 0 else f"sr{index + 1}"


def compare(
    name: str,
    lr: Image,
    hr: Image | None,
    upscalers: Sequence[Callable[[Image], Image]],
    *,
    scale: int,
    protocol: Protocol,
    distances: Distances | None = None,
    full: bool = False,
    budget: int = BUDGET,
) -> ComparedImage:
    """Upscale one image with bicubic and the networks, measure them, and encode the layers.

    Args:
        name: Name of the image.
        lr: uint8 ``(h, w, 3)`` RGB.
        hr: uint8 ``(h * scale, w * scale, 3)`` RGB, or None if there is none: then nothing is measured.
        upscalers: The networks.
        scale: 2, 3 or 4.
        protocol: Protocol of PSNR and SSIM.
        distances: Computes LPIPS and DISTS.
        full: Store whole images without loss, whatever their size.
        budget: Bytes of the image in the page; the crops are stored even if they alone exceed it.

    Raises:
        UserError: The image cannot be measured; the message names it.
    """
    upscaled = {"bicubic": imresize(lr, scale)}
    upscaled |= {network_kind(index): upscaler(lr) for index, upscaler in enumerate(upscalers)}
    measured: dict[Kind, Quality] = {}
    if hr is not None:
        try:
            for kind, sr in upscaled.items():
                perceived = distances(sr, hr) if distances else (None, None)
                decibels = psnr(sr, hr, border=scale, protocol=protocol)
                measured[kind] = Quality(decibels, ssim(sr, hr, border=scale, protocol=protocol), *perceived)
        except EvaluationError as error:
            raise UserError(f"{name}: {error}") from error
    layers = all_layers(lr, upscaled, hr)
    crops = tuple(cut(layers, window, reason, scale, protocol) for window, reason in pick_windows(upscaled, hr, scale))
    spent = sum(len(picture.uri) for crop in crops for picture in crop.layers.values())
    # At full resolution the errors of a whole image are noise, which needs more bytes than all other layers together.
    previews, quality = store(all_layers(lr, upscaled, hr, block=scale), budget - spent, full=full)
    height, width = upscaled["sr"].shape[:2]
    return ComparedImage(name, width, height, previews, quality, crops, measured)


def all_layers(lr: Image, upscaled: Mapping[Kind, Image], hr: Image | None, block: int = 1) -> dict[Kind, Image]:
    """Return the layers in the order of the menu; the errors, which need HR, have a pixel per ``block`` x ``block``."""
    layers: dict[Kind, Image] = {"lr": lr, **upscaled}
    if hr is not None:
        layers["hr"] = hr
        layers |= {f"error-{kind}": error_map(sr, hr, block) for kind, sr in upscaled.items()}
    return layers


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


def pick_windows(upscaled: Mapping[Kind, Image], hr: Image | None, scale: int) -> Iterator[tuple[Window, str]]:
    """Yield three windows to look at: two where the methods differ most, and one where the first network errs most.

    The methods are the networks, or bicubic and the only network. Without HR, all windows are where they differ.
    Windows do not overlap and, if the image is large enough, are at a distance; a small image has fewer than three.
    Their corners are at whole LR pixels.
    """
    ours = upscaled["sr"]
    methods = [sr for kind, sr in upscaled.items() if kind != "bicubic" or len(upscaled) == 2]
    height, width = (min(CROP, side // scale * scale) for side in ours.shape[:2])
    between = window_sums(np.max(methods, 0) - np.min(methods, 0), height, width, scale)
    reasons = [(between, "largest difference"), (between, "second largest"), (between, "third largest")]
    if hr is not None:
        reasons[2] = (window_sums(cv2.absdiff(ours, hr), height, width, scale), "largest error elsewhere")
    picked: list[Window] = []
    for sums, reason in reasons:
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


def window_sums(differences: npt.NDArray[Any], height: int, width: int, step: int) -> npt.NDArray[np.float64]:
    """Return sums over windows of ``(H, W, 3)`` differences; element ``[i, j]`` starts at ``(i * step, j * step)``."""
    total = np.asarray(cv2.integral(differences.sum(axis=2).astype(np.float64)), np.float64)
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    return np.ascontiguousarray(sums[::step, ::step])


def cut(layers: Mapping[Kind, Image], window: Window, reason: str, scale: int, protocol: Protocol) -> Crop:
    """Crop a window of every layer, and measure within it."""
    top, left, height, width = window

    def part(kind: Kind) -> Image:
        step = scale if kind == "lr" else 1
        return layers[kind][top // step : (top + height) // step, left // step : (left + width) // step]

    pictures = {kind: encode(part(kind), PreviewQuality(0, LOSSLESS)) for kind in layers}
    decibels = {
        kind: psnr(part(kind), part("hr"), border=0, protocol=protocol) for kind in layers if f"error-{kind}" in layers
    }
    return Crop(top, left, height, width, reason, pictures, decibels)
