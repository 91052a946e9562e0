"""PSNR is measured in the memory layout of the published implementations; the other one changes its sixth digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from fmen.benchmark.models import BenchModel
from fmen.benchmark.run import measure_accuracy
from fmen.report.gallery import make_gallery
from fmen.validation import run_validation
from fmen_data import open_dataset, write_image


class Enlarge(nn.Module):
    """Repeats pixels, and records whether the channels of its inputs are planes."""

    name, scale, data_range = "enlarge", 4, 1.0
    planes: list[bool]

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 1:  # a single pixel has both layouts
            type(self).planes.append(x.is_contiguous())
        return F.interpolate(x, scale_factor=4.0)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one image; any weights file is of ``Enlarge``."""
    for loader in ("report.gallery.load_network", "validation.runnable_network"):
        monkeypatch.setattr(f"fmen.{loader}", lambda *_, **__: Enlarge())
    write_image(tmp_path / "photos/one.png", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "photos/weights.pth").touch()
    return tmp_path / "photos"


def test_psnr_is_measured_in_the_layout_of_the_published_code(photos: Path) -> None:
    weights = photos / "weights.pth"
    for measure in (
        lambda: run_validation(weights, [str(photos)], protocol="ntire", device="cpu", echo=str),
        lambda: make_gallery([weights], str(photos), device="cpu"),
        # It measures the runtime afterwards, with tensors as the organisers make them.
        lambda: measure_accuracy(BenchModel("e", "E", Enlarge()), open_dataset(photos), "cpu", progress=False),
    ):
        Enlarge.planes = []
        measure()
        assert Enlarge.planes[0]
