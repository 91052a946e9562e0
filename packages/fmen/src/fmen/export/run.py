"""``fmen export``: write a weights file in another format, after comparing the result with PyTorch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.export.formats import REQUIRED_PACKAGES, Format, write_format
from fmen.sources.networks import Note, load_network, user_module
from fmen_core import read_metadata, reparameterize
from fmen_core.architecture import sr_model
from fmen_core.backends import Forward
from fmen_data import open_dataset
from fmen_data.atomic import atomic_write

TOLERANCE = 0.1
"""Largest accepted difference from PyTorch in gray levels: sums in another order round differently."""


class ExportError(UserError):
    """Weights cannot be exported. The message is one line with the remedy."""


@dataclass(frozen=True)
class Difference:
    """The difference between the SR images of an exported file and those of PyTorch.

    Attributes:
        largest: Largest absolute difference, in gray levels; NaN if a value is NaN.
        changed: Number of values that differ after rounding to 8 bits.
        values: Number of values compared.
    """

    largest: float
    changed: int
    values: int

    def __str__(self) -> str:
        return f"largest difference {self.largest:.2g} of 255, {self.changed} of {self.values} 8-bit values differ"


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: The file.
        content: Its content, in one line.
        reader: The software that opened it for the comparison.
        difference: The result of the comparison.
    """

    path: Path
    content: str
    reader: str
    difference: Difference


class Rescaled(nn.Module):
    """A network with another data range at input and output.

    Args:
        network: Any network of ``fmen_core``.
        data_range: The value of white there.
    """

    def __init__(self, network: nn.Module, data_range: float) -> None:
        super().__init__()
        self.network = network
        self.factor = sr_model(network).data_range / data_range

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
        out: Tensor = self.network(x * self.factor) / self.factor
        return out


def export_weights(
    weights: Path,
    out: Path,
    file_format: Format,
    *,
    data_range: float | None = None,
    model: str | None = None,
    note: Note = lambda line: None,
) -> Exported:
    """Write the inference form of a weights file in another format, and compare it with PyTorch.

    Args:
        weights: Any weights file that ``fmen_core.load`` recognises; a training form is re-parameterized.
        out: File to write. It is written only if the comparison succeeds.
        file_format: ``"onnx"`` or ``"torchscript"``: the network with its weights, for any batch, height and width.
            ``"safetensors"``: this project's format. ``"pth"``: a bare state dict with the published names, for FMEN
            those of its authors' repository. ``"pth-challenge"``: with the names of FMEN's challenge submission.
        data_range: The value of white at input and output, 1 or 255, for ``"onnx"`` and ``"torchscript"``. None for
            the network's own.
        model: The network, as :func:`fmen.sources.networks.load_network` takes it; required for a user's network.
        note: Called with one line about weights of another version of a user's file.

    Raises:
        ExportError: A package is missing, the format does not fit the network, or the comparison fails.
        WeightsError: The weights cannot be read.
    """
    check_request(weights, out, file_format, data_range)
    network = reparameterize(load_network(weights, model, note=note)).requires_grad_(False)
    scale, own_range = sr_model(network).scale, sr_model(network).data_range
    if file_format == "pth-challenge" and (user_module(network) or not str(network.name).startswith("fmen")):
        raise ExportError(
            f"{weights}: --format pth-challenge is for FMEN, and this is {network.name}; use --format pth"
        )
    white = float(data_range or own_range)
    written_network = network if white == own_range else Rescaled(network, white)
    properties = {"name": str(network.name), "scale": str(scale), "data_range": f"{white:g}", "channels": "RGB"}
    recipe = read_metadata(weights).get("recipe", "")
    with atomic_write(out) as temporary:
        try:
            written = write_format(
                written_network, temporary, file_format, properties | ({"recipe": recipe} if recipe else {})
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"{weights}: {network.name} cannot be exported to ONNX for every size: {first_lines(error)}"
            ) from error
        except OSError as error:  # name the file that the user named, not the temporary one
            raise OSError(error.errno, error.strerror, str(out)) from error
        try:
            difference = compare(network, written.run, white)
        except Exception as error:  # readers raise various errors if the network was traced for one size
            raise ExportError(f"{out}: not written, it fails on images of other sizes: {first_lines(error)}") from error
        if not difference.largest <= TOLERANCE:
            raise ExportError(f"{out}: not written, its images differ from PyTorch's: {difference}")
    return Exported(out, f"{network.name} x{scale} as {written.content}", written.reader, difference)


def first_lines(error: Exception) -> str:
    """Return the beginning of an error message of PyTorch or ONNX Runtime."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__


def check_request(weights: Path, out: Path, file_format: Format, data_range: float | None) -> None:
    """Check the arguments before any work.

    Raises:
        ExportError: A package is missing, the data range does not fit, or ``out`` cannot be written.
    """
    missing = [name for name in REQUIRED_PACKAGES.get(file_format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"--format {file_format} needs {' and '.join(missing)}: pip install 'fmen[onnx]'")
    if data_range is not None and file_format not in ("onnx", "torchscript"):
        raise ExportError(f"--data-range: {file_format} stores weights only; use --format onnx or torchscript")
    if data_range is not None and data_range not in (1, 255):
        raise ExportError(f"--data-range {data_range:g}: choose 1 or 255")
    if out.is_dir():
        raise ExportError(f"{out}: a folder; name a file")
    if out.exists() and weights.exists() and out.samefile(weights):
        raise ExportError(f"{out}: the weights file itself; name another file")


@torch.inference_mode()
def compare(network: nn.Module, run: Forward, white: float) -> Difference:
    """Compare a network with its exported file on photographs.

    Args:
        network: The network, in its own data range.
        run: The exported one: ``(N, 3, H, W)`` in ``[0, white]`` to ``(N, 3, scale*H, scale*W)``.
        white: The value of white of ``run``.
    """
    own_range = sr_model(network).data_range
    largest, changed, values = 0.0, 0, 0
    for levels in sample_inputs():
        expected = network(levels * (own_range / 255)) * (255 / own_range)
        found = run(levels * (white / 255)) * (255 / white)
        difference = float((found - expected).abs().max())
        largest = difference if not difference <= largest else largest  # NaN stays
        changed += int((found.clamp(0, 255).round() != expected.clamp(0, 255).round()).sum())
        values += expected.numel()
    return Difference(largest, changed, values)


def sample_inputs() -> list[Tensor]:
    """Return photographs in gray levels ``(N, 3, H, W)``: one image, and a batch of two of another size.

    On noise FMEN's activations grow to thousands, and rounding errors with them.
    """
    lr, _ = open_dataset("sample", scale=4).read(0)
    image = torch.from_numpy(lr).permute(2, 0, 1).float()
    return [image[None], torch.stack([image[:, 3:36, 5:46], image[:, 30:63, 60:101]])]
