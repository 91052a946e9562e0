"""Table 3: parameters and multiply-adds of efficient networks for an HR image of 1280x720."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from fmen.reproduction.published import TABLE3, Published
from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen_core.models import architecture_named
from fmen_eval import complexity

HR_SIZE = 720, 1280
"""Height and width of the HR image of the published multiply-adds."""


def count(network: str, scale: int, sizes: Mapping[str, Any], lr_size: tuple[int, int]) -> tuple[int, int]:
    """Return parameters and multiply-adds of a network's inference form.

    Multiply-adds are those of convolutions and linear layers, without biases.

    Args:
        network: Name of the architecture.
        scale: Upscaling factor.
        sizes: Sizes that differ from its defaults.
        lr_size: Height and width of the LR image.
    """
    with torch.device("meta"):
        model = architecture_named(network).build(scale, form="inference", **sizes)
    counted = complexity(model, lr_size)
    return counted.params, sum(layer.flops for layer in counted.layers if layer.activations or layer.kind == "Linear")


def rows(entry: Published) -> list[Row]:
    """Return the rows of a network at one scale."""
    started = time.perf_counter()
    params, macs = count(entry.network, entry.scale, entry.sizes, (HR_SIZE[0] // entry.scale, entry.lr_width))
    seconds = time.perf_counter() - started
    subject = f"{entry.title} x{entry.scale}"
    first = Row(subject, "parameters", params / 1e3, "K", 0, entry.params, entry.source, entry.params_note, seconds)
    second = Row(subject, "multiply-adds", macs / 1e9, "G", 1, entry.macs, entry.source, entry.macs_note, seconds)
    return [first, second]


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
