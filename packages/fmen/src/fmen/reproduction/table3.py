"""Table 3: parameters and multiply-adds of efficient networks for an HR image of 1280x720."""

from __future__ import annotations

import time

import torch
from torch import nn

from fmen.reproduction.published import TABLE3, Published
from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen_core.models import architecture_named
from fmen_eval.complexity import count_layers

HR_HEIGHT = 720
"""Height of the HR image of the published multiply-adds; its width is 1280."""


def build(entry: Published, scale: int) -> nn.Module:
    """Return the network in its inference form, on the meta device."""
    with torch.device("meta"):
        return architecture_named(entry.network).build(scale, form="inference", **entry.sizes)


def count_parameters(entry: Published) -> int:
    """Count the parameters as the source does."""
    networks = [build(entry, scale) for scale in entry.scales or (entry.scale,)]
    parameters = {name: weight for network in networks for name, weight in network.named_parameters()}
    return sum(weight.numel() for weight in parameters.values() if weight.dim() == 4 or not entry.weights_alone)


def count_macs(entry: Published) -> int:
    """Count the multiply-adds of convolutions, without biases, on the LR image of the source.

    A transposed convolution is counted as a convolution at the size of its output. Where the width of the LR image is
    no integer, the count is in proportion to the area.
    """
    width = int(entry.lr_width)
    layers = count_layers(build(entry, entry.scale), (HR_HEIGHT // entry.scale, width))
    macs = sum(layer.flops for layer in layers if layer.activations)
    return round(macs * entry.lr_width / width)


def rows(entry: Published) -> list[Row]:
    """Return the rows of a network at one scale."""
    subject = f"{entry.title} x{entry.scale}"
    made = []
    for quantity, count, published, unit, digits, note in (
        ("parameters", count_parameters, entry.params, "K", entry.digits, entry.params_note),
        ("multiply-adds", count_macs, entry.macs, "G", 1, entry.macs_note),
    ):
        started = time.perf_counter()
        ours = count(entry) / (1e3 if unit == "K" else 1e9)
        seconds = time.perf_counter() - started
        made.append(Row(subject, quantity, ours, unit, digits, published, entry.source, note, seconds))
    return made


def run(options: Options) -> Result:
    """Count every network at every scale; nothing is measured or trained."""
    made = [row for entry in TABLE3 for row in rows(entry)]
    compared = [row for row in made if row.published is not None]
    exact = sum(row.difference == 0 for row in compared)
    subjects = dict.fromkeys(row.subject for row in made)
    complete = sum(all(row.difference == 0 for row in made if row.subject == subject) for subject in subjects)
    cells = f"In {complete} of {len(subjects)} cells, a network at a scale, both figures do."
    return Result(made, [f"{exact} of {len(compared)} published figures come out to the digit. {cells}"])


EXPERIMENT = Experiment("table3", "Table 3: parameters and multiply-adds for an HR image of 1280x720", run)
