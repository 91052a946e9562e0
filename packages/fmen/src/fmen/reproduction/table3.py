"""Table 3: parameters and multiply-adds of efficient networks for an HR image of 1280x720."""

from __future__ import annotations

import time

import torch
from torch import nn

from fmen.reproduction.published import FMEN_TABLE3, TABLE3, Published
from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen_core.models import architecture_named
from fmen_eval.complexity import count_layers

HR_WIDTH, HR_HEIGHT = 1280, 720
"""Size of the HR image of the published multiply-adds."""

SCALES = (2, 3, 4)


def build(entry: Published, scale: int) -> nn.Module:
    """Return the network in its inference form, on the meta device."""
    with torch.device("meta"):
        return architecture_named(entry.network).build(scale, form="inference")


def count_parameters(entry: Published, scale: int) -> int:
    """Count the parameters as the paper does."""
    counted: dict[str, nn.Parameter] = {}
    for network in [build(entry, each) for each in (SCALES if entry.shared else (scale,))]:
        for name, module in network.named_modules():
            if entry.counted == "all" or isinstance(module, nn.Conv2d):
                counted |= {f"{name}.{key}": weight for key, weight in module.named_parameters(recurse=False)}
    return sum(weight.numel() for weight in counted.values() if weight.dim() == 4 or entry.counted != "weights")


def count_macs(entry: Published, scale: int) -> int:
    """Count the multiply-adds of convolutions, without biases, on the LR image of the paper.

    A transposed convolution is counted as a convolution at the size of its output. Where the width of the LR image is
    no integer, the count is in proportion to the area.
    """
    lr_width = entry.x3_width if scale == 3 else HR_WIDTH / scale
    width = int(lr_width)
    layers = count_layers(build(entry, scale), (HR_HEIGHT // scale, width))
    macs = sum(layer.flops for layer in layers if layer.activations)
    return round(macs * lr_width / width)


def rows(entry: Published, scale: int) -> list[Row]:
    """Return the rows of a network at one scale."""
    subject = f"{architecture_named(entry.network).title} x{scale}"
    made = []
    for quantity, count, published, unit, digits, note in (
        ("parameters", count_parameters, entry.params, "K", 0, entry.params_note),
        ("multiply-adds", count_macs, entry.macs, "G", 1, entry.macs_note),
    ):
        started = time.perf_counter()
        ours = count(entry, scale) / (1e3 if unit == "K" else 1e9)
        seconds = time.perf_counter() - started
        figure = published[SCALES.index(scale)]
        made.append(Row(subject, quantity, ours, unit, digits, figure, FMEN_TABLE3, note, seconds))
    return made


def run(options: Options) -> Result:
    """Count every network at every scale; nothing is measured or trained."""
    cells = [rows(entry, scale) for entry in TABLE3 for scale in SCALES]
    made = [row for cell in cells for row in cell]
    exact = sum(row.difference == 0 for row in made)
    complete = sum(all(row.difference == 0 for row in cell) for cell in cells)
    remark = (
        f"{exact} of {len(made)} published figures come out to the digit. In {complete} of {len(cells)} cells, a "
        "network at a scale, both figures do."
    )
    return Result(made, [remark])


EXPERIMENT = Experiment("table3", "Table 3: parameters and multiply-adds for an HR image of 1280x720", run)
