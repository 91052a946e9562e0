"""Draw the pictures of docs/gallery.md: kinds of images as LR, bicubic and networks, side by side.

    python tools/gallery.py --out docs/images
    python tools/gallery.py --weights fmen-s_x4 --weights runs/NAME/best.safetensors --out /tmp/gallery

The images are a photograph of the sample dataset, and a text and a drawing that this script draws. LR images are
reduced with MATLAB's bicubic; "jpeg" and "noise" damage the LR photograph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from fmen_core import Upscaler, find_weights, load
from fmen_data import imresize, read_image
from fmen_data.sample import sample_images

Image = npt.NDArray[np.uint8]

SIZE = (224, 168)
"""Width and height of a panel in SR pixels."""

GAP = 6
"""White columns between panels."""

PARAGRAPH = (
    "Efficient super-resolution aims at",
    "few parameters, a short runtime",
    "and little memory. Letters of this",
    "size are five pixels high in the",
    "LR image; those of the headline",
    "are ten. 0123456789 (a+b) = c",
)


def photograph(scale: int) -> Image:
    """Return a part of the photograph "coffee" as LR."""
    (file,) = (file for file in sample_images("val") if file.stem == "coffee")
    return imresize(read_image(file)[120:288, 200:424], 1 / scale)


def jpeg(lr: Image, quality: int) -> Image:
    """Return an image as it is after JPEG compression."""
    _, encoded = cv2.imencode(".jpg", lr[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1], np.uint8)


def noisy(lr: Image, sigma: float) -> Image:
    """Return an image with Gaussian noise."""
    noise = np.random.default_rng(0).normal(0, sigma, lr.shape)
    return np.clip(np.rint(lr + noise), 0, 255).astype(np.uint8)


def text(scale: int) -> Image:
    """Return a page of text as LR."""
    page = Pillow.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(page)
    draw.text((8, 2), "Small is fast", "#111827", ImageFont.load_default(30))
    for number, line in enumerate(PARAGRAPH):
        draw.text((8, 46 + 19 * number), line, "#111827", ImageFont.load_default(14))
    return imresize(np.asarray(page), 1 / scale)


def drawing(scale: int) -> Image:
    """Return circles, an area of color and hatchings as LR; the hatchings are finer to the right."""
    factor = 4  # drawn larger and reduced, for smooth edges
    sheet = Pillow.new("RGB", (SIZE[0] * factor, SIZE[1] * factor), "#fffdf5")
    draw = ImageDraw.Draw(sheet)
    for radius in range(10, 61, 10):
        draw.circle((70 * factor, 66 * factor), radius * factor, outline="#1f2937", width=2 * factor)
    draw.polygon([(70 * factor, 20 * factor), (112 * factor, 90 * factor), (28 * factor, 90 * factor)], "#c2410c")
    for part, period in enumerate((16, 10, 7)):
        left = (8 + 72 * part) * factor
        for x in range(0, 64, period):
            top, bottom = (left + x * factor, 136 * factor), (left + (x - 12) * factor, 164 * factor)
            draw.line([top, bottom], "#1f2937", 2 * factor)
    for angle in range(0, 91, 6):
        end = (142 + 74 * np.cos(np.radians(angle)), 118 - 108 * np.sin(np.radians(angle)))
        draw.line([(142 * factor, 118 * factor), (end[0] * factor, end[1] * factor)], "#0f766e", factor)
    return imresize(np.asarray(sheet.reduce(factor)), 1 / scale)


def cases(scale: int) -> dict[str, Image]:
    """Return the LR images, by the name of their picture."""
    clean = photograph(scale)
    return {
        "clean": clean,
        "jpeg": jpeg(clean, 40),
        "noise": noisy(clean, 12),
        "text": text(scale),
        "drawing": drawing(scale),
    }


def panels(lr: Image, upscalers: Sequence[Upscaler]) -> Image:
    """Return LR in the size of SR, bicubic and the outputs of the networks beside each other."""
    scale = upscalers[0].scale
    images = [lr.repeat(scale, 0).repeat(scale, 1), imresize(lr, scale), *(upscaler(lr) for upscaler in upscalers)]
    gap = np.full((images[0].shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for image in images for part in (gap, image)][1:])


def main() -> None:
    """Parse the command line, upscale, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", action="append", help="weights of a network; repeatable (default: fmen-s_x4)")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default: %(default)s)")
    options = parser.parse_args()

    upscalers = [Upscaler(load(find_weights(name)), device="cpu") for name in options.weights or ["fmen-s_x4"]]
    scale = upscalers[0].scale
    for name, lr in cases(scale).items():
        file = options.out / f"gallery-{name}.png"
        cv2.imwrite(str(file), panels(lr, upscalers)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
        print(f"{file}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
