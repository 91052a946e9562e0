"""``fmen validate``: measure a weights file on a dataset under one protocol, and compare with a threshold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fmen.sources.datasets import measured_source
from fmen.sources.weights import named_or_newest_weights
from fmen_core import Upscaler, load
from fmen_core.architecture import sr_model
from fmen_core.models import recognise
from fmen_data import open_dataset, write_image
from fmen_eval import ValidationResult
from fmen_eval import validate as measure

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
    data: str | None,
    *,
    protocol: Literal["ntire", "paper", "kair-y"],
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: str = "auto",
    save_images: Path | None = None,
    echo: Callable[[str], None] = print,
) -> Report:
    """Measure a weights file on a dataset.

    Args:
        weights: A file or a name. None for the best weights of the newest run.
        data: A dataset as ``--data`` names it. None for DIV2K's validation images under ``data/`` if they exist, else
            the sample.
        protocol: How PSNR and SSIM are computed.
        precision: Arithmetic of the convolutions.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        save_images: Folder to write the SR images to.
        echo: Called with a line about the weights, and one about the dataset.

    Raises:
        UserError: There is no run.
        ModelError: The weights or the device cannot be used.
        DataError: The dataset cannot be read.
    """
    file = named_or_newest_weights(weights)
    model = load(file)
    echo(f"weights {file}: {describe_network(model)}")
    scale = sr_model(model).scale
    dataset = open_dataset(measured_source(data, scale), scale=scale, split="val")
    echo(f"data {dataset.name}: {len(dataset)} images, x{dataset.scale}")
    if save_images:
        save_images.mkdir(parents=True, exist_ok=True)
    result = measure(
        # The published code runs in the default memory format; with another one the last digits differ.
        Upscaler(model, device=device, precision=precision, channels_last=False),
        dataset,
        scale=dataset.scale,
        protocol=protocol,
        total=len(dataset),
        progress=sys.stderr.isatty(),
        on_image=(lambda name, sr: write_image(save_images / f"{name}.png", sr)) if save_images else None,
    )
    return Report(result, str(model.name), file, dataset.name)


def describe_network(model: nn.Module) -> str:
    """Describe a network in a few words: name, scale and form."""
    _, arguments = recognise(model.state_dict()) or (None, {})
    training = arguments.get("form") == "training"
    form = "training form, re-parameterized to the inference form" if training else "inference form"
    return f"{model.name} x{model.scale}, {form}"
