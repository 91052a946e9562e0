"""Measure and train networks that differ in one respect: parameters, time in turns, and PSNR at one budget."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import torch
from torch import nn

from fmen.charts.curves import draw_lines
from fmen.charts.style import save_figure
from fmen.reproduction.budget import trained_run
from fmen.reproduction.result import Options, Row
from fmen_core import create_model, reparameterize
from fmen_core.device import pick_device
from fmen_core.precision import float32_mode
from fmen_eval import arithmetic, device_name, measure

SCALE = 4

SHOWN_DB = 2.5
"""The PSNR axis of a plot starts this far below the best value."""

Curve = list[tuple[int, float]]
"""PSNR in dB by step."""


@dataclass(frozen=True)
class Variant:
    """A network of a comparison.

    Attributes:
        title: The subject of its rows.
        network: The network's class, or a name that ``create_model`` takes.
        args: Its sizes, ``model_args`` of a recipe.
        params: Published thousands of parameters; None if there are none.
        source: Where they are published.
        note: What the parameters depend on.
        increase: Published increase of the inference time over the baseline, in percent; None if there is none.
        increase_source: Where it is published.
    """

    title: str
    network: type[nn.Module] | str
    args: Mapping[str, Any] = field(default_factory=dict)
    params: float | None = None
    source: str = ""
    note: str = ""
    increase: float | None = None
    increase_source: str = ""

    @property
    def model(self) -> str:
        """The network as ``fmen train --model`` names it."""
        network = self.network
        return network if isinstance(network, str) else f"{inspect.getfile(network)}:{network.__name__}"

    def inference_form(self) -> nn.Module:
        """Build the network and merge its blocks."""
        network = self.network
        sizes = dict(self.args)
        built = create_model(network, SCALE, **sizes) if isinstance(network, str) else network(SCALE, **sizes)
        return reparameterize(built)


def parameter_rows(variants: Sequence[Variant]) -> list[Row]:
    """Return the rows of the parameters of the inference forms."""
    rows = []
    for variant in variants:
        started = time.perf_counter()
        params = sum(parameter.numel() for parameter in variant.inference_form().parameters())
        seconds = time.perf_counter() - started
        row = Row(
            variant.title, "parameters", params / 1e3, "K", 0, variant.params, variant.source, variant.note, seconds
        )
        rows.append(row)
    return rows


@float32_mode()
def time_rows(
    variants: Sequence[Variant], options: Options, lr_size: tuple[int, int], baselines: Mapping[str, str]
) -> tuple[list[Row], str]:
    """Measure the inference forms in turns.

    Args:
        variants: The networks.
        options: ``runs``, ``device`` and ``progress``; with 0 runs, nothing is measured.
        lr_size: Height and width of the LR image.
        baselines: For each title, the title of the network that its time is compared with.

    Returns:
        The rows, and the conditions; both are empty if nothing was measured.

    Raises:
        ModelError: The device is not available.
    """
    if not options.runs:
        return [], ""
    device = pick_device(options.device)
    networks = {variant.title: variant.inference_form() for variant in variants}
    times = measure(networks, lr_size, device=device, runs=options.runs, progress=options.progress)
    rows = []
    for variant in variants:
        title, runtime = variant.title, times[variant.title]
        seconds = sum(runtime.times_ms) / 1e3
        lower, upper = runtime.quartiles_ms
        note = f"Quartiles {lower:.1f} and {upper:.1f} ms."
        rows.append(Row(title, "inference time", runtime.median_ms, " ms", 1, note=note, seconds=seconds))
        if (base := baselines[title]) != title:
            # both sides of a ratio are of the same round, so that changes of the processor's speed cancel out
            ratios = [ours / theirs for ours, theirs in zip(runtime.times_ms, times[base].times_ms, strict=True)]
            quantity, source = f"time, relative to {base}", variant.increase_source
            increase = 100 * (median(ratios) - 1)
            rows.append(Row(title, quantity, increase, " %", 1, variant.increase, source, seconds=seconds))
    height, width = lr_size
    conditions = (
        f"{device_name(device)}; PyTorch {torch.__version__}, {arithmetic(device)}; LR image {width}x{height}, x4; "
        f"median of {options.runs} interleaved runs"
    )
    return rows, conditions


def training_rows(variants: Sequence[Variant], options: Options) -> tuple[list[Row], dict[str, list[Curve]]]:
    """Train every variant with every seed for as many steps; see :func:`fmen.reproduction.budget.trained_run`.

    Seeds are trained in turns, so that an interrupted comparison has all networks of the first seed.

    Args:
        variants: The networks.
        options: ``steps``, ``seeds``, ``data`` and ``val_data``; with 0 steps, nothing is trained.

    Returns:
        The rows, and the curves of all seeds by the title of the network.

    Raises:
        UserError: The data cannot be used.
    """
    if not options.steps:
        return [], {}
    curves: dict[str, list[Curve]] = {variant.title: [] for variant in variants}
    seconds = dict.fromkeys(curves, 0.0)
    for seed in range(options.seeds):
        for variant in variants:
            name = re.sub(r"[^a-z0-9]+", "-", variant.title.lower())
            run = trained_run(name, variant.model, variant.args, options, seed)
            records = run.records()
            curves[variant.title].append([(entry["step"], entry["psnr"]) for entry in records if "psnr" in entry])
            seconds[variant.title] += records[-1]["seconds"]
    rows = []
    for title, found in curves.items():
        finals = [curve[-1][1] for curve in found]
        note = f"Seeds: {', '.join(f'{value:.2f}' for value in finals)} dB."
        quantity = f"PSNR on {options.val_data} after {options.steps:,} steps"
        rows.append(Row(title, quantity, fmean(finals), " dB", 2, note=note, seconds=seconds[title]))
    return rows, curves


def order(curves: Mapping[str, Sequence[Curve]], proposed: str = "") -> str:
    """Describe the order of the networks by PSNR, and whether the seeds agree on it.

    Args:
        curves: As :func:`training_rows` returns them.
        proposed: The network that a paper proposes over the others; empty for none.
    """
    orders = [
        tuple(sorted(curves, key=lambda title: -curves[title][seed][-1][1]))
        for seed in range(min(len(found) for found in curves.values()))
    ]
    found = "; ".join(", ".join(titles) for titles in dict.fromkeys(orders))
    seeds = "with every seed" if len(orders) > 1 else "with the one seed"
    said = (
        f"By PSNR, the order is {found} {seeds}."
        if len(set(orders)) == 1
        else f"By PSNR, the order depends on the seed: {found}."
    )
    if proposed:
        wins = sum(titles[0] == proposed for titles in orders)
        said += f" {proposed}, which the paper proposes, is first with {wins} of {len(orders)} seeds."
    return said


def draw_curves(name: str, title: str, curves: Mapping[str, Sequence[Curve]], options: Options) -> str:
    """Draw the PSNR of the first seed by step, from step 1 on.

    Args:
        name: Name of the file in ``options.out``.
        title: What the networks have in common.
        curves: As :func:`training_rows` returns them.
        options: The folder, the steps and the validation images.

    Returns:
        ``name``.
    """
    assert options.out is not None
    lines = {label: [point for point in found[0] if point[0]] for label, found in curves.items()}
    bottom = max(psnr for line in lines.values() for _, psnr in line) - SHOWN_DB
    heading, axis = f"{title}: {options.steps:,} steps each", f"PSNR on {options.val_data}, dB"
    save_figure(draw_lines(heading, "step", axis, lines, bottom=bottom), options.out / name)
    return name
