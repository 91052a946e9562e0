"""``fmen validate``: measure a weights file on datasets under one protocol, and compare with a threshold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fmen.outputs import check_folder
from fmen.sources.datasets import measured_source, open_measured
from fmen.sources.networks import Note, has_blocks
from fmen.sources.openvino_file import runnable_network, upscaler_for
from fmen.sources.weights import choose_weights, weights_title
from fmen_core import Upscaler
from fmen_core.architecture import sr_model
from fmen_data import PairDataset, write_image
from fmen_eval import Protocol, ValidationResult
from fmen_eval import validate as measure
from fmen_eval.tables import format_text

CHALLENGE_PSNR = 29.00
"""The PSNR in dB that a submission must reach: x4 on DIV2K's 100 validation images under ``ntire``, to two decimals."""


@dataclass(frozen=True)
class Report:
    """A validation and what was validated."""

    result: ValidationResult
    model: str
    weights: Path
    dataset: str

    def to_dict(self) -> dict[str, Any]:
        """Return what ``fmen validate --json`` writes; PSNR is infinite, or ``null`` in the file, for equal images."""
        return self.result.to_dict(model=self.model, weights=str(self.weights))

    @property
    def is_challenge(self) -> bool:
        """Whether the challenge's own threshold applies: its images, scale and protocol."""
        names = [image.name for image in self.result.images]
        div2k = names == [f"{number:04d}" for number in range(801, 901)]
        return div2k and self.result.scale == 4 and self.result.protocol == "ntire"

    def verdict(self, threshold: float | None) -> tuple[bool | None, str]:
        """Compare the mean PSNR with a threshold.

        A threshold of the user's is compared with the PSNR as measured. The challenge's is compared with the PSNR
        rounded to two decimals, as the challenge reports it.

        Args:
            threshold: In dB. None for the challenge's, where this is the challenge's measurement.

        Returns:
            Whether the threshold is reached, None without one, and a line for the user.
        """
        psnr, protocol = self.result.psnr, self.result.protocol
        if threshold is not None:
            passed, shown, least = psnr >= threshold, f"{psnr:.4f}", f"{threshold:g}"
        elif self.is_challenge:
            passed, shown, least = round(psnr, 2) >= CHALLENGE_PSNR, f"{psnr:.2f}", f"{CHALLENGE_PSNR:.2f}"
        else:
            return None, f"mean PSNR {psnr:.2f} dB ({protocol})"
        relation = "reaches" if passed else "is below"
        return passed, f"mean PSNR {shown} dB ({protocol}) {relation} the threshold of {least} dB"


def run_validation(
    weights: Path | None,
    data: Sequence[str] = (),
    *,
    model: str | None = None,
    protocol: Literal["ntire", "paper", "kair-y"],
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: str = "auto",
    save_images: Path | None = None,
    echo: Callable[[str], None] = print,
    note: Note = lambda line: None,
) -> tuple[Report, ...]:
    """Measure a weights file on one or more datasets.

    Args:
        weights: As :func:`fmen.sources.weights.choose_weights` takes it.
        data: Datasets as ``--data`` names them. By default, DIV2K's validation images under ``data/`` if they exist,
            else the sample.
        model: The network, as :func:`fmen.sources.networks.load_network` takes it; required for a user's network.
        protocol: How PSNR and SSIM are computed.
        precision: Arithmetic of the convolutions.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        save_images: Folder to write the SR images to, with several datasets in a folder for each.
        echo: Called with a line about the weights, and one about each dataset.
        note: Called with one line about weights of another version of a user's file.

    Returns:
        One report per dataset.

    Raises:
        UserError: The user's network cannot be used, two datasets have the same name, or ``save_images`` is a folder of
            one of them.
        ModelError: The weights or the device cannot be used.
        DataError: A dataset cannot be read.
    """
    file = choose_weights(weights, model=model)
    network = runnable_network(file, model, note=note)
    echo(f"weights {weights_title(file)}: {describe_network(network)}")
    scale = sr_model(network).scale
    datasets = open_measured([measured_source(source, scale) for source in data or (None,)], scale, option="--data")
    folders = [save_images / dataset.name if save_images and len(datasets) > 1 else save_images for dataset in datasets]
    for folder in folders:
        if folder:
            check_folder(folder, (folder for dataset in datasets for folder in dataset.folders()))
    # The published code runs in the default memory format; with another one the last digits differ.
    upscaler = upscaler_for(network, device=device, precision=precision, channels_last=False)
    reports = []
    for dataset, folder in zip(datasets, folders, strict=True):
        echo(f"data {dataset.name}: {len(dataset)} images, x{scale}")
        result = measure_dataset(upscaler, dataset, protocol, folder)
        reports.append(Report(result, str(network.name), file, dataset.name))
    return tuple(reports)


def measure_dataset(
    upscaler: Upscaler, dataset: PairDataset, protocol: Protocol, folder: Path | None
) -> ValidationResult:
    """Measure one dataset; ``folder`` takes the SR images."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    return measure(
        upscaler,
        dataset,
        scale=dataset.scale,
        protocol=protocol,
        total=len(dataset),
        progress=sys.stderr.isatty(),
        on_image=(lambda name, sr: write_image(folder / f"{name}.png", sr)) if folder else None,
    )


def reports_table(reports: Sequence[Report]) -> str:
    """Format a text table: one line per image of a single dataset, or one line per dataset."""
    if len(reports) == 1:
        return reports[0].result.table()
    rows = [("dataset", "images", "PSNR dB", "SSIM", "seconds")]
    for report in reports:
        result = report.result
        ssim = "-" if result.ssim is None else f"{result.ssim:.4f}"
        rows.append((report.dataset, str(len(result.images)), f"{result.psnr:.4f}", ssim, f"{result.seconds:.3f}"))
    return format_text(rows, head=False)


def reports_json(reports: Sequence[Report]) -> dict[str, Any] | list[dict[str, Any]]:
    """Return what ``fmen validate --json`` writes: an object, or with several datasets a list with their names."""
    if len(reports) == 1:
        return reports[0].to_dict()
    return [{"dataset": report.dataset, **report.to_dict()} for report in reports]


def describe_network(network: nn.Module) -> str:
    """Describe a network in a few words: name, scale and form."""
    form = "training form, re-parameterized to the inference form" if has_blocks(network) else "inference form"
    return f"{network.name} x{network.scale}, {form}"
