"""Charts of spectra and feature maps: what each panel shows, and that names do not overlap."""

from __future__ import annotations

import numpy as np
import pytest

from fmen.charts.spectra import BlockPanel, Curve, draw_maps, draw_spectra
from fmen.charts.style import render


def panel(title: str, level: float) -> BlockPanel:
    frequency = np.linspace(0, 1, 9)
    return BlockPanel(title, Curve(frequency, level * np.exp(-frequency)), Curve(frequency, level + frequency))


@pytest.mark.parametrize(("width", "columns"), [(1040, 5), (760, 4), (360, 1)])
def test_each_block_has_a_panel_with_both_curves_without_the_zero_frequency(width: float, columns: int) -> None:
    blocks = [panel(f"HFAB{index}", index + 1) for index in range(8)]
    figure = draw_spectra(blocks, width=width)
    figure.draw_without_rendering()
    assert [axes.get_title("left") for axes in figure.axes] == [block.title for block in blocks]
    assert len({round(axes.get_position().x0, 3) for axes in figure.axes}) == min(columns, 4)
    for axes, block in zip(figure.axes, blocks, strict=True):
        before, after = axes.lines
        assert list(before.get_ydata()) == list(block.before.density[1:])
        assert list(after.get_xdata()) == list(block.after.frequency[1:])
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_panels_with_a_density_of_zero_are_drawn() -> None:
    zero = Curve(np.linspace(0, 1, 3), np.zeros(3))
    assert render(draw_spectra([BlockPanel("Zero1", zero, zero)]), ".png")


def test_the_maps_of_a_block_are_one_above_the_other_on_one_scale() -> None:
    maps = [(f"ERB{index}", np.full((6, 9), -1.0), np.eye(6, 9)) for index in range(6)]
    figure = draw_maps(maps)
    figure.draw_without_rendering()
    pictures = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(pictures) == 12
    assert {picture.get_clim() for picture in pictures} == {(-1.0, 1.0)}
    top, below = figure.axes[0], figure.axes[5]
    assert top.get_title("left") == "ERB0" and (top.get_ylabel(), below.get_ylabel()) == ("before", "after")
    assert np.array_equal(below.images[0].get_array(), np.eye(6, 9))
