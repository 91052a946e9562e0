"""Draw a crop of a photograph as LR, bicubic, SR and HR side by side, with the PSNR of each.

    python tools/comparison.py --weights runs/NAME/best.safetensors --image coffee --crop 150,240,96 --out picture.png
    python tools/comparison.py --weights fmen-s_x4 --title clean --weights fmen-s_x4_real --title real --jpeg 50

The image is a photograph of the sample dataset, by name, or a file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from fmen_core import Upscaler, find_weights, load
from fmen_data import imresize, read_image
from fmen_data.sample import sample_images
from fmen_eval import psnr

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Image = npt.NDArray[np.uint8]


def find_image(name: str) -> Image:
    """Read a photograph of the sample dataset, by its name, or a file."""
    named = {file.stem: file for split in ("train", "val") for file in sample_images(split)}
    return read_image(named.get(name, Path(name)))


def compress(image: Image, quality: int) -> Image:
    """Return an image after JPEG compression."""
    content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])


def draw(
    panels: dict[str, Image], captions: dict[str, str], whole: Image, box: tuple[int, int, int], out: Path
) -> None:
    """Draw the photograph with the crop marked, then the crop of each panel with its caption."""
    top, left, side = box
    figure, axes = plt.subplots(
        1,
        len(panels) + 1,
        figsize=(3 * len(panels) + 3, 3.4),
        width_ratios=[whole.shape[1] / whole.shape[0], *[1] * len(panels)],
    )
    axes[0].imshow(whole)
    axes[0].add_patch(plt.Rectangle((left, top), side, side, fill=False, edgecolor="#ff4b2b", linewidth=2))
    for axis, (name, image) in zip(axes[1:], panels.items(), strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(name, fontsize=13)
        axis.set_xlabel(captions[name], fontsize=12)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Parse the command line, upscale, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", action="append", required=True, help="weights of a network; can be repeated")
    parser.add_argument("--title", action="append", default=[], help="panel's title (default: the weights' name)")
    parser.add_argument("--jpeg", type=int, metavar="QUALITY", help="compress the LR image")
    parser.add_argument("--image", default="coffee", help="sample photograph or file (default: %(default)s)")
    parser.add_argument("--crop", default="150,240,96", help="top,left,side in HR pixels, multiples of the scale")
    parser.add_argument("--out", type=Path, default=Path("comparison.png"), help="picture (default: %(default)s)")
    options = parser.parse_args()

    upscalers = [Upscaler(load(find_weights(weights))) for weights in options.weights]
    titles = [*options.title, *options.weights[len(options.title) :]]
    scale = upscalers[0].scale
    hr = find_image(options.image)
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    lr = imresize(hr, 1 / scale)
    lr = compress(lr, options.jpeg) if options.jpeg else lr
    networks = {title: upscaler(lr) for title, upscaler in zip(titles, upscalers, strict=False)}
    images = {"bicubic": imresize(lr, scale), **networks, "HR": hr}
    top, left, side = box = tuple(int(number) for number in options.crop.split(","))
    panels = {"LR": lr[top // scale : (top + side) // scale, left // scale : (left + side) // scale]}
    panels |= {name: image[top : top + side, left : left + side] for name, image in images.items()}
    captions = {name: f"{psnr(image, hr, border=scale, protocol='paper'):.2f} dB" for name, image in images.items()}
    captions |= {"LR": f"{lr.shape[1]}x{lr.shape[0]}", "HR": f"{hr.shape[1]}x{hr.shape[0]}"}
    draw(panels, captions, hr, box, options.out)


if __name__ == "__main__":
    main()
