"""Table 3: published PSNR and SSIM of its networks, beside those of weights at hand."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from fmen.reproduction.published import ACCURACY, FMEN_TABLE3
from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen.reproduction.table3 import SCALES
from fmen_core import Upscaler, find_weights, load
from fmen_core.architecture import sr_model
from fmen_core.models import ARCHITECTURES
from fmen_data import open_dataset
from fmen_data.datasets import parse_source
from fmen_eval import validate

NOT_MEASURED = float("nan")


def run(options: Options) -> Result:
    """List the published figures, with those of ``options.weights`` on ``options.val_data`` under ``paper``.

    Raises:
        ModelError: A weights file cannot be used.
        DataError: The dataset cannot be read.
    """
    rows = {
        row.key: row
        for title, dataset in ACCURACY
        for scale in SCALES
        for row in rows_of(title, scale, dataset, (NOT_MEASURED, NOT_MEASURED), 0.0)
    }
    for weights in options.weights:
        rows |= {row.key: row for row in measured(weights, options)}
    return Result(
        list(rows.values()),
        ["Ours are measured with published weights: fmen reproduce accuracy --weights imdn-x4 --val-data Set5."],
    )


def rows_of(title: str, scale: int, dataset: str, ours: tuple[float, float], seconds: float) -> list[Row]:
    """Return the rows of PSNR and SSIM of a network on a dataset."""
    subject, source = f"{title} x{scale}", ""
    psnr = ssim = None
    if scale in SCALES and (title, dataset) in ACCURACY:
        psnr, ssim = ACCURACY[title, dataset][SCALES.index(scale)]
        source = FMEN_TABLE3
    return [
        Row(subject, f"PSNR on {dataset}", ours[0], " dB", 2, psnr, source, seconds=seconds),
        Row(subject, f"SSIM on {dataset}", ours[1], "", 4, ssim, source, seconds=seconds),
    ]


def measured(weights: str, options: Options) -> list[Row]:
    """Measure a weights file under the protocol ``paper``."""
    started = time.perf_counter()
    upscaler = Upscaler(load(find_weights(weights)), device=options.device, precision="fp32")
    model = sr_model(upscaler.model)
    dataset = open_dataset(parse_source(options.val_data), scale=model.scale, split="val")
    result = validate(
        upscaler, dataset, scale=model.scale, protocol="paper", total=len(dataset), progress=options.progress
    )
    titles = {architecture.name: architecture.title for architecture in ARCHITECTURES}
    title = titles[str(getattr(upscaler.model, "name", ""))]
    seconds = time.perf_counter() - started
    command = f"fmen reproduce accuracy --weights {Path(weights).name} --val-data {Path(options.val_data).name}"
    rows = rows_of(title, model.scale, dataset.name, (result.psnr, result.ssim or NOT_MEASURED), seconds)
    return [replace(row, command=command) for row in rows]


EXPERIMENT = Experiment("accuracy", "Table 3: PSNR and SSIM on luma", run)
