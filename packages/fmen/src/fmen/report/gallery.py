"""The image section of a report: what it shows, with which networks, and what was measured."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import nn
from tqdm import tqdm

from fmen.report.encoding import BUDGET, PAGE_BUDGET, Image, Kind
from fmen.report.images import ERROR_CEILING, ComparedImage, Distances, compare, network_kind
from fmen.report.inputs import ReportError
from fmen.report.tables import comparison_table, mean
from fmen.report.training import network_titles
from fmen.sources.datasets import measured_source
from fmen.sources.networks import Note, load_network, model_of
from fmen.sources.weights import weights_title
from fmen.spectrum import BlockFeatures, block_features
from fmen.upscaling.enlarge import enlarge
from fmen.upscaling.photo import Photo, read_photo
from fmen_core import Upscaler
from fmen_data import DataError, list_images, open_dataset
from fmen_eval import Protocol

SHOWN_SIDE = 1024
"""Longest side in pixels of a picture without HR that is shown whole; of a larger one, the middle is shown."""

Loaded: TypeAlias = tuple[str, Image, Image | None]
"""Name, LR and HR of an image to show."""


@dataclass(frozen=True)
class ShownNetwork:
    """A network of the report: its title, which no other network of the page has, and what its weights are called."""

    title: str
    weights: str


@dataclass(frozen=True)
class Gallery:
    """The images of a report.

    Attributes:
        networks: The networks, in the order of the menu.
        dataset: Name of the dataset, or of the folder of pictures.
        total: Number of images in the dataset; the report may show fewer.
        protocol: Protocol of PSNR and SSIM; None if there are no HR images.
        scale: 2, 3 or 4.
        images: The images that the report shows.
        features: The blocks of each network on the first image, by the network's title, if they were asked for.
    """

    networks: tuple[ShownNetwork, ...]
    dataset: str
    total: int
    protocol: Protocol | None
    scale: int
    images: tuple[ComparedImage, ...]
    features: Mapping[str, Sequence[BlockFeatures]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the page is called."""
        return f"{', '.join(network.title for network in self.networks)} ×{self.scale} on {self.dataset}"


def make_gallery(
    weights: Sequence[Path],
    data: str | None = None,
    *,
    pictures: Path | None = None,
    model: str | None = None,
    protocol: Protocol = "ntire",
    distances: Distances | None = None,
    device: str = "auto",
    most: int | None = None,
    full: bool = False,
    layers: Sequence[str] | None = None,
    note: Note = lambda line: None,
) -> Gallery:
    """Upscale the images of a dataset and measure them, or upscale pictures without HR.

    Args:
        weights: The weights files, of the same scale.
        data: As for ``--data``; None for DIV2K's validation images if they are present, otherwise the sample's.
        pictures: A folder of LR images without HR, or one of them; instead of ``data``.
        model: The network, as :func:`fmen.sources.networks.load_network` takes it; required for a user's network.
        protocol: Protocol of PSNR and SSIM.
        distances: Computes LPIPS and DISTS.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        most: Largest number of images, from the first one.
        full: Store whole images without loss, whatever their size.
        layers: Measure the features of these blocks on the first image, as for
            :func:`fmen.spectrum.block_features`; empty for the networks' own blocks, None for no features.
        note: Called with one line about what is shown in part, and about weights of another version of a user's file.

    Raises:
        UserError: Weights or images cannot be used; the message is one line.
    """
    networks = load_networks(weights, model, note)
    upscalers = [Upscaler(network, device=device, channels_last=False) for network in networks]
    scale = upscalers[0].scale
    for file, upscaler in zip(weights, upscalers, strict=True):
        if upscaler.scale != scale:
            raise ReportError(f"{file} is for x{upscaler.scale}, {weights[0]} for x{scale}; name weights of one scale")
    upscale: list[Callable[[Image], Image]] = list(upscalers)
    images: Iterator[Loaded]
    if pictures is None:
        dataset = open_dataset(measured_source(data, scale), scale=scale, split="val")
        name, total, images = dataset.name, len(dataset), iter(dataset)
    else:
        files = list_images(pictures) if pictures.is_dir() else [pictures]
        name, total, images = pictures.resolve().name, len(files), read_pictures(files, note)
        upscale = [partial(as_upscaled, upscaler) for upscaler in upscalers]
    count = total if most is None else min(most, total)
    show = partial(
        compare,
        upscalers=upscale,
        scale=scale,
        protocol=protocol,
        distances=distances,
        full=full,
        budget=min(BUDGET, PAGE_BUDGET // max(count, 1)),
    )
    bar = tqdm(
        islice(images, count), total=count, desc="compare", unit="image", disable=not sys.stderr.isatty(), leave=False
    )
    titled = name_networks(networks, weights)
    shown: list[ComparedImage] = []
    features: dict[str, list[BlockFeatures]] = {}
    for image, lr, hr in bar:
        if layers is not None and not shown:
            blocks = [block_features(network, lr, layers) for network in networks]
            features = {network.title: found for network, found in zip(titled, blocks, strict=True)}
        shown.append(show(image, lr, hr))
    used = protocol if pictures is None else None
    return Gallery(titled, name, total, used, scale, tuple(shown), features)


def load_networks(weights: Sequence[Path], model: str | None, note: Note) -> list[nn.Module]:
    """Load the network of each weights file; of several, those that need ``model`` are of that network."""
    if len(weights) == 1:
        return [load_network(weights[0], model, note=note)]
    own = [model] if model else []
    return [load_network(file, model_of(file, own), note=note) for file in weights]


def name_networks(networks: Sequence[nn.Module], weights: Sequence[Path]) -> tuple[ShownNetwork, ...]:
    """Return the networks with titles that differ: the network, with its file or run, or with the whole path.

    Raises:
        ReportError: A file is named twice.
    """
    twice = next((file for file, number in Counter(weights).items() if number > 1), None)
    if twice is not None:
        raise ReportError(f"{twice}: is named twice; name each network once")
    plain = [network_titles().get(str(network.name), str(network.name)) for network in networks]
    files = [file.parent.name if file.stem in ("best", "last") else file.stem for file in weights]
    named = [f"{title} ({file})" for title, file in zip(plain, files, strict=True)]
    paths = [f"{title} ({file})" for title, file in zip(plain, weights, strict=True)]
    titles = [
        next((title for title, others in choices if others.count(title) == 1), choices[-1][0])
        for choices in zip(*([(title, level) for title in level] for level in (plain, named, paths)), strict=True)
    ]
    return tuple(ShownNetwork(title, weights_title(file)) for title, file in zip(titles, weights, strict=True))


def read_pictures(files: Sequence[Path], note: Note) -> Iterator[Loaded]:
    """Read pictures; of several, those that cannot be read are left out with a note.

    Raises:
        DataError: There is one picture, and it cannot be read.
    """
    for file in files:
        try:
            yield read_picture(file, note)
        except DataError as error:
            if len(files) == 1:
                raise
            note(f"note: left out: {error}")


def read_picture(file: Path, note: Note) -> Loaded:
    """Read a picture as ``fmen upscale`` does, with 8 bits and before white; of a large one, the middle."""
    photo = read_photo(file.read_bytes(), file)
    height, width = photo.pixels.shape[:2]
    top, left = (max(0, side - SHOWN_SIDE) // 2 for side in (height, width))
    shown = slice(top, top + SHOWN_SIDE), slice(left, left + SHOWN_SIDE)
    colours, white = photo.pixels[shown].astype(np.float32), np.iinfo(photo.pixels.dtype).max
    if photo.alpha is not None:
        colours = white - (white - colours) * (photo.alpha[shown][..., None] / np.float32(white))
    pixels = np.rint(colours * np.float32(255 / white)).astype(np.uint8)
    if not top and not left:
        return file.name, pixels, None
    part = f"{pixels.shape[1]}x{pixels.shape[0]} of {width}x{height}"
    note(f"note: {file}: shows the middle {part} pixels")
    return f"{file.name}, the middle {part} pixels", pixels, None


def as_upscaled(upscaler: Upscaler, pixels: Image) -> Image:
    """Upscale a picture as ``fmen upscale`` does with these weights."""
    return enlarge(upscaler, Photo(pixels)).pixels


def images_part(gallery: Gallery) -> dict[str, Any]:
    """Return the images, their figures, and the names of the layers."""
    names: dict[Kind, str] = {network_kind(index): network.title for index, network in enumerate(gallery.networks)}
    titles = {"bicubic": "Bicubic", **names}
    layers = {"lr": "LR", **titles}
    if gallery.protocol:
        layers |= {"hr": "HR", "error-bicubic": "Error, bicubic"}
        layers |= {f"error-{kind}": f"Error, {name}" for kind, name in names.items()}
    figures = [image.measured for image in gallery.images]
    return {
        "gallery": gallery,
        "titles": titles,
        "layers": layers,
        "table": comparison_table(gallery.images, titles) if gallery.protocol else None,
        "means": {kind: mean([each[kind] for each in figures]) for kind in titles} if gallery.protocol else {},
        "methods": f"bicubic and {titles['sr']}" if len(names) == 1 else "the networks",
        "ceiling": ERROR_CEILING,
    }
