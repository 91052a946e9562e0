"""Measure PSNR, SSIM and time of an upscaler over a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from fmen_eval.errors import EvaluationError
from fmen_eval.metrics import Image, Protocol, psnr, ssim
from fmen_eval.tables import format_text


@dataclass(frozen=True)
class ImageResult:
    """The measurements of one image.

    Attributes:
        name: The image's name in the dataset.
        psnr: In dB; infinite for identical images.
        ssim: None if it was not measured.
        seconds: Wall time of the upscaler's call, including transfers to and from its device.
    """

    name: str
    psnr: float
    ssim: float | None
    seconds: float


@dataclass(frozen=True)
class ValidationResult:
    """The measurements of a dataset. Means are taken over its images, as papers report them."""

    protocol: Protocol
    scale: int
    images: tuple[ImageResult, ...]

    @property
    def psnr(self) -> float:
        """Mean PSNR in dB."""
        return sum(image.psnr for image in self.images) / len(self.images)

    @property
    def ssim(self) -> float | None:
        """Mean SSIM; None if it was not measured."""
        values = [image.ssim for image in self.images if image.ssim is not None]
        return sum(values) / len(values) if values else None

    @property
    def seconds(self) -> float:
        """Mean wall time of the upscaler per image."""
        return sum(image.seconds for image in self.images) / len(self.images)

    def table(self) -> str:
        """Format a text table with one line per image and the means in the last line."""
        rows = [(image.name, image.psnr, image.ssim, image.seconds) for image in self.images]
        rows.append(("mean", self.psnr, self.ssim, self.seconds))
        header = ("image", "PSNR dB", "SSIM", "seconds")
        cells = [
            (name, f"{decibels:.4f}", "-" if similarity is None else f"{similarity:.4f}", f"{seconds:.3f}")
            for name, decibels, similarity, seconds in rows
        ]
        return format_text([header, *cells], head=False, foot=True)

    def to_dict(self, *, model: str, weights: str) -> dict[str, Any]:
        """Return the content of ``fmen validate --json``.

        Args:
            model: The network's name.
            weights: Path of the weights file.
        """
        return {
            "model": model,
            "weights": weights,
            "protocol": self.protocol,
            "scale": self.scale,
            "mean": {"psnr": self.psnr, "ssim": self.ssim},
            "images": [
                {"name": image.name, "psnr": image.psnr, "ssim": image.ssim, "seconds": image.seconds}
                for image in self.images
            ],
        }


def validate(
    upscaler: Callable[[Image], Image],
    pairs: Iterable[tuple[str, Image, Image]],
    *,
    scale: int,
    protocol: Protocol = "ntire",
    total: int | None = None,
    progress: bool = True,
    measure_ssim: bool = True,
    on_image: Callable[[str, Image], None] | None = None,
) -> ValidationResult:
    """Upscale every LR image and compare it with its HR image.

    Args:
        upscaler: Maps an LR image to an SR image, both uint8 RGB ``(H, W, 3)``.
        pairs: ``(name, lr, hr)`` for each image; HR is exactly ``scale`` times as large as LR. Read one at a time.
        scale: The upscaling factor, and the border that the metrics ignore.
        protocol: ``"ntire"``, ``"paper"`` or ``"kair-y"``.
        total: The number of pairs, for the progress bar.
        progress: Show a progress bar with the running mean PSNR.
        measure_ssim: Measure SSIM, too, which takes longer than PSNR.
        on_image: Called with the name and the SR image of each pair, e.g. to save it.

    Raises:
        EvaluationError: There are no pairs, or a pair does not fit; the message names the image.
    """
    results: list[ImageResult] = []
    with tqdm(pairs, total=total, desc=f"validate x{scale}", unit="image", disable=not progress, leave=False) as bar:
        for name, lr, hr in bar:
            started = time.perf_counter()
            sr = upscaler(lr)
            seconds = time.perf_counter() - started
            try:
                decibels = psnr(sr, hr, border=scale, protocol=protocol)
                similarity = ssim(sr, hr, border=scale, protocol=protocol) if measure_ssim else None
            except EvaluationError as error:
                raise EvaluationError(f"{name}: {error}") from error
            results.append(ImageResult(name, decibels, similarity, seconds))
            bar.set_postfix_str(f"PSNR {sum(result.psnr for result in results) / len(results):.3f} dB")
            if on_image is not None:
                on_image(name, sr)
    if not results:
        raise EvaluationError("there are no images to validate on")
    return ValidationResult(protocol, scale, tuple(results))
