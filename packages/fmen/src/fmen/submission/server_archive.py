"""The archive for the challenge's evaluation server: the SR images of a split, and ``readme.txt`` with four lines.

The images have the names of the HR images (``0801.png``), as the organisers' ``test_demo.py`` saves them, and are in
the root of the zip, as the evaluation servers require.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from tqdm import tqdm

from fmen.submission.images import open_images
from fmen.submission.rules import SCALE, Split, archive_entry, atomic_archive, check_scale, get_layout
from fmen.submission.team import EXAMPLE_NOTE, Team, load_team
from fmen_core import Upscaler
from fmen_data import write_image
from fmen_data.datasets import Source
from fmen_eval import psnr

README_LINES = (
    "runtime per image [s]",
    "CPU[1] / GPU[0]",
    "Extra Data [1] / No Extra Data [0]",
    "Other description",
)
"""The lines of ``readme.txt``; each is followed by `` : `` and its value."""


@dataclass(frozen=True)
class ResultsReport:
    """The archive that was written.

    Attributes:
        path: The zip.
        dataset: The dataset's name.
        images: Number of SR images.
        seconds: Mean runtime per image in seconds, including transfers to and from the device.
        psnr: Mean PSNR over RGB in dB; None without HR images.
        note: A reminder to fill in the team; None if it is filled in.
    """

    path: Path
    dataset: str
    images: int
    seconds: float
    psnr: float | None
    note: str | None


def build_results(
    network: nn.Module,
    data: Source,
    team: Path | None,
    out: Path,
    *,
    layout: str = "ntire2022",
    split: Split = "valid",
    device: str = "auto",
    progress: bool = True,
) -> ResultsReport:
    """Upscale a split and write the archive.

    Args:
        network: Any x4 network with its weights.
        data: See :func:`fmen.submission.images.open_images`.
        team: ``team.yaml``; None for the bundled example.
        out: The zip, which is written as a whole or not at all.
        layout: The challenge: a key of ``LAYOUTS``.
        split: ``"valid"`` or ``"test"``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        progress: Show a progress bar.

    Raises:
        SubmissionError: ``team`` or ``out`` is invalid, the network is not x4, or the split does not exist.
        ModelError: The device is not available.
        DataError: The images cannot be read.
    """
    check_scale(network)
    rules, who = get_layout(layout), load_team(team)
    images = open_images(data, rules, split)
    upscaler = Upscaler(network, device=device, channels_last=False)
    seconds, decibels = [], []
    with (
        atomic_archive(out) as part,
        zipfile.ZipFile(part, "w") as archive,
        tempfile.TemporaryDirectory(prefix="fmen-submit-") as work,
    ):
        upscaler(images.read(0)[0])  # warm-up: the first call allocates memory and selects kernels
        for index, name in enumerate(
            tqdm(images.names, desc="upscale", unit="image", disable=not progress, leave=False)
        ):
            lr, hr = images.read(index)
            start = time.perf_counter()
            sr = upscaler(lr)
            seconds.append(time.perf_counter() - start)
            if hr is not None:
                decibels.append(psnr(sr, hr, border=SCALE))
            write_image(Path(work, "sr.png"), sr)
            archive.writestr(archive_entry(f"{name}.png"), Path(work, "sr.png").read_bytes())
        mean = sum(seconds) / len(seconds)
        archive.writestr(archive_entry("readme.txt"), readme(who, mean, upscaler.device.type == "cuda"))
    mean_psnr = sum(decibels) / len(decibels) if decibels else None
    return ResultsReport(out, images.name, len(seconds), mean, mean_psnr, EXAMPLE_NOTE if who.is_example else None)


def readme(team: Team, seconds: float, gpu: bool) -> str:
    """Return the content of ``readme.txt``."""
    description = " ".join(f"{team.title}. {team.description} Training data: {team.training_data}. PyTorch.".split())
    values = (f"{seconds:.4f}", "0" if gpu else "1", "1" if team.extra_data else "0", description)
    return "".join(f"{line} : {value}\n" for line, value in zip(README_LINES, values, strict=True))
