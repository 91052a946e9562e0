"""What each year's challenge expects: where files lie, what they are called, and the PSNR that must be reached."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fmen.errors import UserError
from fmen_data.atomic import atomic_write

Split = Literal["valid", "test"]
SCALE = 4


class SubmissionError(UserError):
    """A submission cannot be built or read; the message is one line that names the fault and the remedy."""


@dataclass(frozen=True)
class Layout:
    """One year's rules.

    Attributes:
        name: What ``--layout`` takes.
        challenge: The challenge's name as its own scripts print it.
        repository: The organisers' repository on GitHub, whose README and ``test_demo.py`` are the source.
        folders: For each split the folders of LR and HR images under ``--data_dir``.
        suffixes: For each split what the name of an LR image adds to that of its HR image.
        thresholds: For each split the mean PSNR in dB (RGB, rounded to two decimals) that a method must reach.
        capitals: Whether the model file is called after its class (``team03_FMEN``) or not (``team03_fmen_s``).
        flops_rule: ``"challenge"`` (``utils/model_summary.py``) or ``"fvcore"``.
    """

    name: str
    challenge: str
    repository: str
    folders: Mapping[Split, tuple[str, str]]
    suffixes: Mapping[Split, str]
    thresholds: Mapping[Split, float]
    capitals: bool
    flops_rule: Literal["challenge", "fvcore"]

    def stem(self, team_id: int, variant: str) -> str:
        """What the model file and the weights file are called, without their endings."""
        return f"team{team_id:02}_" + ("FMEN" if self.capitals else variant.replace("-", "_"))


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="ntire2022",
            challenge="NTIRE2022-EfficientSR",
            repository="ofsoundof/NTIRE2022_ESR",
            folders={"valid": ("DIV2K_valid_LR", "DIV2K_valid_HR"), "test": ("DIV2K_test_LR", "DIV2K_test_HR")},
            suffixes={"valid": "x4", "test": ""},
            thresholds={"valid": 29.00},
            capitals=False,
            flops_rule="challenge",
        ),
        Layout(
            name="ntire2026",
            challenge="NTIRE2026-EfficientSR",
            repository="Amazingren/NTIRE2026_ESR",
            folders={
                "valid": ("DIV2K_LSDIR_valid_LR", "DIV2K_LSDIR_valid_HR"),
                "test": ("DIV2K_LSDIR_test_LR", "DIV2K_LSDIR_test_HR"),
            },
            suffixes={"valid": "x4", "test": "x4"},
            thresholds={"valid": 26.90, "test": 26.99},
            capitals=True,
            flops_rule="fvcore",
        ),
    )
}


def layout_named(name: str) -> Layout:
    """The rules of that name.

    Raises:
        SubmissionError: There are none.
    """
    if name not in LAYOUTS:
        raise SubmissionError(f"no layout is called {name!r}; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def entry(name: str) -> zipfile.ZipInfo:
    """A file's entry in a zip, with a fixed date, so that the same content gives the same bytes."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    return info


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """:func:`atomic_write` for a zip, whose place is checked before the work is done.

    Raises:
        SubmissionError: ``out`` is a folder or in none, or a file cannot be written in the block.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise SubmissionError(f"{out}: name a file that ends in .zip, in a folder that exists")
    try:
        with atomic_write(out) as temporary:
            yield temporary
    except OSError as error:
        raise SubmissionError(f"{error.filename or out}: cannot be written ({error.strerror or error})") from None
