"""``fmen export``: a weights file as a file that other programs read, compared with PyTorch before it gets its name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.export.formats import NEEDED, Format, Run, write
from fmen_core import load, read_metadata, reparameterize
from fmen_core.architecture import scale_and_range
from fmen_data import open_dataset
from fmen_data.atomic import atomic_write

TOLERANCE = 0.1
"""The difference from PyTorch in gray levels that sums formed in another order may explain."""


class ExportError(UserError):
    """A file cannot be exported; the message is one line with the remedy."""


@dataclass(frozen=True)
class Difference:
    """How far the images of what was written are from those of the network that it was made of.

    Attributes:
        largest: The largest absolute difference of any value, in gray levels: white is 255.
        changed: How many values differ after rounding to 8 bits.
        values: How many values were compared.
    """

    largest: float
    changed: int
    values: int

    def __str__(self) -> str:
        """One clause."""
        return f"largest difference {self.largest:.2g} of 255, {self.changed} of {self.values} 8-bit values differ"


@dataclass(frozen=True)
class Exported:
    """What was written and how it was checked.

    Attributes:
        path: The file.
        content: What it holds, in a line.
        reader: What read it for the comparison.
        difference: The comparison's outcome.
    """

    path: Path
    content: str
    reader: str
    difference: Difference


class Rescaled(nn.Module):
    """A network that takes and returns images in another data range than its own.

    Args:
        network: Any network of ``fmen_core``.
        data_range: The value of white at input and output.
    """

    def __init__(self, network: nn.Module, data_range: float) -> None:
        super().__init__()
        self.network = network
        self.factor = scale_and_range(network)[1] / data_range

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
        out: Tensor = self.network(x * self.factor) / self.factor
        return out


def export_weights(weights: Path, out: Path, file_format: Format, *, data_range: float | None = None) -> Exported:
    """Write the inference form of a weights file in another format, and compare the two.

    Args:
        weights: Any weights file that ``fmen_core.load`` recognises; a training form is re-parameterized.
        out: Where to. The file appears there only when it is whole and gives the same images.
        file_format: ``"onnx"`` or ``"torchscript"``: the network with its weights, for any batch, height and width.
            ``"safetensors"``: this software's own form. ``"pth"``: a bare state dict under the published names, which
            for FMEN are those of its authors' repository; ``"pth-challenge"``: under those of its submission.
        data_range: For ``"onnx"`` and ``"torchscript"`` the value of white at input and output. None for the network's
            own (255 for FMEN); 1 for programs that feed every network numbers from 0 to 1.

    Raises:
        ExportError: A package is missing, the format does not fit, or the comparison failed.
    """
    check_request(weights, out, file_format, data_range)
    network = reparameterize(load(weights)).requires_grad_(False)
    scale, own_range = scale_and_range(network)
    if file_format == "pth-challenge" and not str(network.name).startswith("fmen"):
        raise ExportError(f"{weights}: the challenge's names are FMEN's, but this is {network.name}; use --format pth")
    white = float(data_range or own_range)
    model = network if white == own_range else Rescaled(network, white)
    properties = {"name": str(network.name), "scale": str(scale), "data_range": f"{white:g}", "channels": "RGB"}
    recipe = read_metadata(weights).get("recipe", "")
    with atomic_write(out) as part:
        try:
            written = write(model, part, file_format, properties | ({"recipe": recipe} if recipe else {}))
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"{weights}: {network.name} has no ONNX form for every size: {why(error)}") from error
        except OSError as error:  # the user knows the file by its own name
            raise OSError(error.errno, error.strerror, str(out)) from error
        try:
            difference = compare(network, written.run, white)
        except Exception as error:  # whatever the reader raises where it was recorded for one size alone
            raise ExportError(f"{out}: not written, for it fails on images of other sizes: {why(error)}") from error
        if not difference.largest <= TOLERANCE:
            raise ExportError(f"{out}: not written, for it does not give the same images: {difference}")
    return Exported(out, f"{network.name} x{scale} as {written.content}", written.reader, difference)


def why(error: Exception) -> str:
    """What an error of PyTorch's or ONNX Runtime's says first, for one line."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__


def check_request(weights: Path, out: Path, file_format: Format, data_range: float | None) -> None:
    """Notice before any work what would go wrong after it.

    Raises:
        ExportError: It would.
    """
    missing = [name for name in NEEDED.get(file_format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"--format {file_format} needs {' and '.join(missing)}: pip install 'fmen[onnx]'")
    if data_range is not None and file_format not in ("onnx", "torchscript"):
        raise ExportError(f"--data-range: {file_format} holds weights alone; use it with --format onnx or torchscript")
    if data_range is not None and data_range not in (1, 255):
        raise ExportError(f"--data-range {data_range:g}: choose 1 or 255")
    if out.is_dir():
        raise ExportError(f"{out}: is a folder; name a file")
    if out.exists() and weights.exists() and out.samefile(weights):
        raise ExportError(f"{out}: is the weights file itself; name another one")


@torch.inference_mode()
def compare(network: nn.Module, run: Run, white: float) -> Difference:
    """Compare a network with what was made of it, on photographs.

    Args:
        network: The network, in its own data range.
        run: What was made of it: ``(N, 3, H, W)`` in ``[0, white]`` to ``(N, 3, scale*H, scale*W)``.
        white: The value of white there.
    """
    _, own_range = scale_and_range(network)
    largest, changed, values = 0.0, 0, 0
    for levels in photographs():
        expected = network(levels * (own_range / 255)) * (255 / own_range)
        found = run(levels * (white / 255)) * (255 / white)
        difference = float((found - expected).abs().max())
        largest = difference if not difference <= largest else largest  # which keeps what is not a number
        changed += int((found.clamp(0, 255).round() != expected.clamp(0, 255).round()).sum())
        values += expected.numel()
    return Difference(largest, changed, values)


def photographs() -> list[Tensor]:
    """What is compared: gray levels ``(N, 3, H, W)``, one image and a batch of two, in sizes of their own.

    Noise would not do: far from any photograph, FMEN's values grow into the thousands and rounding with them.
    """
    lr, _ = open_dataset("sample", scale=4).read(0)
    image = torch.from_numpy(lr).permute(2, 0, 1).float()
    return [image[None], torch.stack([image[:, 3:36, 5:46], image[:, 30:63, 60:101]])]
