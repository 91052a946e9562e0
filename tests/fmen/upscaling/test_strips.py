"""Results that are written strip by strip."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from torch import nn

from fmen.upscaling import strips
from fmen.upscaling.enlarge import enlarge, limit, limit_rows
from fmen.upscaling.photo import Photo, read_photo, write_photo
from fmen.upscaling.png_chunks import PngWriter
from fmen.upscaling.strips import ahead, regrouped, write_strips, writes_strips
from fmen_core import ModelError, Upscaler
from fmen_data import DataError


@pytest.fixture
def upscaler(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Upscaler:
    """An upscaler that streams in strips of 8 rows."""
    monkeypatch.setattr("fmen_core.upscaler.SMALL", 0)
    monkeypatch.setattr("fmen_core.upscaler.FEWEST_ROWS", 8)
    monkeypatch.setattr("fmen_core.upscaler.STRIP_BYTES", {"cpu": 0})
    monkeypatch.setattr("fmen_core.upscaler.WHOLE_BYTES", {"cpu": 0})
    monkeypatch.setattr(strips, "LARGE", 0)
    monkeypatch.setattr(strips, "STRIP_BYTES", 40 * 3 * 9)  # 9 rows of a scan's result in 8 bits
    return Upscaler(network, device="cpu")


def scan(height: int = 43, width: int = 20, dtype: Any = np.uint8, *, gray: bool = False) -> Photo:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(dtype)
    pixels = (pixels * (np.iinfo(dtype).max // 255)).astype(dtype)
    if gray:
        pixels[:] = pixels[..., :1]
    exif = Image.Exif()
    exif[0x010E] = "a scan"
    return Photo(pixels, gray=gray, icc=16 * b"." + (b"GRAY" if gray else b"RGB "), exif=exif.tobytes())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
def test_strips_make_the_same_file_as_the_whole_result(
    suffix: str, dtype: Any, gray: bool, upscaler: Upscaler, tmp_path: Path
) -> None:
    photo, seen, file = scan(dtype=dtype, gray=gray), [], f"strips{suffix}"
    with ThreadPoolExecutor(2) as writers:
        size = write_strips(upscaler, photo, tmp_path / "a" / file, writers, lambda *done: seen.append(done))
    write_photo(tmp_path / f"whole{suffix}", enlarge(upscaler, photo))
    one, other = (read_photo((tmp_path / name).read_bytes(), name) for name in (f"a/{file}", f"whole{suffix}"))
    assert size == one.pixels.shape[:2] == (86, 40) and len(seen) > 5
    assert one.pixels.dtype == dtype and one.gray == gray
    assert np.array_equal(one.pixels, other.pixels)
    assert (one.icc, one.exif) == (other.icc, other.exif) and one.icc and bool(one.exif) == (suffix == ".png")
    assert [file.name for file in (tmp_path / "a").iterdir()] == [file]


@pytest.mark.parametrize("large", [False, True])
def test_a_tiff_file_has_strips_and_64_bit_offsets_if_it_is_large(
    large: bool, upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "CLASSIC_BYTES", 86 * 40 * 3 + (not large))
    with ThreadPoolExecutor(1) as writers:
        write_strips(upscaler, scan(), tmp_path / "a.tif", writers)
    expected = enlarge(upscaler, scan()).pixels
    assert (tmp_path / "a.tif").read_bytes()[:4] == (b"II+\0" if large else b"II*\0")
    with Image.open(tmp_path / "a.tif") as image:
        assert np.array_equal(np.asarray(image), expected) and len(image.tag_v2[273]) == 10  # type: ignore[attr-defined]
    found = cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_UNCHANGED)
    assert found is not None and np.array_equal(found[..., ::-1], expected)


def test_tiles_are_written_in_the_same_strips(upscaler: Upscaler, tmp_path: Path) -> None:
    upscaler.tile = 16
    with ThreadPoolExecutor(1) as writers:
        for suffix in (".png", ".tif"):
            write_strips(upscaler, scan(), tmp_path / f"a{suffix}", writers)
            found = read_photo((tmp_path / f"a{suffix}").read_bytes(), "a").pixels
            assert np.array_equal(found, enlarge(upscaler, scan()).pixels)


@pytest.mark.parametrize("cuts", [[0, 30], [0, 1, 2, 7, 30], [0, 8, 16, 30], [0, 7, 25, 30]])
@pytest.mark.parametrize("rows", [1, 8, 15, 40])
def test_pieces_are_regrouped_into_strips_of_equal_height(cuts: list[int], rows: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 3), np.uint8)
    found = list(regrouped((pixels[top:bottom] for top, bottom in pairwise(cuts)), rows))
    assert np.array_equal(np.concatenate(found), pixels)
    assert {len(strip) for strip in found[:-1]} <= {rows} and len(found[-1]) <= rows


def test_a_strip_is_compressed_while_the_next_one_is_made() -> None:
    made = [threading.Event(), threading.Event()]

    def strips() -> Any:
        for place, event in enumerate(made):
            yield np.full(1, place)
            event.set()

    def compress(strip: Any) -> bool:
        return made[int(strip[0])].wait(5)

    with ThreadPoolExecutor(1) as writers:
        assert list(ahead(writers, compress, strips())) == [True, True]


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
        png = PngWriter(file, 31, 17, np.uint8, channels=3, icc=None, exif=b"")
        for top, bottom in pairwise(cuts):
            png.write(pixels[top:bottom])
        png.end()
        assert np.array_equal(np.asarray(Image.open(file)), pixels)


def test_after_a_failure_no_strip_is_being_written() -> None:
    started, written = threading.Event(), []

    def failing() -> Any:
        yield np.zeros(1)
        started.wait(5)
        raise KeyboardInterrupt

    def write(strip: Any) -> None:
        started.set()
        time.sleep(0.05)
        written.append(strip)

    with ThreadPoolExecutor(1) as writers:
        with pytest.raises(KeyboardInterrupt):
            list(ahead(writers, write, failing()))
        assert len(written) == 1


def test_only_large_opaque_png_and_tiff_files_at_the_scale_of_the_network_are_written_in_strips(
    upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, png = scan(), Path("a.png")
    assert writes_strips(upscaler, photo, None, png) and writes_strips(upscaler, photo, Fraction(2), png)
    assert not writes_strips(None, photo, None, png)
    assert not writes_strips(upscaler, photo, Fraction(3), png)
    assert not writes_strips(upscaler, replace(photo, alpha=photo.pixels[..., 0]), None, png)
    assert writes_strips(upscaler, photo, None, Path("a.tif")) and writes_strips(upscaler, photo, None, Path("a.tiff"))
    for target in (Path("a.jpg"), Path("a.webp"), "s3://bucket/a.png", None):
        assert not writes_strips(upscaler, photo, None, target)
    monkeypatch.setattr(strips, "LARGE", photo.pixels.nbytes * 4 + 1)
    assert not writes_strips(upscaler, photo, None, png)
    monkeypatch.setattr(strips, "LARGE", photo.pixels.nbytes * 4)
    assert writes_strips(upscaler, photo, None, png)


def test_a_failure_leaves_no_file(upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = scan()

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    def interrupted(lr: Any, on_tile: Any = None) -> Any:
        yield np.zeros((30, 40, 3), np.uint8)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as writers:
        monkeypatch.setattr(PngWriter, "end", full)
        monkeypatch.setattr(strips, "deflated", full)
        for name in ("a.png", "a.tif"):
            with pytest.raises(DataError, match=rf"cannot write .*{name}: No space left on device"):
                write_strips(upscaler, photo, tmp_path / name, writers)
        monkeypatch.undo()
        upscaler.stream = interrupted  # type: ignore[assignment]
        for name in ("a.png", "a.tif"):
            with pytest.raises(KeyboardInterrupt):
                write_strips(upscaler, photo, tmp_path / name, writers)
        monkeypatch.setattr(strips, "limit_rows", lambda strip, *_, **__: strip.fill(0))
        upscaler.stream = lambda lr, on_tile=None: (np.zeros((2, 40, 3), np.uint8) for _ in range(43))  # type: ignore
        for name in ("a.png", "a.tif"):
            with pytest.raises(ModelError, match="output is black"):
                write_strips(upscaler, photo, tmp_path / name, writers)
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
    monkeypatch.setattr("fmen_core.upscaler.WHOLE_BYTES", {"cpu": 0})
    monkeypatch.setattr("fmen_core.upscaler.FEWEST_ROWS", 30)
    monkeypatch.setattr(strips, "STRIP_BYTES", 160 * 3 * 100)
    calls: list[Any] = []
    write = PngWriter.write
    monkeypatch.setattr(PngWriter, "write", lambda png, rows: (calls.append(rows.shape), write(png, rows)))
    out, _ = upscale("a.png", "-o", "strips/a.png", "--precision", "fp32")
    assert len(calls) == 4 and "a.png (40x90) -> strips/a.png (160x360)" in out
    one, other = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("strips/a.png", "whole.png"))
    assert np.abs(one - other).max() <= 1
    out, _ = upscale("a.png", "-o", "strips/a.png", "--precision", "fp32")
    assert "exists already" in out
