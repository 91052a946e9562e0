"""Section 3.1: the memory of every network of the package, predicted beside measured.

The paper adds up, for each operation, its input, its output, the features that later operations read, and the
parameters. ``fmen_eval.analyse`` applies this to a trace of the network.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from fmen.reproduction.published import FMEN_ANALYSIS
from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen_core import create_model, model_names, reparameterize
from fmen_core.device import pick_device
from fmen_eval import MemoryReport, analyse, device_name, peak_memory

SIDE = 32
"""Height and width of the LR image: small, for networks that compute at HR size."""

MIB = 2**20

CHANNELS = {"fmen-s": 50, "fmen": 64}
"""C of the networks for which the paper states the peak as a multiple of CHW."""

EXPLANATION = (
    "The paper's sum has the tensors that an operation reads or writes or that a later one reads. The prediction adds "
    "those that nothing reads but a variable of the forward pass still refers to. Where more is measured, the "
    "likely cause is a convolution that copies its operands into another layout; this was not traced."
)


def run(options: Options) -> Result:
    """Analyse and measure every network, in its inference form and at x4, on an image of 32x32 pixels.

    Raises:
        ModelError: The device is not available.
    """
    device = pick_device(options.device)
    rows: list[Row] = []
    equal = 0
    for name in model_names():
        started = time.perf_counter()
        network = reparameterize(create_model(name))
        report = analyse(network, (SIDE, SIDE))
        predicted = report.peak_held.total_held
        seconds = time.perf_counter() - started
        rows += multiples(name, report, seconds)
        paper = report.peak.total
        rows.append(Row(name, "peak memory, the paper's sum", paper / MIB, " MiB", 2, seconds=seconds))
        rows.append(Row(name, "peak memory, predicted", predicted / MIB, " MiB", 2, seconds=seconds))
        started = time.perf_counter()
        measured = measured_bytes(network, device)
        seconds = time.perf_counter() - started
        note = difference(report, predicted, measured)
        equal += not note
        rows.append(Row(name, "peak memory, measured", measured / MIB, " MiB", 2, note=note, seconds=seconds))
    conditions = f"{device_name(device)}; PyTorch {torch.__version__}; LR image {SIDE}x{SIDE}, x4"
    agreement = f"Prediction and measurement agree to 1 % for {equal} of {len(model_names())} networks. {EXPLANATION}"
    return Result(rows, [agreement], conditions)


def multiples(name: str, report: MemoryReport, seconds: float) -> list[Row]:
    """Return the row that compares the features at the peak with the paper's multiple of CHW, for FMEN."""
    if name not in CHANNELS:
        return []
    node = report.peak_out_of_place
    features = (node.total_out_of_place - node.parameter_bytes) / (4 * CHANNELS[name] * SIDE**2)
    note = f"At {node}; without its in-place operation."
    return [Row(name, "features at the peak", features, " CHW", 0, 4, FMEN_ANALYSIS, note, seconds)]


def measured_bytes(network: nn.Module, device: str) -> int:
    """Measure the peak memory of the second of two forward passes."""
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    placed = network.to(device).eval()
    with torch.no_grad():
        placed(image)
    return peak_memory(placed, image).allocated_bytes


def difference(report: MemoryReport, predicted: int, measured: int) -> str:
    """Say how much more or less is measured than predicted; empty if they agree to 1 %."""
    share = measured / predicted - 1
    if abs(share) < 0.01:
        return ""
    direction = "more" if share > 0 else "less"
    extra = abs(measured - predicted) / MIB
    return f"{extra:.2f} MiB {direction} than predicted, where the peak is at {report.peak_held}."


EXPERIMENT = Experiment("memory", "Section 3.1: memory of all networks, predicted and measured", run)
