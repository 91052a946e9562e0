"""Figures 6 to 8: the spectra of the features before and after each HFAB and ERB, and the feature maps.

The rows of figures 6 and 7 have the share of the power above half of the Nyquist frequency, those of figure 8 the
largest absolute value, before and after each block. For a network without HFABs and ERBs, all of its blocks are shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmen.charts.spectra import draw_maps, draw_spectra
from fmen.charts.style import save_figure
from fmen.json_file import write_json
from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen.sources.datasets import measured_source
from fmen.sources.networks import load_network
from fmen.spectrum import HIGH, BlockFeatures, block_features, high_share, normalized
from fmen_core import find_weights, reparameterize
from fmen_core.architecture import sr_model
from fmen_core.device import pick_device
from fmen_data import list_images, open_dataset
from fmen_data.images import read_image

Image = npt.NDArray[np.uint8]

WEIGHTS = ("fmen-s_x4",)
"""The weights that are measured unless others are named."""

CLAIM = (
    "The paper says that HFABs enhance high frequencies. Shares of the power are compared, since a product with "
    "weights below 1 makes all values smaller."
)

SMALLER = (
    "The paper says that the absolute values of the outputs are always smaller than those of the inputs. The largest "
    "values here are those of the mean over the channels, as drawn."
)


def run(options: Options, *, name: str, kind: str, maps: bool = False) -> Result:
    """Measure the blocks of each network on one or more LR images, and draw those of the first image.

    Args:
        options: ``weights``, ``image`` (a file or a folder) and ``layers`` choose what is measured.
        name: The name of the experiment, for files and commands.
        kind: The class of the blocks, unless ``layers`` names others.
        maps: Draw the feature maps instead of the spectra.
    """
    rows: list[Row] = []
    remarks = [SMALLER] if maps else [CLAIM] if kind == "HFAB" else []
    drawn: dict[str, str] = {}
    findings: dict[str, str] = {}
    for weights in options.weights or WEIGHTS:
        started = time.perf_counter()
        title = Path(weights).stem
        measured = measure(weights, options, kind)
        command = f"fmen reproduce {name} --weights {weights}" + (f" --image {options.image}" if options.image else "")
        command += "".join(f" --layers {pattern}" for pattern in options.layers)
        blocks = list(zip(*measured.values(), strict=True))
        seconds = (time.perf_counter() - started) / len(blocks)
        for block in blocks:
            figures = peaks(block) if maps else shares(block)
            rows += [
                replace(row, subject=f"{title}: {block[0].title}", seconds=seconds, command=command) for row in figures
            ]
        if not maps:
            findings[title] = verdict(title, blocks)
        if options.out is not None:
            image, first = next(iter(measured.items()))
            drawn |= save(options.out, f"{name}_{title}", f"{title} on {image}", first, maps)
    return Result(rows, remarks, images=drawn, findings=findings)


def measure(weights: str, options: Options, kind: str) -> dict[str, list[BlockFeatures]]:
    """Return the blocks of a network on each image, by the image's name.

    Raises:
        UserError: The network has no such modules.
        WeightsError, DataError: Weights or images cannot be read.
    """
    network = reparameterize(load_network(find_weights(weights))).to(pick_device(options.device))
    measured = {}
    for image, pixels in input_images(options.image, sr_model(network).scale).items():
        blocks = block_features(network, pixels, options.layers)
        own = [block for block in blocks if block.kind == kind]
        measured[image] = blocks if options.layers or not own else own
    return measured


def input_images(path: Path | None, scale: int) -> Mapping[str, Image]:
    """Return LR images by name: a file, those of a folder, or by default the first validation image of the sample."""
    if path is None:
        name, lr, _ = next(iter(open_dataset(measured_source("sample", scale), scale=scale, split="val")))
        return {name: lr}
    return {file.stem: read_image(file) for file in (list_images(path) if path.is_dir() else [path])}


def shares(block: Sequence[BlockFeatures]) -> list[Row]:
    """Return the share of high frequencies of one block, as the mean over images, and on how many images it rises."""
    before = [high_share(features.before) for features in block]
    after = [high_share(features.after) for features in block]
    what = f"power above {HIGH:g} of the Nyquist frequency"
    risen = sum(b < a for b, a in zip(before, after, strict=True))
    return [
        Row("", f"{what}, before", 100 * float(np.mean(before)), "%", 1),
        Row("", f"{what}, after", 100 * float(np.mean(after)), "%", 1),
        Row("", f"images on which it rises, of {len(block)}", risen),
    ]


def peaks(block: Sequence[BlockFeatures]) -> list[Row]:
    """Return the largest absolute value in the maps of one block, before and after it."""
    sides = {"before": [features.before for features in block], "after": [features.after for features in block]}
    what = "largest absolute value"
    return [
        Row("", f"{what}, {side}", max(float(np.abs(features).max()) for features in maps), digits=2)
        for side, maps in sides.items()
    ]


def verdict(title: str, blocks: Sequence[Sequence[BlockFeatures]]) -> str:
    """Say which blocks raise the share of high frequencies on every image, and which lower it on every image."""
    raised = [block[0].title for block in blocks if min(features.raised for features in block) > 1]
    lowered = [block[0].title for block in blocks if max(features.raised for features in block) < 1]
    images = "the image" if len(blocks[0]) == 1 else f"each of {len(blocks[0])} images"
    return (
        f"{title}: on {images}, the share of high frequencies rises in {len(raised)} of {len(blocks)} blocks "
        f"({', '.join(raised) or 'none'}), and falls in {len(lowered)} ({', '.join(lowered) or 'none'})."
    )


def save(out: Path, name: str, title: str, blocks: Sequence[BlockFeatures], maps: bool) -> dict[str, str]:
    """Draw the blocks of one image into ``out``, write the spectra as JSON, and return the picture by its caption."""
    if maps:
        file = f"{name}.png"
        figure = draw_maps([(block.title, normalized(block.before), normalized(block.after)) for block in blocks])
        caption = f"Mean feature maps before and after each block, divided by their largest absolute values: {title}"
    else:
        file = f"{name}.svg"
        write_json(out / f"{name}_spectra.json", [block.to_dict() for block in blocks])
        figure = draw_spectra([block.panel() for block in blocks])
        caption = f"Power spectral density of the mean feature map before and after each block: {title}"
    save_figure(figure, out / file)
    return {caption: file}


EXPERIMENTS = (
    Experiment("figure6", "Figure 6: spectra before and after each HFAB", partial(run, name="figure6", kind="HFAB")),
    Experiment("figure7", "Figure 7: spectra before and after each ERB", partial(run, name="figure7", kind="ERB")),
    Experiment(
        "figure8",
        "Figure 8: mean feature maps before and after each HFAB",
        partial(run, name="figure8", kind="HFAB", maps=True),
    ),
)
