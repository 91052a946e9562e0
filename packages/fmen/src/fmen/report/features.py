"""The features section of a report: spectra and mean feature maps of the blocks of each network, on the first image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from fmen.charts.spectra import Map, draw_spectra
from fmen.charts.style import inline_svg
from fmen.report.encoding import Image, Picture, PreviewQuality, encode
from fmen.report.tables import Cell, Table
from fmen.report.training import Chart
from fmen.spectrum import BlockFeatures, high_share, normalized

WIDTHS = {"wide": 1040, "medium": 700, "narrow": 400}
"""Widths of the chart in points, by the CSS class of the screens that show it."""

MAP_QUALITY = PreviewQuality(320, 85)
"""How a feature map is stored."""


@dataclass(frozen=True)
class ShownFeatures:
    """The features of one network: its title, a chart, a table, and each block's maps before and after it."""

    title: str
    chart: Chart
    table: Table
    maps: tuple[tuple[str, Picture, Picture], ...]


def features_part(features: Mapping[str, Sequence[BlockFeatures]], image: str) -> dict[str, Any]:
    """Return the features of each network on an image, by the network's title."""
    shown = [show_features(title, blocks, number) for number, (title, blocks) in enumerate(features.items())]
    return {"image": image, "networks": shown}


def show_features(title: str, blocks: Sequence[BlockFeatures], number: int) -> ShownFeatures:
    """Return the chart, the table and the pictures of one network, the ``number``-th of the page."""
    panels = [block.panel() for block in blocks]
    label = f"Power spectral density before and after each block of {title}"
    svgs = {
        kind: Markup(inline_svg(draw_spectra(panels, width=width, size=12), f"features-{number}-{kind}", label))
        for kind, width in WIDTHS.items()
    }
    maps = tuple((block.title, colorize(block.before), colorize(block.after)) for block in blocks)
    return ShownFeatures(title, Chart(label, svgs), shares_table(blocks), maps)


def shares_table(blocks: Sequence[BlockFeatures]) -> Table:
    """Return the share of high frequencies before and after each block, and their ratio."""

    def percent(share: float) -> Cell:
        return Cell(f"{100 * share:.1f} %", share)

    body = tuple(
        (
            Cell(block.title),
            Cell(block.name),
            percent(high_share(block.before)),
            percent(high_share(block.after)),
            Cell("–", -1) if np.isnan(block.raised) else Cell(f"{block.raised:.2f}", block.raised),
        )
        for block in blocks
    )
    return Table(("Block", "Module", "Before", "After", "Ratio"), body)


def colorize(features: Map) -> Picture:
    """Encode a feature map divided by its largest absolute value: black is -1, pale yellow is 1."""
    levels = np.rint((normalized(features) + 1) * 127.5).astype(np.uint8)
    image: Image = np.asarray(
        cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8
    )
    return encode(image, MAP_QUALITY)
