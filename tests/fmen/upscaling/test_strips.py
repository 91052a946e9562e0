"""Results that are written strip by strip."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from fmen.upscaling import strips
from fmen.upscaling.enlarge import enlarge, limit, limit_rows
from fmen.upscaling.photo import Photo, read_photo, write_photo
from fmen.upscaling.png_chunks import PngWriter
from fmen.upscaling.strips import write_strips, writes_strips
from fmen_core import ModelError, Upscaler
from fmen_data import DataError


@pytest.fixture
def upscaler(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Upscaler:
    """An upscaler that streams in strips of 8 rows."""
    monkeypatch.setattr("fmen_core.upscaler.SMALL", 0)
    monkeypatch.setattr("fmen_core.upscaler.FEWEST_ROWS", 8)
    monkeypatch.setattr("fmen_core.upscaler.STRIP_BYTES", {"cpu": 0})
    monkeypatch.setattr(strips, "LARGE", 0)
    return Upscaler(network, device="cpu")


def scan(height: int = 43, width: int = 20, dtype: Any = np.uint8, *, gray: bool = False) -> Photo:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(dtype)
    pixels = (pixels * (np.iinfo(dtype).max // 255)).astype(dtype)
    if gray:
        pixels[:] = pixels[..., :1]
    exif = Image.Exif()
    exif[0x010E] = "a scan"
    return Photo(pixels, gray=gray, icc=b"a colour profile", exif=exif.tobytes())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
def test_strips_make_the_same_file_as_the_whole_result(
    dtype: Any, gray: bool, upscaler: Upscaler, tmp_path: Path
) -> None:
    photo, seen = scan(dtype=dtype, gray=gray), []
    with ThreadPoolExecutor(2) as writers:
        size = write_strips(upscaler, photo, tmp_path / "a" / "strips.png", writers, lambda *done: seen.append(done))
    write_photo(tmp_path / "whole.png", enlarge(upscaler, photo))
    one, other = (read_photo((tmp_path / name).read_bytes(), name) for name in ("a/strips.png", "whole.png"))
    assert size == one.pixels.shape[:2] == (86, 40) and len(seen) > 5
    assert one.pixels.dtype == dtype and one.gray == gray
    assert np.array_equal(one.pixels, other.pixels)
    assert (one.icc, one.exif) == (other.icc, other.exif) and one.icc and one.exif
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["strips.png"]


def test_a_gray_photograph_in_colour_channels_remains_gray(upscaler: Upscaler, tmp_path: Path) -> None:
    photo = replace(scan(gray=True), gray=False)
    with ThreadPoolExecutor(1) as writers:
        write_strips(upscaler, photo, tmp_path / "a.png", writers)
    pixels = read_photo((tmp_path / "a.png").read_bytes(), "a.png").pixels
    assert (pixels == pixels[..., :1]).all() and len(np.unique(pixels)) > 100


@pytest.mark.parametrize("cuts", [[0, 1, 2, 7, 30], [0, 5, 30], [0, 29, 30]])
@pytest.mark.parametrize("extend", [True, False])
def test_rows_are_limited_as_the_whole_result_is(cuts: list[int], extend: bool) -> None:
    generator = np.random.default_rng(1)
    lr, sr = (generator.integers(0, 256, (side, side, 3), np.uint8) for side in (10, 30))
    expected, found = sr.copy(), sr.copy()
    limit(expected, lr, extend=extend)
    for top, bottom in pairwise(cuts):
        limit_rows(found[top:bottom], lr, top, 3, extend=extend)
    assert np.array_equal(found, expected) and not np.array_equal(found, sr)


def test_the_writer_makes_png_files_that_pillow_reads(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3), np.uint8)
    for cuts in ([0, 31], [0, 1, 5, 31]):
        file = io.BytesIO()
        png = PngWriter(file, 31, 17, np.uint8, gray=False, icc=None, exif=b"")
        for top, bottom in pairwise(cuts):
            png.write(pixels[top:bottom])
        png.end()
        assert np.array_equal(np.asarray(Image.open(file)), pixels)


def test_only_large_opaque_png_files_at_the_scale_of_the_network_are_written_in_strips(
    upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, png = scan(), Path("a.png")
    assert writes_strips(upscaler, photo, None, png) and writes_strips(upscaler, photo, Fraction(2), png)
    assert not writes_strips(None, photo, None, png)
    assert not writes_strips(upscaler, photo, Fraction(3), png)
    assert not writes_strips(upscaler, replace(photo, alpha=photo.pixels[..., 0]), None, png)
    for target in (Path("a.jpg"), Path("a.tiff"), "s3://bucket/a.png", None):
        assert not writes_strips(upscaler, photo, None, target)
    monkeypatch.setattr(strips, "LARGE", photo.pixels.nbytes * 4 + 1)
    assert not writes_strips(upscaler, photo, None, png)
    monkeypatch.setattr(strips, "LARGE", photo.pixels.nbytes * 4)
    assert writes_strips(upscaler, photo, None, png)
    upscaler.tile = 16
    assert not writes_strips(upscaler, photo, None, png)


def test_a_failure_leaves_no_file(upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = scan()
    with ThreadPoolExecutor(1) as writers:
        monkeypatch.setattr(PngWriter, "end", lambda png: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(DataError, match=r"cannot write .*a\.png: No space left on device"):
            write_strips(upscaler, photo, tmp_path / "a.png", writers)
        monkeypatch.setattr(strips, "limit_rows", lambda strip, *_, **__: strip.fill(0))
        upscaler.stream = lambda lr, on_tile=None: (np.zeros((2, 40, 3), np.uint8) for _ in range(43))  # type: ignore
        with pytest.raises(ModelError, match="output is black"):
            write_strips(upscaler, photo, tmp_path / "a.png", writers)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_strips_and_records_them(
    upscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(scan(90, 40).pixels).save(tmp_path / "a.png")
    upscale("a.png", "-o", "whole.png", "--precision", "fp32")
    monkeypatch.setattr(strips, "LARGE", 0)
    monkeypatch.setattr("fmen_core.upscaler.SMALL", 0)
    monkeypatch.setattr("fmen.upscaling.batch.SMALL", 0)
    monkeypatch.setattr("fmen_core.upscaler.STRIP_BYTES", {"cpu": 0})
    monkeypatch.setattr("fmen_core.upscaler.FEWEST_ROWS", 30)
    calls: list[Any] = []
    write = PngWriter.write
    monkeypatch.setattr(PngWriter, "write", lambda png, rows: (calls.append(rows.shape), write(png, rows)))
    out, _ = upscale("a.png", "-o", "strips/a.png", "--precision", "fp32")
    assert len(calls) >= 3 and "a.png (40x90) -> strips/a.png (160x360)" in out
    one, other = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("strips/a.png", "whole.png"))
    assert np.abs(one - other).max() <= 1
    out, _ = upscale("a.png", "-o", "strips/a.png", "--precision", "fp32")
    assert "exists already" in out
