"""EXIF data: what is read of a photograph's, and what of it is written. Damaged values are left out."""

from __future__ import annotations

import struct
from typing import Any

from PIL import ExifTags, Image

COPIED_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
SUBJECT_AREA = 0x9214
DROPPED_DETAILS = (
    ExifTags.Base.MakerNote,
    ExifTags.Base.ExifImageWidth,
    ExifTags.Base.ExifImageHeight,
    ExifTags.Base.ExifInteroperabilityOffset,
    ExifTags.Base.FocalPlaneXResolution,
    ExifTags.Base.FocalPlaneYResolution,
    ExifTags.Base.SubjectLocation,
    SUBJECT_AREA,
)
"""What describes the old pixels, and what contains offsets in the old file."""

SHAPE = '{"shape": '
"""The beginning of the description that tifffile writes."""

EXIF_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, AttributeError, LookupError, struct.error)
"""What Pillow raises for damaged EXIF data."""


def read_exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF data, without the orientation if Pillow has applied it; none if they are damaged."""
    try:
        return image.getexif()
    except EXIF_ERRORS:
        return Image.Exif()


def value_of(exif: Image.Exif, tag: int) -> Any:
    """Return the value of a tag, which Pillow decodes now; None if it is missing or damaged."""
    try:
        return exif.get(tag)
    except EXIF_ERRORS:
        return None


def copied_exif(exif: Image.Exif) -> bytes:
    """Return the EXIF data to write: what is worth copying, without values that cannot be encoded."""
    copied = Image.Exif()
    for tag in COPIED_TAGS:
        value = value_of(exif, tag)
        if isinstance(value, str) and value.startswith(SHAPE):
            continue
        if isinstance(value, str):  # Pillow decodes as Latin-1 and encodes as ASCII, but names are UTF-8 in practice
            value = value.encode("latin-1", "replace")
        if value is not None and is_encodable(tag, value):
            copied[tag] = value
    for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        try:
            found = exif.get_ifd(part)
        except EXIF_ERRORS:
            continue
        details = {
            tag: value for tag, value in found.items() if tag not in DROPPED_DETAILS and is_encodable(tag, value, part)
        }
        if details:
            copied.get_ifd(part).update(details)
            copied[part] = copied.get_ifd(part)
    return copied.tobytes() if len(copied) else b""


def is_encodable(tag: int, value: Any, part: int | None = None) -> bool:
    """Return whether Pillow can encode the value of a tag; files may store it in a type that the tag does not have."""
    exif = Image.Exif()
    if part is None:
        exif[tag] = value
    else:
        exif.get_ifd(part)[tag] = value
        exif[part] = exif.get_ifd(part)
    try:
        exif.tobytes()
    except EXIF_ERRORS:
        return False
    return True
