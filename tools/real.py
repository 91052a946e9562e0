"""Measure networks on degraded LR images: JPEG, Gaussian noise, and both.

    python tools/real.py --data Set14 --weights fmen-s_x4 --weights fmen-s_x4_real --json results/real_x4.json
    python tools/real.py --data Set14 --weights fmen-s_x4 --weights fmen-s_x4_real --blend 0.5 --jpeg 80 90 93 97 99
    python tools/real.py --data Set14 --weights fmen-s_x4 --weights fmen-s_x4_real --weights fmen-s_x2 \\
        --blend 0.5 --scale 2 --jpeg 90 93 97

LR images are MATLAB's bicubic; noise is added and rounded before JPEG (OpenCV's encoder, subsampled chroma). Noise is
the same in every run. With ``--blend``, networks between the first two are measured, too, as ``fmen upscale --denoise``
makes them. The results of networks for a larger factor than ``--scale`` are downscaled, as in ``fmen upscale``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fmen.charts.tables import format_markdown
from fmen_core import Upscaler, find_weights, load
from fmen_core.interpolation import interpolate
from fmen_data import imresize, open_dataset, parse_source
from fmen_eval import psnr

Image = npt.NDArray[np.uint8]
Condition = tuple[float, int | None]
"""Standard deviation of the noise in gray levels, and quality of the JPEG, None without it."""

CONDITIONS: Sequence[Condition] = [
    *[(0.0, quality) for quality in (None, 95, 75, 50)],
    *[(sigma, quality) for sigma in (5.0, 10.0, 15.0) for quality in (None, 95, 75, 50)],
]


def name_of(condition: Condition) -> str:
    """Return the title of a condition."""
    sigma, quality = condition
    parts = [f"noise {sigma:g}" if sigma else "", f"JPEG {quality}" if quality else ""]
    return " + ".join(filter(None, parts)) or "clean"


def degrade(lr: Image, condition: Condition, seed: int) -> Image:
    """Add the condition's noise and JPEG artifacts to an image ``(H, W, 3)``."""
    sigma, quality = condition
    if sigma:
        noise = np.random.default_rng([seed, int(sigma)]).normal(0, sigma, lr.shape)
        lr = np.clip(np.rint(lr + noise), 0, 255).astype(np.uint8)
    if quality:
        content = cv2.imencode(".jpg", lr[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        lr = np.ascontiguousarray(cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1])
    return lr


def at_scale(network: Upscaler, scale: int) -> Callable[[Image], Image]:
    """Return a function that upscales by the network and resizes the result to ``scale`` times the input's size."""
    return lambda lr: network(lr) if network.scale == scale else imresize(network(lr), scale / network.scale)


def measure(
    networks: dict[str, Callable[[Image], Image]],
    pairs: Sequence[tuple[Image, Image]],
    scale: int,
    conditions: Sequence[Condition],
) -> dict[str, dict[str, float]]:
    """Return the mean PSNR (``paper``) in dB of each network under each condition."""
    found: dict[str, dict[str, float]] = {}
    for condition in conditions:
        values: dict[str, list[float]] = {name: [] for name in networks}
        for index, (lr, hr) in enumerate(pairs):
            degraded = degrade(lr, condition, index)
            for name, network in networks.items():
                values[name].append(psnr(network(degraded), hr, border=scale, protocol="paper"))
        found[name_of(condition)] = {name: round(float(np.mean(each)), 4) for name, each in values.items()}
    return found


def main() -> None:
    """Parse the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="dataset (default: %(default)s)")
    parser.add_argument("--weights", action="append", required=True, help="file or name; can be repeated")
    parser.add_argument("--blend", type=float, nargs="*", default=[], help="shares of the second network, 0 to 1")
    parser.add_argument("--jpeg", type=int, nargs="+", default=[], help="JPEG qualities instead of all conditions")
    parser.add_argument("--noise", type=float, nargs="+", default=[], help="noise levels instead of all conditions")
    parser.add_argument("--scale", type=int, help="upscaling factor (default: that of the first weights)")
    parser.add_argument("--precision", default="fp32", help="as of fmen upscale (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    models = {name: load(find_weights(name)) for name in options.weights}
    for share in options.blend:
        first, second, *_ = models.values()
        models[f"{share:g}"] = interpolate(first, second, share)
    scale = options.scale or next(iter(models.values())).scale
    networks: dict[str, Callable[[Image], Image]] = {"bicubic": lambda lr: imresize(lr, scale)}
    networks |= {
        name: at_scale(Upscaler(model, precision=options.precision, channels_last=False), scale)
        for name, model in models.items()
    }
    dataset = open_dataset(parse_source(options.data), scale=scale, split="val")
    conditions = [
        *((0.0, quality) for quality in options.jpeg),
        *((sigma, None) for sigma in options.noise),
    ] or CONDITIONS
    results = measure(networks, [dataset.read(index) for index in range(len(dataset))], scale, conditions)
    if options.json:
        content = {"data": dataset.name, "scale": scale, "protocol": "paper", "psnr": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    rows = [[name, *(f"{value:.2f}" for value in row.values())] for name, row in results.items()]
    print(format_markdown([[f"{dataset.name} x{scale}", *networks], *rows]))


if __name__ == "__main__":
    main()
