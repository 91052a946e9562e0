"""``fmen validate``: a weights file, a dataset and a protocol in; a table, JSON and a verdict out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fmen.sources.datasets import measured_source
from fmen.sources.weights import measured_weights
from fmen_core import FMEN, Upscaler, load
from fmen_data import open_dataset, write_image
from fmen_eval import ValidationResult
from fmen_eval import validate as measure

CHALLENGE_PSNR = 29.00
"""What a submission must reach in dB: x4 on DIV2K's 100 validation images under ``ntire``, rounded to two decimals."""


@dataclass(frozen=True)
class Report:
    """A validation and what was validated."""

    result: ValidationResult
    model: str
    weights: Path
    dataset: str

    def to_json(self) -> dict[str, Any]:
        """What ``fmen validate --json`` writes."""
        return self.result.to_json(model=self.model, weights=str(self.weights))

    @property
    def challenge_threshold(self) -> float | None:
        """The challenge's threshold in dB where this is the challenge's measurement, else None."""
        names = [image.name for image in self.result.images]
        div2k = names == [f"{number:04d}" for number in range(801, 901)]
        return CHALLENGE_PSNR if div2k and self.result.scale == 4 and self.result.protocol == "ntire" else None

    def passes(self, threshold: float) -> bool:
        """Whether the mean PSNR, rounded to two decimals as the challenge reports it, reaches ``threshold`` dB."""
        return round(self.result.psnr, 2) >= threshold


def run_validation(
    weights: Path | None,
    data: str | None,
    *,
    protocol: Literal["ntire", "paper", "kair-y"],
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: str = "auto",
    save_images: Path | None = None,
    say: Callable[[str], None] = print,
) -> Report:
    """Measure a weights file on a dataset.

    Args:
        weights: A file or a name; None for the best of the newest run.
        data: What ``--data`` takes; None for DIV2K's validation images where they are, or else the sample's.
        protocol: How to measure.
        precision: Arithmetic of the convolutions.
        device: Where to run.
        save_images: A folder for the upscaled images.
        say: Takes a line on each thing that was decided here.

    Raises:
        UserError: Weights or data are at fault; the message is one line.
    """
    weights = measured_weights(weights)
    model = load(weights)
    say(f"weights {weights}: {describe_network(model)}")
    scale = int(model.scale)  # type: ignore[arg-type]
    dataset = open_dataset(measured_source(data, scale), scale=scale, split="val")
    say(f"data {dataset.name}: {len(dataset)} images, x{dataset.scale}")
    if save_images:
        save_images.mkdir(parents=True, exist_ok=True)
    result = measure(
        # The published code keeps each channel's plane together: so do we, and the figures agree to the last digit.
        Upscaler(model, device=device, precision=precision, channels_last=False),
        dataset,
        scale=dataset.scale,
        protocol=protocol,
        total=len(dataset),
        progress=sys.stderr.isatty(),
        on_image=(lambda name, sr: write_image(save_images / f"{name}.png", sr)) if save_images else None,
    )
    return Report(result, str(model.name), weights, dataset.name)


def describe_network(model: nn.Module) -> str:
    """A network's name, scale and form, and what is about to happen to it."""
    form = "training form, re-parameterized to the inference form" if isinstance(model, FMEN) else "inference form"
    return f"{model.name} x{model.scale}, {form}"
