"""Check an unpacked archive of results: ``readme.txt``, and the name, format, size and PSNR of each image."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from fmen.submission.check.findings import Finding, abbreviate, psnr_findings
from fmen.submission.images import SplitImages, open_images
from fmen.submission.rules import SCALE, Layout, Split
from fmen.submission.server_archive import README_LINES
from fmen_data import DataError, image_size, read_image
from fmen_data.datasets import Source
from fmen_eval import psnr

DIV2K: dict[Split, range] = {"valid": range(801, 901), "test": range(901, 1001)}
"""The numbers of DIV2K's images."""

UNNAMED = "name the data with --data to check that these are all"
"""What to do about images that are not DIV2K's by their names."""

COLOURS = {0: "gray", 3: "a palette", 4: "gray with alpha", 6: "RGB with alpha"}
"""Colour types in a PNG header other than 2, which is RGB."""


def check_results(folder: Path, names: list[str], layout: Layout, split: Split, data: Source | None) -> list[Finding]:
    """Check the archive unpacked in ``folder``; see :func:`fmen.submission.check.run.check_submission`."""
    images = None if data is None else open_images(data, layout, split)
    findings = check_readme(folder / "readme.txt")
    unexpected = [name for name in names if "/" in name or not name.endswith((".png", "readme.txt"))]
    if unexpected:
        findings.append(Finding("fatal", unexpected[0], "only PNG images and readme.txt belong in the archive's root"))
    stems = {name.removesuffix(".png"): name for name in names if "/" not in name and name.endswith(".png")}
    # The servers accept HR names and LR names, but not a mixture.
    ending = "x4" if stems and all(stem.endswith("x4") for stem in stems) else ""
    found = {stem.removesuffix(ending): name for stem, name in stems.items()}
    findings += check_names(found, images, ending)
    decibels = []
    for name, file in found.items():
        fault = check_format(folder / file)
        if fault:
            findings.append(Finding("fatal", file, fault))
        elif images is not None and name in images.names:
            more, value = compare_with_data(folder / file, images, name)
            findings += more
            decibels += [value] if value is not None else []
    if images is not None and decibels:
        findings += psnr_findings(sum(decibels) / len(decibels), len(decibels), layout, split, images, "images")
    return findings


def check_readme(path: Path) -> list[Finding]:
    """Check the four lines of ``readme.txt``: text and value."""
    if not path.is_file():
        return [Finding("fatal", "readme.txt", "is missing")]
    text = path.read_text(encoding="utf-8", errors="replace")
    findings = []
    for line, value in zip(README_LINES, (r"\d+(\.\d+)?([eE][+-]?\d+)?", "[01]", "[01]", r"\S.*"), strict=True):
        found = re.search(rf"^{re.escape(line)}\s*:\s*(.*?)\s*$", text, re.MULTILINE)
        if not found:
            findings.append(Finding("fatal", "readme.txt", f"line {line!r} is missing"))
        elif not re.fullmatch(value, found.group(1)):
            findings.append(Finding("fatal", "readme.txt", f"invalid value {found.group(1)!r} for {line!r}"))
    return findings


def check_names(found: dict[str, str], images: SplitImages | None, ending: str) -> list[Finding]:
    """Check that the images are those of the split; without its data, that they are DIV2K's by their numbers."""
    if images is not None:
        expected = images.names
    else:
        numbers = [int(name) for name in found if re.fullmatch(r"\d{4}", name)]
        ranges = [r for r in DIV2K.values() if len(numbers) == len(found) and set(numbers) & set(r)]
        if len(ranges) != 1:
            return [Finding("info", "images", f"{len(found)} PNG images; {UNNAMED}")]
        expected = [f"{number:04}" for number in ranges[0]]
    missing = [f"{name}{ending}.png" for name in expected if name not in found]
    unknown = [file for name, file in found.items() if name not in set(expected)]
    findings = []
    if missing:
        findings.append(Finding("fatal", "images", f"{len(missing)} of {len(expected)} missing: {abbreviate(missing)}"))
    if unknown:
        findings.append(Finding("fatal", "images", f"{len(unknown)} not in the data: {abbreviate(unknown)}"))
    return findings


def check_format(path: Path) -> str:
    """Return why the server cannot read an image as 8-bit RGB PNG of an x4 size; empty if it can."""
    with path.open("rb") as file:
        head = file.read(33)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or len(head) < 33:
        return "not a PNG"
    width, height, bits, colour = struct.unpack_from(">IIBB", head, 16)
    if bits != 8:
        return f"has {bits} bits per channel, not 8"
    if colour != 2:
        return f"is {COLOURS.get(colour, 'of an unknown colour type')}, not RGB"
    if width % SCALE or height % SCALE:
        return f"is {width}x{height}, not a multiple of {SCALE}"
    try:
        read_image(path)
    except DataError as error:
        return str(error).removeprefix(f"{path} ").split(";")[0]
    return ""


def compare_with_data(path: Path, images: SplitImages, name: str) -> tuple[list[Finding], float | None]:
    """Check the size of an SR image, and measure its PSNR if there is an HR image."""
    lr, hr = images.read(images.names.index(name))
    height, width = image_size(path)
    if (height, width) != (SCALE * lr.shape[0], SCALE * lr.shape[1]):
        wanted = f"{SCALE * lr.shape[1]}x{SCALE * lr.shape[0]}"
        return [Finding("fatal", path.name, f"is {width}x{height}, must be {wanted}")], None
    return [], None if hr is None else psnr(read_image(path), hr, border=SCALE)
