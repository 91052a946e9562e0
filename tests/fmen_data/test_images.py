"""Reading, writing and listing image files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from fmen_data import DataError, image_size, list_images, read_image, write_image
from fmen_data.images import check_image

NOISE = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def palette_png(path: Path) -> None:
    """A 2x2 palette image: red, green / blue, red."""
    header = struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0)
    pixels = zlib.compress(b"\0\0\1" + b"\0\2\0")
    body = png_chunk(b"IHDR", header) + png_chunk(b"PLTE", b"\xff\0\0\0\xff\0\0\0\xff") + png_chunk(b"IDAT", pixels)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b""))


INVALID_CHUNKS = {
    b"iCCP": b"odd\0\0" + zlib.compress(b"\0" * 128),
    b"sRGB": b"\x09" * 2,
    b"zTXt": b"a\0\0zzzz",
    b"tIME": b"\xff" * 7,
    b"eXIf": b"zz",
}


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_rgb_images_are_read_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    write_image(file, NOISE)
    assert image_size(file) == (24, 36)
    if suffix != ".webp":  # lossy by default
        assert np.array_equal(read_image(file), NOISE)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    write_image(tmp_path / "gray.png", NOISE[..., 0])
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.dstack([NOISE[..., 0]] * 3))


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    palette_png(tmp_path / "palette.png")
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 0, 0]]]
    assert read_image(tmp_path / "palette.png").tolist() == expected


def test_an_opaque_alpha_channel_is_dropped_and_a_transparent_one_is_an_error(tmp_path: Path) -> None:
    alpha = np.full(NOISE.shape[:2], 255, np.uint8)
    cv2.imwrite(str(tmp_path / "opaque.png"), np.dstack([NOISE[..., ::-1], alpha]))
    assert np.array_equal(read_image(tmp_path / "opaque.png"), NOISE)
    alpha[3, 4] = 254
    cv2.imwrite(str(tmp_path / "transparent.png"), np.dstack([NOISE[..., ::-1], alpha]))
    with pytest.raises(DataError, match=r"transparent\.png has transparent pixels; flatten"):
        read_image(tmp_path / "transparent.png")


def test_a_transparent_palette_is_an_error(tmp_path: Path) -> None:
    palette_png(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    before_pixels = data.find(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:before_pixels] + png_chunk(b"tRNS", b"\0") + data[before_pixels:])
    with pytest.raises(DataError, match=r"a\.png has transparent pixels"):
        read_image(tmp_path / "a.png")


def test_sixteen_bit_images_are_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), NOISE.astype(np.uint16) * 257)
    with pytest.raises(DataError, match=r"deep\.png has uint16 pixels; convert it to 8 bits"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize("fraction", [0.999, 0.9, 0.5, 0.01])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_file_is_an_error_wherever_it_was_cut(
    tmp_path: Path, suffix: str, fraction: float, capfd: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / f"complete{suffix}", NOISE)
    data = (tmp_path / f"complete{suffix}").read_bytes()
    file = tmp_path / f"cut{suffix}"
    file.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(DataError, match=rf"cut\{suffix} is "):
        read_image(file)
    assert capfd.readouterr().err == ""


def test_a_png_with_a_flipped_bit_is_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", NOISE)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        read_image(tmp_path / "a.png")


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png is empty; get the file again or remove it"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"hello", b"BM" + b"\0" * 60, b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_not_an_image_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is "):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", INVALID_CHUNKS)
def test_an_invalid_chunk_beside_the_pixels_prints_no_warning(
    tmp_path: Path, kind: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", NOISE)
    png = (tmp_path / "a.png").read_bytes()
    after_header = 8 + 25
    (tmp_path / "a.png").write_bytes(png[:after_header] + png_chunk(kind, INVALID_CHUNKS[kind]) + png[after_header:])
    assert np.array_equal(read_image(tmp_path / "a.png"), NOISE)
    assert capfd.readouterr().err == ""


def test_an_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", NOISE)
    data = (tmp_path / "a.jpg").read_bytes()
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)  # orientation: rotate by 90 degrees
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0" * 4
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert read_image(tmp_path / "a.jpg").shape == NOISE.shape
    assert image_size(tmp_path / "a.jpg") == (24, 36)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True), (">", True)])
@pytest.mark.parametrize("form", [3, 4])  # short and long integers
def test_the_orientation_of_a_tiff_is_not_applied(
    tmp_path: Path, orientation: int, order: str, big: bool, form: int, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = NOISE.tobytes()
    offset, kind = ("Q", 16) if big else ("I", 4)
    signature = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    head = signature + (struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8))
    fields = [
        *((256, 3, 1, 36), (257, 3, 1, 24), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, kind, 1, 0)),
        *((274, form, 1, orientation), (277, 3, 1, 3), (278, 3, 1, 24), (279, kind, 1, len(pixels))),
    ]
    fields[2] = (258, 3, 3, 8) if big else (258, 3, 1, 8)  # three values of two bytes fit into eight
    length = 8 + 20 * len(fields) + 8 if big else 2 + 12 * len(fields) + 4
    content = head + struct.pack(order + ("Q" if big else "H"), len(fields))
    for tag, code, count, value in fields:
        value = len(head) + length if tag == 273 else value
        values = struct.pack(order + {3: "H", 4: "I", 16: "Q"}[code] * count, *[value] * count)
        content += struct.pack(order + "HH" + offset, tag, code, count) + values.ljust(8 if big else 4, b"\0")
    (tmp_path / "a.tif").write_bytes(content + bytes(8 if big else 4) + pixels)
    assert np.array_equal(read_image(tmp_path / "a.tif"), NOISE)
    assert image_size(tmp_path / "a.tif") == (24, 36)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("length", [4, 8, 12, 30])
def test_a_truncated_tiff_is_an_error(tmp_path: Path, length: int) -> None:
    write_image(tmp_path / "a.tif", NOISE)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:length])
    with pytest.raises(DataError, match=r"a\.tif is not a readable image"):
        read_image(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(b"II+\0\x08\0\0\0" + b"\xff" * 8)
    with pytest.raises(DataError, match=r"a\.tif is not a readable image"):
        read_image(tmp_path / "a.tif")


def jpeg(*segments: bytes, size: tuple[int, int] = (24, 36), progressive: bool = False) -> bytes:
    """A JPEG of noise with additional segments before its own."""
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)])[1])
    return data[:2] + b"".join(segments) + data[2:]


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (b"\xff",),  # a fill byte
        (b"\xff\xff\xff",),
        (b"\xff\xfe\0\x04\xff\xc0",),  # a comment that looks like a frame header
        (b"\xff\xe2\x01\x02" + b"\xff\xd9" * 128,),  # end markers inside a segment
        (b"\xff\xe1\0\x02", b"\xff\xe1\0\x03a"),
    ],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_the_size_of_a_jpeg_is_read_from_its_frame_header(
    tmp_path: Path, segments: tuple[bytes, ...], progressive: bool
) -> None:
    data = jpeg(*segments, size=(300, 260), progressive=progressive)
    (tmp_path / "a.jpg").write_bytes(data)
    assert image_size(tmp_path / "a.jpg") == (300, 260)
    assert read_image(tmp_path / "a.jpg").shape == (300, 260, 3)
    check_image(tmp_path / "a.jpg", deep=True)
    (tmp_path / "a.jpg").write_bytes(data[:-2])
    with pytest.raises(DataError, match=r"a\.jpg is truncated \(the JPEG has no end marker\); get the file again"):
        check_image(tmp_path / "a.jpg")


def test_only_the_header_is_read_for_the_size(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", NOISE)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:32])
    (tmp_path / "a.jpg").write_bytes(jpeg()[:-300])
    for name in ("a.png", "a.jpg"):
        assert image_size(tmp_path / name) == (24, 36)
        with pytest.raises(DataError, match="is truncated"):
            check_image(tmp_path / name)
    header = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(header[:24])
    assert image_size(tmp_path / "a.png") == (24, 36)
    for length in (9, 16, 23):
        (tmp_path / "a.png").write_bytes(header[:length])
        with pytest.raises(DataError, match="is truncated"):
            image_size(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_bytes_after_a_complete_image_are_ignored(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", NOISE)
    data = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(data + b"\0" * 30)
    check_image(tmp_path / f"a{suffix}")
    assert read_image(tmp_path / f"a{suffix}").shape == (24, 36, 3)


def test_a_jpeg_without_a_marker_where_one_must_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(b"\0\0"))
    for function in (image_size, read_image, check_image):
        with pytest.raises(DataError, match=r"a\.jpg is truncated \(the JPEG has no end marker\)"):
            function(tmp_path / "a.jpg")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("damage", ["a hole in the scan", "zeros in the scan", "an end marker in the scan"])
def test_a_jpeg_that_libjpeg_warns_about_is_an_error_with_its_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str, progressive: bool
) -> None:
    data = jpeg(size=(120, 160), progressive=progressive)
    middle = len(data) // 2
    damaged = {
        "a hole in the scan": data[:middle] + data[middle + 999 :],
        "zeros in the scan": data[:middle] + bytes(999) + data[middle + 999 :],
        "an end marker in the scan": data[:middle] + b"\xff\xd9" + data[middle:],
    }
    (tmp_path / "a.jpg").write_bytes(damaged[damage])
    for function in (read_image, partial(check_image, deep=True)):
        with pytest.raises(DataError, match=r"a\.jpg is damaged \((Corrupt JPEG data|Premature end).*\); get the file"):
            function(tmp_path / "a.jpg")
    assert capfd.readouterr().err == ""


def jpeg_variants() -> Iterator[tuple[str, bytes]]:
    """Every kind of JPEG that cameras and programs write."""
    sampling = [getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in (411, 420, 422, 440, 444)]
    options = [[cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor] for factor in sampling]
    options += [[cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 3], [cv2.IMWRITE_JPEG_QUALITY, 20]]
    pixels = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (61, 83, 3), dtype=np.uint8), (5, 5), 0)
    for option in options:
        yield str(option), cv2.imencode(".jpg", pixels, option)[1].tobytes()
    yield "gray", cv2.imencode(".jpg", pixels[..., 0])[1].tobytes()


@pytest.mark.parametrize(("variant", "data"), [pytest.param(*pair, id=pair[0]) for pair in jpeg_variants()])
def test_a_jpeg_is_decoded_as_opencv_decodes_it(tmp_path: Path, variant: str, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    expected = cv2.cvtColor(cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)


def test_no_photograph_of_a_whole_dataset_is_taken_for_damaged(reference: Path) -> None:
    files = list_images(reference / "data/BSD400")
    assert len(files) == 400
    for file in files:
        pixels = cv2.imdecode(
            np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        )
        assert np.array_equal(read_image(file), cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)), file


def test_a_jpeg_of_a_billion_pixels_is_refused_before_its_pixels_are_allocated(tmp_path: Path) -> None:
    data = bytearray(jpeg())
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.jpg is 65500x65500, more than 1073741824 pixels"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("position", [8 + 8, 8 + 12, -5])
def test_the_checksum_of_every_png_chunk_is_compared(tmp_path: Path, position: int) -> None:
    write_image(tmp_path / "a.png", NOISE)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[position] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png is damaged \(checksum of the PNG chunk at byte \d+\)"):
        read_image(tmp_path / "a.png")


def test_only_a_deep_check_decodes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", NOISE)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    check_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="is damaged"):
        check_image(tmp_path / "a.png", deep=True)


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    for function in (read_image, image_size, list_images):
        with pytest.raises(DataError, match="absent"):
            function(tmp_path / "absent")


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "._0001.png").touch()
    with pytest.raises(DataError, match="no images in"):
        list_images(tmp_path)


def test_images_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in list_images(tmp_path)] == ["a.jpg", "b.PNG"]


def test_a_folder_with_the_name_of_an_image_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "album.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    assert list_images(tmp_path) == [tmp_path / "a.png", tmp_path / "loop.png"]


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 4, 3), np.uint16), r"the image is uint16 \(4, 4, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"the image is uint8 \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"the image is uint8 \(0, 4, 3\)"),
        (np.zeros((4, 4)), r"the image is float64 \(4, 4\)"),
        ([[0]], "the image is a list"),
    ],
)
def test_what_is_no_image_is_not_written(tmp_path: Path, image: object, found: str) -> None:
    with pytest.raises(DataError, match=rf"cannot write .*a\.png: {found}"):
        write_image(tmp_path / "a.png", image)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown image format '\.xyz'; use one of \.png, "):
        write_image(tmp_path / "a.xyz", NOISE)


def test_an_image_too_large_for_the_format_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.webp: the format does not support 17000x2 pixels; use \.png"):
        write_image(tmp_path / "a.webp", np.zeros((2, 17000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", NOISE)
    before = (tmp_path / "a.png").read_bytes()

    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(DataError, match=r"cannot write .*a\.png: No space left"):
        write_image(tmp_path / "a.png", NOISE[::-1])
    monkeypatch.undo()
    assert (tmp_path / "a.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
