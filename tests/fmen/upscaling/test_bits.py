"""The precision of images with 16 bits per channel."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen_core import Upscaler, create_model, save
from fmen_data import write_image


@pytest.mark.parametrize(("options", "precisions"), [([], ["auto", "fp32"]), (["--precision", "bf16"], ["bf16"])])
def test_images_of_16_bits_are_upscaled_in_fp32_unless_a_precision_is_given(
    options: list[str], precisions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []

    class Recorder(Upscaler):
        def __init__(self, *arguments: object, precision: str, **others: object) -> None:
            made.append(precision)
            super().__init__(*arguments, precision=precision, **others)  # type: ignore[arg-type]

    monkeypatch.setattr("fmen.sources.openvino_file.Upscaler", Recorder)
    save(create_model("fmen", 2, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1)), tmp_path / "w.safetensors")
    write_image(tmp_path / "in" / "one.png", np.full((12, 16, 3), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "in" / "two.png"), np.full((12, 16, 3), 7 * 257, np.uint16))
    arguments = ["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--device", "cpu", *options]
    result = CliRunner().invoke(app, [*arguments, "--weights", str(tmp_path / "w.safetensors")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["one.png", "two.png"]
    assert made == precisions
