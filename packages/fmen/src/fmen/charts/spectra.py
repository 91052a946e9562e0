"""The spectra and the feature maps of blocks, as in figures 6 to 8 of the FMEN paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fmen.charts.curves import name_log_ticks
from fmen.charts.style import ACCENT, OTHERS, add_axes, chart_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 190
"""Smallest width of a panel in points."""

Map: TypeAlias = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Density by frequency; the first frequency is zero."""

    frequency: Map
    density: Map


class BlockPanel(NamedTuple):
    """The spectra before and after a block, and the name above them."""

    title: str
    before: Curve
    after: Curve


def draw_spectra(blocks: Sequence[BlockPanel], *, width: float = 760, size: float = 10) -> Figure:
    """Draw one panel per block, with the power spectral density before and after it on a logarithmic axis.

    The zero frequency, which is the mean of the map, is left out.

    Args:
        blocks: The panels, from left to right and from top to bottom.
        width: In points.
        size: Font size in points.
    """
    rows = math.ceil(len(blocks) / max(1, int(width // PANEL)))
    columns = math.ceil(len(blocks) / rows)
    densities = np.concatenate([side.density[1:] for block in blocks for side in (block.before, block.after)])
    shown = densities[densities > 0]
    with chart_style(size):
        figure = new_figure(width, 60 + rows * min(0.8 * width / columns, 190))
        for place, block in enumerate(blocks):
            axes = add_axes(figure, (rows, columns, place + 1))
            for label, color, side in (("before", OTHERS, block.before), ("after", ACCENT, block.after)):
                axes.plot(side.frequency[1:], side.density[1:], color=color, linewidth=1.6, label=label)
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            if len(shown):
                axes.set_yscale("log")
                axes.set_ylim(0.7 * shown.min(), 1.4 * shown.max())
                name_log_ticks(axes)
            axes.tick_params(axis="y", labelleft=place % columns == 0)
            axes.set_title(block.title, fontsize=size)
        figure.supxlabel("frequency / Nyquist frequency", fontsize=size)
        figure.supylabel("power spectral density", fontsize=size)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def draw_maps(blocks: Sequence[tuple[str, Map, Map]], *, width: float = 760) -> Figure:
    """Draw the mean feature maps of blocks, the input above the output.

    Args:
        blocks: The title of each block, and the maps before and after it, with values in [-1, 1].
        width: In points.
    """
    columns = min(len(blocks), 5)
    rows = math.ceil(len(blocks) / columns)
    side = (width - 110) / columns
    tall = side * max(before.shape[0] / before.shape[1] for _, before, _ in blocks)
    with chart_style():
        figure = new_figure(width, rows * (2 * tall + 40))
        grid = figure.subplots(2 * rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for place, (title, before, after) in enumerate(blocks):
            row, column = divmod(place, columns)
            for line, (name, features) in enumerate((("before", before), ("after", after))):
                axes = grid[2 * row + line, column]
                axes.set_axis_on()
                axes.set(xticks=[], yticks=[], ylabel=name if column == 0 else "")
                picture = axes.imshow(features, cmap="inferno", vmin=-1, vmax=1)
                for spine in axes.spines.values():
                    spine.set_visible(False)
            grid[2 * row, column].set_title(title, fontsize=10)
        figure.colorbar(picture, ax=grid, aspect=30, pad=0.01)
    return figure
