"""``fmen export``: write a weights file in another format, after comparing the result with PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.export.formats import FORMATS_BY_SUFFIX, NETWORK_FORMATS, REQUIRED_PACKAGES, Format, write_format
from fmen.export.int8 import count_quantized, quantize
from fmen.outputs import prepare_file
from fmen.sources.networks import Note, load_network, user_module
from fmen.sources.openvino_file import tiling_metadata
from fmen_core import read_metadata, reparameterize
from fmen_core.architecture import sr_model
from fmen_core.backends import Forward
from fmen_core.tiling import is_out_of_memory
from fmen_data import open_dataset, parse_source
from fmen_data.atomic import atomic_write
from fmen_data.bicubic import Image
from fmen_eval import psnr

TOLERANCE = 0.1
"""Largest accepted difference from PyTorch in gray levels: sums in another order round differently."""


LARGEST_LOSS = 0.3
"""Largest accepted loss of PSNR in int8, in dB."""

MOST_IMAGES, MEASURED_IMAGES = 150, 20
"""Most images that int8 is calibrated with, and most that its PSNR is measured on."""

STEPS = 200
"""Training steps of int8."""


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
class Loss:
    """The loss of quality of a network in int8.

    Attributes:
        exact: Mean PSNR (``paper``) in fp32, in dB.
        quantized: The same in int8.
        images: Number of images.
    """

    exact: float
    quantized: float
    images: int

    @property
    def decibels(self) -> float:
        """PSNR that int8 loses."""
        return self.exact - self.quantized

    def __str__(self) -> str:
        return f"PSNR on {self.images} calibration images {self.quantized:.3f} dB, in fp32 {self.exact:.3f} dB"


@dataclass(frozen=True)
class Int8:
    """How to quantize a network to int8.

    Attributes:
        calibrate: The calibration images: a dataset as ``--data`` names it.
        steps: Training steps against the network in fp32.
    """

    calibrate: str
    steps: int = STEPS


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
    difference: Difference | Loss


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
    int8: Int8 | None = None,
    model: str | None = None,
    note: Note = lambda line: None,
) -> Exported:
    """Write the inference form of a weights file in another format, and compare it with PyTorch.

    Args:
        weights: Any weights file that ``fmen_core.load`` recognises; a training form is re-parameterized.
        out: File to write. It is written only if the comparison succeeds.
        file_format: ``"onnx"``, ``"torchscript"`` or ``"openvino"``: the network with its weights, for any batch,
            height and width. OpenVINO's format has a second file that ends in ``.bin``.
            ``"safetensors"``: this project's format. ``"pth"``: a bare state dict with the published names, for FMEN
            those of its authors' repository. ``"pth-challenge"``: with the names of FMEN's challenge submission.
        data_range: The value of white at input and output, 1 or 255, for the formats with the network. None for
            the network's own.
        int8: How to quantize the network to int8, for ``"openvino"``. None for fp32.
        model: The network, as :func:`fmen.sources.networks.load_network` takes it; required for a user's network.
        note: Called with one line about weights of another version of a user's file, or about the quantization.

    Raises:
        ExportError: A package is missing, the format does not fit the network, or the comparison fails.
        WeightsError: The weights cannot be read.
        DataError: The calibration images cannot be read.
    """
    check_request(weights, out, file_format, data_range, int8)
    network = reparameterize(load_network(weights, model, note=note)).requires_grad_(False)
    scale, own_range = sr_model(network).scale, sr_model(network).data_range
    if file_format == "pth-challenge" and (user_module(network) or not str(network.name).startswith("fmen")):
        raise ExportError(
            f"{weights}: --format pth-challenge is for FMEN, and this is {network.name}; use --format pth"
        )
    pairs = calibration_pairs(int8, scale) if int8 else []
    quantized = quantize(network, [lr for lr, _ in pairs], steps=int8.steps, note=note) if int8 else network
    if int8 and not count_quantized(quantized):
        raise ExportError(f"{weights}: {network.name} has no convolutions for int8; export it without --int8")
    white = float(data_range or own_range)
    written_network = quantized if white == own_range else Rescaled(quantized, white)
    properties = {"name": str(network.name), "scale": str(scale), "data_range": f"{white:g}", "channels": "RGB"}
    properties |= tiling_metadata(network) if file_format == "openvino" else {}
    recipe = read_metadata(weights).get("recipe", "")
    with atomic_write(out) as temporary, second_file(out, file_format) as second:
        try:
            written = write_format(
                written_network, temporary, file_format, properties | ({"recipe": recipe} if recipe else {}), second
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"{weights}: {network.name} cannot be exported to ONNX for every size: {first_lines(error)}"
            ) from error
        except OSError as error:  # name the file that the user named, not the temporary one
            raise OSError(error.errno, error.strerror, str(out)) from error
        except Exception as error:
            if not user_module(network) or is_out_of_memory(error):
                raise
            reason = first_lines(error)
            raise ExportError(f"{weights}: {network.name} cannot be exported to {file_format}: {reason}") from error
        difference = check(network, written.run, white, out, pairs)
    kind = f" in int8 ({count_quantized(quantized)} convolutions)" if int8 else ""
    return Exported(out, f"{network.name} x{scale}{kind} as {written.content}", written.reader, difference)


def second_file(out: Path, file_format: Format) -> AbstractContextManager[Path | None]:
    """Return the context of the second file of a format, if it has one."""
    return atomic_write(out.with_suffix(".bin")) if file_format == "openvino" else nullcontext()


def check(
    network: nn.Module, run: Forward, white: float, out: Path, pairs: Sequence[tuple[Image, Image]]
) -> Difference | Loss:
    """Compare a written file with PyTorch: the values or, in int8, the PSNR on images.

    Args:
        network: The network in fp32, in its own data range.
        run: The written one, with white at ``white``.
        white: The value of white of ``run``.
        out: The file for the messages.
        pairs: LR and HR images to measure int8 on; empty for other files.

    Raises:
        ExportError: They differ too much.
    """
    try:
        found = measure_loss(network, run, white, pairs) if pairs else compare(network, run, white)
    except Exception as error:  # readers raise various errors if the network was traced for one size
        raise ExportError(f"{out}: not written, it fails on images of other sizes: {first_lines(error)}") from error
    if isinstance(found, Difference) and not found.largest <= TOLERANCE:
        raise ExportError(f"{out}: not written, its images differ from PyTorch's: {found}")
    if isinstance(found, Loss) and not found.decibels <= LARGEST_LOSS:
        raise ExportError(f"{out}: not written, int8 is too coarse for this network: {found}; export it without --int8")
    return found


def first_lines(error: Exception) -> str:
    """Return the beginning of an error message of PyTorch or ONNX Runtime."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__


def check_request(
    weights: Path, out: Path, file_format: Format, data_range: float | None, int8: Int8 | None = None
) -> None:
    """Check the arguments before any work.

    Raises:
        ExportError: A package is missing, the data range does not fit, or ``out`` cannot be written.
    """
    missing = [name for name in REQUIRED_PACKAGES.get(file_format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"--format {file_format} needs {' and '.join(missing)}: pip install 'fmen[{file_format}]'")
    if data_range is not None and file_format not in NETWORK_FORMATS:
        choices = " or ".join(NETWORK_FORMATS)
        raise ExportError(f"--data-range: {file_format} stores weights only; use --format {choices}")
    if data_range is not None and data_range not in (1, 255):
        raise ExportError(f"--data-range {data_range:g}: choose 1 or 255")
    if int8 and file_format != "openvino":
        raise ExportError("--int8 is for --format openvino")
    if file_format == "openvino" and out.suffix != ".xml":
        raise ExportError(f"{out}: OpenVINO's files are a pair of .xml and .bin; end the name in .xml")
    meant = FORMATS_BY_SUFFIX.get(out.suffix, (file_format,))
    if file_format not in meant:
        raise ExportError(f"{out}: readers expect another format in {out.suffix} files; choose --format {meant[0]}")
    prepare_file(out, inputs=[weights])
    if file_format == "openvino":
        other = out.with_suffix(".bin")
        prepare_file(other, inputs=[weights])
        if other.exists() and not out.exists():
            raise ExportError(f"{other}: exists without {out.name}, whose weights it would be; choose another name")


def calibration_pairs(int8: Int8, scale: int) -> list[tuple[Image, Image]]:
    """Return LR and HR images to calibrate with, evenly spaced in their dataset.

    Raises:
        DataError: The images cannot be read.
    """
    dataset = open_dataset(parse_source(int8.calibrate), scale=scale, split="train")
    count = min(len(dataset), MOST_IMAGES)
    return [dataset.read(place * len(dataset) // count) for place in range(count)]


@torch.inference_mode()
def measure_loss(network: nn.Module, run: Forward, white: float, pairs: Sequence[tuple[Image, Image]]) -> Loss:
    """Measure the PSNR of a network in fp32 and of its file in int8; the arguments are those of :func:`check`."""
    own_range, scale = sr_model(network).data_range, sr_model(network).scale
    chosen = pairs[:: max(1, len(pairs) // MEASURED_IMAGES)][:MEASURED_IMAGES]
    sums = [0.0, 0.0]
    sides: tuple[tuple[Forward, float], ...] = ((network, own_range), (run, white))
    for lr, hr in chosen:
        x = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
        for place, (forward, top) in enumerate(sides):
            levels = (forward(x * top) * (255 / top)).clamp(0, 255).round()
            sr = levels[0].permute(1, 2, 0).to(torch.uint8).numpy()
            sums[place] += psnr(sr, hr, border=scale, protocol="paper")
    return Loss(sums[0] / len(chosen), sums[1] / len(chosen), len(chosen))


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
