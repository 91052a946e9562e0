"""The rules of each year's challenge: folders, file names, thresholds."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from fmen.errors import UserError
from fmen.outputs import prepare_file
from fmen_core.architecture import sr_model
from fmen_data.atomic import atomic_write

Split = Literal["valid", "test"]
SCALE = 4

DEFAULT = "ntire2022"
"""The challenge whose rules apply if none is named."""


class SubmissionError(UserError):
    """A submission cannot be built or read. The message is one line that names the fault and the remedy."""


@dataclass(frozen=True)
class Layout:
    """The rules of one year.

    Attributes:
        name: Its name for ``--layout``.
        challenge: The challenge's name, as its own scripts print it.
        repository: The organisers' repository on GitHub; its README and ``test_demo.py`` are the source of these rules.
        folders: The folders of LR and HR images under ``--data_dir``, by split.
        suffixes: What the name of an LR image adds to that of its HR image, by split.
        thresholds: The mean PSNR in dB (RGB, rounded to two decimals) that a method must reach, by split.
        capitals: Whether file names use the class's name (``team03_FMEN``) or the network's (``team03_fmen_s``).
        flops_rule: How FLOPs are counted: ``"challenge"`` (``utils/model_summary.py``) or ``"fvcore"``.
    """

    name: str
    challenge: str
    repository: str
    folders: Mapping[Split, tuple[str, str]]
    suffixes: Mapping[Split, str]
    thresholds: Mapping[Split, float]
    capitals: bool
    flops_rule: Literal["challenge", "fvcore"]

    def stem(self, team_id: int, name: str, class_name: str) -> str:
        """Return the name of the model file and the weights file, without suffix, for a network of a class."""
        return f"team{team_id:02}_" + (class_name if self.capitals else name.replace("-", "_").lower())


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


def get_layout(name: str) -> Layout:
    """Return the rules of a challenge.

    Raises:
        SubmissionError: The name is unknown.
    """
    if name not in LAYOUTS:
        raise SubmissionError(f"unknown layout {name!r}; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def check_scale(network: nn.Module) -> None:
    """Check that a network has the challenge's scale.

    Raises:
        SubmissionError: It has another one.
    """
    scale = sr_model(network).scale
    if scale != SCALE:
        name = getattr(network, "name", type(network).__name__)
        raise SubmissionError(f"{name} is an x{scale} network; the challenge is x{SCALE}")


def archive_entry(name: str) -> zipfile.ZipInfo:
    """Return a zip entry with a fixed date, so that equal files give equal zips."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    return info


@contextmanager
def atomic_archive(out: Path) -> Iterator[Path]:
    """:func:`fmen_data.atomic.atomic_write` for a zip; ``out`` is checked before the block runs.

    Raises:
        UserError: ``out`` is not called ``NAME.zip`` or is a folder, or a file cannot be written in the block.
    """
    try:
        prepare_file(out, ".zip")
        with atomic_write(out) as temporary:
            yield temporary
    except OSError as error:
        raise SubmissionError(f"{error.filename or out}: cannot be written ({error.strerror or error})") from None
