"""``fmen upscale --backend``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.upscaling import strips
from fmen_core.backends import REQUIRED_PACKAGES
from fmen_data import imresize, read_image, write_image


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        write_image(folder / f"{i}.png", imresize(rng.integers(0, 256, (4 + i, 6, 3), np.uint8), 8))
    return folder


def upscale(*options: str) -> str:
    arguments = ["upscale", "photos", "--device", "cpu", "--weights", "clean", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("backend", REQUIRED_PACKAGES)
@pytest.mark.usefixtures("photos")
def test_a_folder_is_upscaled_by_another_library_as_by_pytorch(backend: str) -> None:
    missing = [name for name in REQUIRED_PACKAGES[backend] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    options = ("--precision", "fp32", "--scale", "2", "--threads", "2")
    assert f"fmen-s x2, fp32 on cpu with {backend}\n" in upscale("-o", "out", "--backend", backend, *options)
    assert "fmen-s x2, fp32 on cpu\n" in upscale("-o", "expected", *options)
    for i in range(5):
        found, expected = (read_image(Path(folder) / f"{i}.png").astype(int) for folder in ("out", "expected"))
        assert np.abs(found - expected).max() <= 1


def test_a_large_result_of_openvino_is_written_in_rows_of_tiles(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    write_image(photos / "large.png", imresize(np.random.default_rng(0).integers(0, 256, (40, 6, 3), np.uint8), 8))
    options = ("--precision", "fp32", "--scale", "2", "--backend", "openvino", "--format", "tiff", "--tile", "40")
    upscale("-o", "expected", *options)
    rows, write = [], strips.deflated
    monkeypatch.setattr(strips, "LARGE", 640 * 96 * 3)
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**14)
    monkeypatch.setattr(strips, "deflated", lambda strip: (rows.append(len(strip)), write(strip))[1])
    upscale("-o", "out", *options)
    assert sum(rows) == 640 and max(rows) == 2**14 // (96 * 3)
    one, other = (read_image(Path(folder) / "large.tiff") for folder in ("out", "expected"))
    assert np.array_equal(one, other)


@pytest.mark.usefixtures("photos")
def test_a_backend_that_is_not_installed_is_one_line_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REQUIRED_PACKAGES, "openvino", ("a-package-that-nobody-has",))
    result = CliRunner().invoke(app, ["upscale", "photos", "-o", "out", "--backend", "openvino"])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: the backend openvino needs a-package-that-nobody-has: pip install 'fmen[openvino]'"
    ]
    assert not Path("out").exists()
