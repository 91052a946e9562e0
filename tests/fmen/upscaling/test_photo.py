"""Images and their metadata: EXIF, ICC profiles, alpha channels, 16 bits per channel, files that are refused."""

from __future__ import annotations

import copy
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from fmen.upscaling.enlarge import enlarge, spread_colours
from fmen.upscaling.photo import Photo, read_photo, write_photo
from fmen.upscaling.png_chunks import chunk
from fmen_core import FMENTraining, Upscaler
from fmen_data import DataError, imresize, read_image

TAGS, GPS = ExifTags.Base, ExifTags.GPS
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_ICC = ICC[:16] + b"GRAY" + ICC[20:]
"""The beginning of a profile for gray: no more of it is read."""


@pytest.fixture(scope="module")
def upscaler(network: FMENTraining) -> Upscaler:
    return Upscaler(network, device="cpu")


def picture(height: int = 12, width: int = 20, channels: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, channels), np.uint8)
    return imresize(coarse, 4) if channels == 3 else np.dstack([imresize(coarse[..., i], 4) for i in range(channels)])


def encoded(array: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def skip_if_unknown_to_pillow(content: bytes) -> None:
    """Skip a test of gray TIFF files with a second channel, which Pillow reads in some of its versions only."""
    try:
        Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        pytest.skip("this version of Pillow does not read such files, so that they are refused")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_read_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(picture(), "PNG", exif=exif.tobytes())
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    photo = read_photo(content, "a.png")
    assert np.array_equal(photo.pixels, np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiff_files_are_read_upright(orientation: int, depth: type) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(picture(), "PNG", exif=exif.tobytes()))))
    factor = np.iinfo(depth).max // 255
    content = tiff(picture().astype(depth) * factor, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(read_photo(content, "a.tif").pixels, np.asarray(expected).astype(depth) * factor)


def test_sixteen_bit_tiff_files_may_have_white_as_zero_or_colours_multiplied_by_alpha() -> None:
    gray = picture()[..., 0].astype(np.uint16) * 257
    assert np.array_equal(read_photo(tiff(65535 - gray, photometric="miniswhite"), "a").pixels[..., 0], gray)
    alpha = np.full((12, 20), 0x8000, np.uint16)
    straight = picture().astype(np.uint16) * 257
    multiplied = (straight * (alpha[..., None] / 65535)).round().astype(np.uint16)
    content = tiff(np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(read_photo(content, "a").pixels.astype(int) - straight).max() <= 1


def test_names_in_exif_data_keep_their_letters(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Zoë Müller".encode()
    for suffix in (".jpg", ".png"):
        write_photo(tmp_path / f"a{suffix}", read_photo(encoded(picture(), "JPEG", exif=exif.tobytes()), "a.jpg"))
        with Image.open(tmp_path / f"a{suffix}") as image:
            assert image.getexif()[ExifTags.Base.Artist].encode("latin-1").decode() == "Zoë Müller"


def test_author_date_place_and_camera_are_copied_and_what_describes_the_old_pixels_is_not() -> None:
    kept = {TAGS.ImageDescription: "d", TAGS.Make: "m", TAGS.Model: "o", TAGS.Artist: "a", TAGS.Copyright: "c"}
    kept[TAGS.DateTime] = "2024:01:02 03:04:05"
    details = {TAGS.DateTimeOriginal: "2024:01:02 03:04:05", TAGS.FNumber: 2.0}
    place = {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (48.0, 8.0, 30.0)}
    exif = Image.Exif()
    exif.update({**kept, TAGS.XResolution: 72.0, TAGS.Orientation: 1})
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {**details, TAGS.MakerNote: b"note", TAGS.ExifImageWidth: 20, TAGS.ExifImageHeight: 12}
        | {TAGS.SubjectLocation: (3, 4), 0x9214: (3, 4), TAGS.FocalPlaneXResolution: 300.0}
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(place)
    copied = Image.Exif()
    copied.load(read_photo(encoded(picture(), "JPEG", exif=exif.tobytes()), "a.jpg").exif)
    parts = {part: copied.get_ifd(part) for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
    assert parts == {ExifTags.IFD.Exif: details, ExifTags.IFD.GPSInfo: place}
    assert {tag: value for tag, value in copied.items() if tag not in parts} == kept


def test_exif_data_that_a_jpeg_has_no_space_for_is_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "M" * 80_000
    photo = read_photo(encoded(picture(), "PNG", exif=exif.tobytes()), "a.png")
    kept = {}
    for suffix in (".jpg", ".png"):
        write_photo(tmp_path / f"a{suffix}", photo)
        with Image.open(tmp_path / f"a{suffix}") as image:
            kept[suffix] = ExifTags.Base.Make in image.getexif()
    assert kept == {".jpg": False, ".png": True}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exif_data_and_profile_are_kept_without_orientation_and_size(
    tmp_path: Path, upscaler: Upscaler, suffix: str
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 20
    large = enlarge(upscaler, read_photo(encoded(picture(), "JPEG", exif=exif.tobytes(), icc_profile=ICC), "a.jpg"))
    write_photo(tmp_path / f"a{suffix}", large)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.size == (24, 40)
        assert image.info["icc_profile"] == ICC
        written = image.getexif()
    assert ExifTags.Base.Orientation not in written
    assert written[ExifTags.Base.Make] == "Maker"
    details = written.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2024:01:02 03:04:05"
    assert ExifTags.Base.ExifImageWidth not in details


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize(("channels", "gray"), [(3, False), (4, False), (1, True)])
def test_sixteen_bits_stay_sixteen_bits(
    tmp_path: Path, upscaler: Upscaler, suffix: str, channels: int, gray: bool
) -> None:
    deep = picture(channels=channels).astype(np.uint16) * 256 + 17
    source = tmp_path / f"in{suffix}"
    cv2.imwrite(str(source), deep)
    photo = read_photo(source.read_bytes(), source)
    assert (photo.pixels.dtype, photo.gray, photo.alpha is None) == (np.uint16, gray, channels != 4)
    assert np.array_equal(photo.pixels, deep[..., 2::-1] if channels >= 3 else deep.repeat(3, 2))
    icc = GRAY_ICC if gray else ICC
    large = enlarge(upscaler, Photo(photo.pixels, photo.alpha, photo.gray, icc=icc))
    write_photo(tmp_path / f"out{suffix}", large)
    again = read_photo((tmp_path / f"out{suffix}").read_bytes(), "out")
    assert again.icc == icc and again.gray == gray
    assert np.array_equal(again.pixels, large.pixels)
    assert channels != 4 or np.array_equal(again.alpha, large.alpha)
    assert (again.pixels % 257 != 0).any()


def test_a_transparent_gray_level_of_sixteen_bits_becomes_alpha(tmp_path: Path, upscaler: Upscaler) -> None:
    gray = np.full((8, 12), 500, np.uint16)
    gray[:, 6:] = 40000
    Image.fromarray(gray).save(tmp_path / "in.png", transparency=500)
    photo = read_photo((tmp_path / "in.png").read_bytes(), "in.png")
    assert photo.gray and photo.alpha is not None
    assert np.array_equal(photo.pixels[..., 1], gray) and np.array_equal(photo.alpha, np.where(gray == 500, 0, 65535))
    large = enlarge(upscaler, photo)
    write_photo(tmp_path / "out.png", large)
    content = (tmp_path / "out.png").read_bytes()
    assert content[24:26] == bytes([16, 4])  # 16 bits of gray and alpha
    again = read_photo(content, "out.png")
    assert again.gray and np.array_equal(again.alpha, large.alpha) and np.array_equal(again.pixels, large.pixels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_gray_level_of_few_bits_becomes_alpha(tmp_path: Path, bits: int) -> None:
    white = 2**bits - 1
    rows = np.packbits(
        np.unpackbits(np.array([[0, white]], np.uint8)[..., None], axis=2)[..., 8 - bits :].reshape(1, -1)
    )
    with (tmp_path / "a.png").open("wb") as file:
        header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", white)))
        file.write(chunk(b"IDAT", zlib.compress(b"\0" + rows.tobytes())) + chunk(b"IEND", b""))
    photo = read_photo((tmp_path / "a.png").read_bytes(), "a.png")
    assert photo.gray and photo.pixels[0, :, 0].tolist() == [0, 255]
    assert photo.alpha is not None and photo.alpha.tolist() == [[255, 0]]
    with pytest.raises(DataError, match=r"a\.png has transparent pixels"):
        read_image(tmp_path / "a.png")


def test_metadata_that_cannot_be_encoded_are_left_out(tmp_path: Path) -> None:
    # Maker as a floating-point number, and the artist as text.
    entries = [struct.pack("<HHIf", 0x010F, 11, 1, 1.5), struct.pack("<HHI4s", 0x013B, 2, 4, b"Ann\0")]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    photo = read_photo(encoded(picture(), "JPEG", exif=exif), "a.jpg")
    write_photo(tmp_path / "a.png", photo)
    assert dict(Image.open(tmp_path / "a.png").getexif()) == {ExifTags.Base.Artist: "Ann"}
    photo = read_photo(encoded(picture(), "PNG", exif=b"Exif\0\0nonsense"), "a.png")
    assert photo.exif == b"" and photo.pixels.shape == (12, 20, 3)
    latitude = Image.Exif()
    latitude.get_ifd(ExifTags.IFD.GPSInfo).update({GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (48.0, 8.0, 0.0)})
    stored = latitude.tobytes()
    negative = stored.replace(struct.pack(">HHI", GPS.GPSLatitude, 5, 3), struct.pack(">HHI", GPS.GPSLatitude, 10, 3))
    negative = negative.replace(struct.pack(">II", 48, 1), struct.pack(">ii", -48, 1))
    assert negative != stored
    photo = read_photo(encoded(picture(), "JPEG", exif=negative), "a.jpg")
    write_photo(tmp_path / "b.png", photo)
    assert dict(Image.open(tmp_path / "b.png").getexif().get_ifd(ExifTags.IFD.GPSInfo)) == {GPS.GPSLatitudeRef: "N"}


def test_long_texts_and_profiles_of_png_files_are_read(tmp_path: Path) -> None:
    icc = ICC + np.random.default_rng(0).bytes(2_000_000)
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    content = encoded(picture(), "PNG", icc_profile=icc, pnginfo=text)
    write_photo(tmp_path / "a.png", read_photo(content, "a.png"))
    assert read_photo((tmp_path / "a.png").read_bytes(), "a.png").icc == icc


@pytest.mark.parametrize(
    ("mode", "icc", "suffix", "kept"),
    [
        ("RGB", ICC, ".png", True),
        ("RGB", GRAY_ICC, ".png", False),
        ("L", ICC, ".png", False),
        ("L", GRAY_ICC, ".png", True),
        ("L", GRAY_ICC, ".jpg", True),
        ("L", GRAY_ICC, ".webp", False),  # written as RGB
        ("CMYK", ICC[:16] + b"CMYK" + ICC[20:], ".jpg", False),
    ],
)
def test_a_profile_is_kept_if_it_is_for_the_colours_that_are_written(
    tmp_path: Path, mode: str, icc: bytes, suffix: str, kept: bool
) -> None:
    source = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(source, "JPEG", icc_profile=icc)
    write_photo(tmp_path / f"a{suffix}", read_photo(source.getvalue(), "a.jpg"))
    assert Image.open(tmp_path / f"a{suffix}").info.get("icc_profile") == (icc if kept else None)


@pytest.mark.parametrize(("deep", "level"), [(25828, 100), (25829, 101), (65535, 255)])  # 25828 = 100.498 * 257
def test_formats_of_eight_bits_get_the_nearest_gray_level(tmp_path: Path, deep: int, level: int) -> None:
    for suffix, tolerance in ((".jpg", 0), (".webp", 1)):  # a JPEG of this quality stores flat gray exactly
        write_photo(tmp_path / f"a{suffix}", Photo(np.full((8, 8, 3), deep, np.uint16)))
        found = read_photo((tmp_path / f"a{suffix}").read_bytes(), "a").pixels.astype(int)
        assert np.abs(found - level).max() <= tolerance


@pytest.mark.parametrize(("options", "quality", "step"), [({}, 95, 2), ({"quality": 80}, 80, 6)])
def test_jpeg_and_webp_files_have_the_quality_asked_for(
    tmp_path: Path, options: dict[str, int], quality: int, step: int
) -> None:
    for suffix in (".jpg", ".webp"):
        write_photo(tmp_path / f"a{suffix}", Photo(picture()), **options)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.quantization[0][0] == step  # libjpeg's 16 * (2 - quality / 50), rounded
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
    assert (tmp_path / "a.webp").read_bytes() == encoded(picture(), "WEBP", quality=quality)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_stays_gray(tmp_path: Path, upscaler: Upscaler, mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(buffer, "PNG")
    write_photo(tmp_path / "a.png", enlarge(upscaler, read_photo(buffer.getvalue(), "a.png")))
    assert Image.open(tmp_path / "a.png").mode == "L"


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_gray_tiff_files_keep_their_alpha_channel(tmp_path: Path, upscaler: Upscaler, kind: str) -> None:
    gray, alpha = np.full((8, 12), 90, np.uint8), np.full((8, 12), 255, np.uint8)
    alpha[:, :6] = 128
    stored = gray if kind == "unassalpha" else (gray * (alpha / 255)).round().astype(np.uint8)
    content = tiff(np.dstack([stored, alpha]), photometric="minisblack", planarconfig="contig", extrasamples=[kind])
    skip_if_unknown_to_pillow(content)
    photo = read_photo(content, "a.tif")
    assert photo.gray and photo.alpha is not None and np.array_equal(photo.alpha, alpha)
    assert np.abs(photo.pixels.astype(int) - 90).max() <= 1
    write_photo(tmp_path / "a.tif", enlarge(upscaler, photo))
    again = read_photo((tmp_path / "a.tif").read_bytes(), "a.tif")
    assert again.gray and again.alpha is not None
    assert again.alpha[:, :8].max() == 128 and (again.alpha[:, 16:] == 255).all()


def test_palettes_and_cmyk_become_rgb() -> None:
    image = Image.fromarray(picture())
    for mode, kind in (("P", "PNG"), ("CMYK", "TIFF")):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, kind)
        photo = read_photo(buffer.getvalue(), "a")
        assert photo.pixels.shape == (12, 20, 3) and not photo.gray and photo.alpha is None


def test_hidden_colours_do_not_reach_the_visible_ones() -> None:
    alpha = np.zeros((9, 12), np.uint8)
    alpha[3:6, 4:8] = 255
    pixels = np.where(alpha[..., None] > 0, np.uint8(200), np.uint8(0)).repeat(3, 2)
    assert (spread_colours(pixels, alpha) == 200).all()
    assert np.array_equal(spread_colours(pixels, np.zeros_like(alpha)), pixels)
    pixels[3, 4] = (1, 2, 3)
    assert spread_colours(pixels, alpha)[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_transparency_is_enlarged_and_leaves_opaque_what_is_opaque(
    network: FMENTraining, tmp_path: Path, suffix: str
) -> None:
    rgba = np.dstack([picture(), np.zeros((12, 20), np.uint8)])
    rgba[2:10, 3:15, 3] = 255
    noisy = copy.deepcopy(network)
    with torch.no_grad():
        noisy.tail[0].bias.sub_(3.0)  # a network that makes black of 2 and 252 of white
    large = enlarge(Upscaler(noisy, device="cpu"), read_photo(encoded(rgba, "PNG"), "a.png"))
    assert large.alpha is not None
    assert (large.alpha[6:18, 8:28] == 255).all() and (large.alpha[:2] == 0).all()
    write_photo(tmp_path / f"a{suffix}", large)
    assert np.array_equal(read_photo((tmp_path / f"a{suffix}").read_bytes(), "a").alpha, large.alpha)


def test_an_opaque_alpha_channel_is_dropped() -> None:
    opaque = np.dstack([picture(), np.full((12, 20), 255, np.uint8)])
    assert read_photo(encoded(opaque, "PNG"), "a.png").alpha is None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_libjpeg_warns_about_is_refused_with_its_reason(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(120, 160)).convert(mode).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    assert read_photo(data, "a").gray == (mode == "L")
    middle = 2 * len(data) // 3
    with pytest.raises(DataError, match=r"a is damaged \((Corrupt JPEG data|Premature end).*\); get the file again"):
        read_photo(data[:middle] + b"\xff\xd9" + data[middle:], "a")


def test_the_pixels_of_a_jpeg_are_those_that_pillow_decodes() -> None:
    for mode in ("RGB", "L", "CMYK"):
        buffer = io.BytesIO()
        Image.fromarray(picture(61, 83)).convert(mode).save(buffer, "JPEG")
        expected = np.array(Image.open(buffer).convert("RGB"))
        assert np.array_equal(read_photo(buffer.getvalue(), "a").pixels, expected)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a is empty"),
        (b"text", "a is not a readable image; give PNG, JPEG, WebP, TIFF or BMP"),
        (encoded(picture(), "PNG")[:-20], r"a is truncated \(the PNG ends before its IEND chunk\)"),
        (encoded(picture(), "TIFF")[:-300], "a is damaged"),
        (encoded(picture()[..., 0].astype(np.float32), "TIFF"), "a has 32 bits per channel; convert it to 8 or 16"),
        (
            encoded(picture(), "TIFF", save_all=True, append_images=[Image.fromarray(picture())]),
            "a has 2 frames; extract one of them",
        ),
        (
            tiff(picture().transpose(2, 0, 1).astype(np.uint16), photometric="rgb", planarconfig="separate"),
            "a has planar colour channels; save it with interleaved channels",
        ),
        (
            tiff(picture()[..., :2].copy(), photometric="minisblack", planarconfig="contig"),
            "a has an extra channel of unspecified meaning; remove it, or mark it as alpha",
        ),
        (
            tiff(picture()[..., :2].astype(np.uint16), photometric="minisblack", extrasamples=["unassalpha"]),
            "a is an unsupported kind of TIFF file; convert it to PNG",
        ),
    ],
    ids=["empty", "text", "truncated", "damaged", "float", "pages", "planes", "extra", "deep gray alpha"],
)
def test_a_file_that_is_not_a_photograph_is_refused_in_one_line(content: bytes, said: str) -> None:
    if "extra channel" in said:
        skip_if_unknown_to_pillow(content)
    with pytest.raises(DataError, match=said):
        read_photo(content, "a")


def test_an_image_that_does_not_fit_into_the_memory_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture()[..., 0]).save(buffer, "BMP")

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.Image.Image.convert", exhausted)
    with pytest.raises(DataError, match="a has 20x12 pixels, too many for the memory"):
        read_photo(buffer.getvalue(), "a")


def test_a_tiff_file_whose_second_page_has_no_size_is_refused_in_one_line() -> None:
    content = bytearray(tiff(picture()))
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, len(content))
    content += struct.pack("<HHHIII", 1, ExifTags.Base.Orientation, 3, 1, 1, 0)
    with pytest.raises(DataError, match=r"a is damaged \(Missing dimensions\)"):
        read_photo(bytes(content), "a")


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    transparent = Photo(picture(), alpha=np.zeros((12, 20), np.uint8))
    with pytest.raises(DataError, match=r"a.jpg: JPEG has no transparency; choose png, webp or tiff"):
        write_photo(tmp_path / "a.jpg", transparent)
    with pytest.raises(DataError, match="16384x1 pixels are more than WEBP can hold"):
        write_photo(tmp_path / "a.webp", Photo(np.zeros((1, 16384, 3), np.uint8)))
    with pytest.raises(DataError, match=r"unknown image format '.gif'; use one of .png"):
        write_photo(tmp_path / "a.gif", transparent)
    assert not list(tmp_path.iterdir())


def test_sixteen_bits_of_gray_and_alpha_become_rgba_in_tiff_which_more_programs_read(tmp_path: Path) -> None:
    gray = np.broadcast_to(picture().astype(np.uint16)[..., :1] * 257, (12, 20, 3))
    alpha = np.full((12, 20), 40_000, np.uint16)
    write_photo(tmp_path / "a.tif", Photo(np.ascontiguousarray(gray), alpha, gray=True))
    again = read_photo((tmp_path / "a.tif").read_bytes(), "a.tif")
    assert again.alpha is not None and np.array_equal(again.alpha, alpha) and np.array_equal(again.pixels, gray)


def test_more_pixels_of_sixteen_bits_than_opencv_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = cv2.imencode(".png", np.zeros((12, 20), np.uint16))[1].tobytes()
    monkeypatch.setattr("fmen.upscaling.photo.MOST_DEEP_PIXELS", 12 * 20 - 1)
    with pytest.raises(DataError, match="a has 20x12 pixels of 16 bits, too many; cut it into parts"):
        read_photo(content, "a")
    monkeypatch.setattr("fmen.upscaling.photo.MOST_DEEP_PIXELS", 12 * 20)
    assert read_photo(content, "a").pixels.dtype == np.uint16

    def refuse(*_: object) -> None:
        raise cv2.error("pixels <= CV_IO_MAX_IMAGE_PIXELS")

    monkeypatch.setattr("cv2.imdecode", refuse)
    with pytest.raises(DataError, match="a has an unsupported 16-bit pixel format"):
        read_photo(content, "a")


def test_the_description_that_tifffile_writes_is_not_copied() -> None:
    for text, copied in (('{"shape": [12, 20, 3]}', False), ("a view", True)):
        content = encoded(picture(), "JPEG", exif=described(text))
        assert (b"view" in read_photo(content, "a.jpg").exif) == copied
        assert b"shape" not in read_photo(content, "a.jpg").exif


def described(text: str) -> bytes:
    """EXIF data with a description."""
    exif = Image.Exif()
    exif[TAGS.ImageDescription] = text
    return exif.tobytes()
