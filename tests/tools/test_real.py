"""``tools/real.py``: degraded LR images, and the table over networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fmen_core import Upscaler, find_weights, load
from fmen_data import imresize, write_image
from fmen_data.bicubic import Image
from fmen_eval import psnr


@pytest.fixture(scope="module")
def real(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("real")


def picture() -> Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    return imresize(coarse, 8)


def test_noise_is_the_same_in_every_run_and_differs_between_images(real: ModuleType) -> None:
    lr = np.full((32, 32, 3), 128, np.uint8)
    noisy = real.degrade(lr, (10.0, None), 0)
    assert np.array_equal(noisy, real.degrade(lr, (10.0, None), 0))
    assert not np.array_equal(noisy, real.degrade(lr, (10.0, None), 1))
    assert noisy.std() == pytest.approx(10, rel=0.1)


def test_a_stronger_compression_has_a_larger_error(real: ModuleType) -> None:
    lr = picture()
    errors = [np.square(real.degrade(lr, (0.0, quality), 0).astype(float) - lr).mean() for quality in (None, 95, 50)]
    assert errors[0] == 0 < errors[1] < errors[2]


def test_the_table_has_a_row_per_condition_and_a_column_per_network(
    real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set").mkdir()
    write_image(tmp_path / "set" / "one.png", picture())
    monkeypatch.setattr(real, "CONDITIONS", [(0.0, None), (15.0, 50)])
    arguments = ["--data", str(tmp_path / "set"), "--weights", "fmen-s_x4", "--json", str(tmp_path / "real.json")]
    monkeypatch.setattr("sys.argv", ["real.py", *arguments])
    real.main()
    found = json.loads((tmp_path / "real.json").read_text())["psnr"]
    assert list(found) == ["clean", "noise 15 + JPEG 50"]
    assert list(found["clean"]) == ["bicubic", "fmen-s_x4"]
    assert all(found["clean"][name] > found["noise 15 + JPEG 50"][name] for name in found["clean"])
    assert "| noise 15 + JPEG 50 |" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["real.py", *arguments, "--jpeg", "97", "50", "--noise", "20"])
    real.main()
    found = json.loads((tmp_path / "real.json").read_text())["psnr"]
    assert list(found) == ["JPEG 97", "JPEG 50", "noise 20"]
    assert found["JPEG 97"]["bicubic"] > found["JPEG 50"]["bicubic"]


def test_larger_results_are_downscaled_to_the_scale(
    real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    write_image(tmp_path / "set" / "one.png", picture())
    arguments = ["--data", str(tmp_path / "set"), "--weights", "fmen-s_x4", "--weights", "fmen-s_x2", "--scale", "2"]
    monkeypatch.setattr("sys.argv", ["real.py", *arguments, "--jpeg", "97", "--json", str(tmp_path / "real.json")])
    real.main()
    found = json.loads((tmp_path / "real.json").read_text())
    assert found["scale"] == 2
    lr = real.degrade(imresize(picture(), 0.5), (0.0, 97), 0)
    upscaled = imresize(Upscaler(load(find_weights("fmen-s_x4")), channels_last=False)(lr), 0.5)
    assert found["psnr"]["JPEG 97"]["fmen-s_x4"] == round(psnr(upscaled, picture(), border=2, protocol="paper"), 4)
