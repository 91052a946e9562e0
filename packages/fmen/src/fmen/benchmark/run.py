"""``fmen bench``: measure networks side by side, one row of figures per network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fmen.benchmark.challenges import CHALLENGES, Challenge, Figures
from fmen.benchmark.models import SCALE, BenchModel, choose_models
from fmen.charts.networks import Network
from fmen.errors import UserError
from fmen.sources.python_file import call_user_code
from fmen.submission.metrics import count_with_fvcore, require_fvcore
from fmen_core import Upscaler
from fmen_core.architecture import sr_model
from fmen_core.device import pick_device
from fmen_core.precision import float32_mode
from fmen_data import PairDataset, open_dataset
from fmen_data.datasets import parse_source
from fmen_eval import (
    MemoryReport,
    Runtime,
    analyse,
    arithmetic,
    complexity,
    device_name,
    measure,
    measure_as_challenge,
    validate,
)
from fmen_eval.complexity import count_layers

BASELINE = "imdn-baseline"
"""The network that the challenge's report compares the others with, and so does the table."""

SCORE = replace(CHALLENGES[2026], flops_rule="challenge")
"""The 2026 challenge's score, computed from FLOPs by the rule that needs no fvcore."""


@dataclass(frozen=True)
class Accuracy:
    """Figures of one network on a dataset.

    Attributes:
        dataset: Its name.
        psnr: Mean PSNR in dB under ``ntire``.
        runtime_ms: Mean time per image as the challenge measures it: one pass without warm-up.
        peak_memory_bytes: Peak memory of that pass.
    """

    dataset: str
    psnr: float
    runtime_ms: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Row:
    """All figures of one network.

    Attributes:
        score: Infinite where its exponentials exceed a float.
        hidden: Operators of the network that fvcore does not see, so that ``flops`` is too low.
    """

    model: BenchModel
    params: int
    flops: int
    macs: int
    activations: int
    convs: int
    runtime: Runtime
    accuracy: Accuracy | None = None
    score: float | None = None
    prediction: MemoryReport | None = None
    hidden: tuple[str, ...] = ()

    def figures(self) -> Figures:
        """Return what the challenges rank."""
        memory = self.runtime.memory.allocated_bytes
        return Figures(self.runtime.median_ms, self.flops, self.params, self.activations, memory)

    def plotted(self) -> Network:
        """Return the row as ``fmen bench --plot`` draws it."""
        accuracy = self.accuracy
        return Network(
            self.model.name,
            self.model.title,
            self.params,
            self.runtime.median_ms,
            self.runtime.memory.allocated_bytes,
            accuracy.psnr if accuracy else None,
            accuracy.dataset if accuracy else "",
            self.model.custom,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the row as ``fmen bench --json`` writes it: bytes, milliseconds, dB."""
        data: dict[str, Any] = {
            "model": self.model.name,
            "params": self.params,
            "flops": self.flops,
            "macs": self.macs,
            "activations": self.activations,
            "convs": self.convs,
            "runtime_ms": self.runtime.median_ms,
            "runtime_quartiles_ms": list(self.runtime.quartiles_ms),
            "runs": len(self.runtime.times_ms),
            "peak_memory_bytes": self.runtime.memory.allocated_bytes,
            "weights": None if self.model.weights is None else str(self.model.weights),
        }
        if self.score is not None:
            data["score"] = self.score
        if self.accuracy is not None:
            data["dataset"] = self.accuracy.dataset
            data["psnr"] = self.accuracy.psnr
            data["dataset_runtime_ms"] = self.accuracy.runtime_ms
            data["dataset_peak_memory_bytes"] = self.accuracy.peak_memory_bytes
        if self.prediction is not None:
            data["predicted_memory_bytes"] = self.prediction.peak.total
            data["predicted_memory_node"] = str(self.prediction.peak)
            data["predicted_held_memory_bytes"] = self.prediction.peak_held.total_held
            data["predicted_held_memory_node"] = str(self.prediction.peak_held)
        return data


@dataclass(frozen=True)
class Benchmark:
    """A finished run.

    Attributes:
        rows: In the order in which the networks were named.
        conditions: One line on device, image size and number of runs.
        baseline: The network that the table compares the others with.
        remarks: Lines on the challenge's rules and on single figures.
    """

    rows: tuple[Row, ...]
    conditions: str
    baseline: str = BASELINE
    remarks: tuple[str, ...] = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return what ``fmen bench --json`` writes: the rows, each with the conditions it was measured under.

        An infinite score or PSNR is ``null`` in the file.
        """
        conditions = "; ".join((self.conditions, *self.remarks[:1]))
        return [{**row.to_dict(), "conditions": conditions} for row in self.rows]


@float32_mode()
def run_bench(
    models: Sequence[BenchModel],
    *,
    lr_size: tuple[int, int] = (256, 256),
    device: str = "auto",
    runs: int = 20,
    rules: Challenge | None = None,
    memory: bool = False,
    data: str | None = None,
    progress: bool = True,
) -> Benchmark:
    """Measure networks side by side.

    Args:
        models: The networks, from :func:`choose_models`.
        lr_size: ``(H, W)`` of the image that runtime and memory are measured on. Complexity is always counted on
            256x256, by the challenge's rule.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        runs: Timed forward passes per network.
        rules: Compute this challenge's score; its baseline is added if it is not among the networks.
        memory: Predict each network's peak memory from a trace.
        data: A dataset, as ``fmen validate --data`` names it, to measure the networks with weights on.
        progress: Show progress bars.

    Raises:
        UserError: ``data`` is given and no network can be measured on it, or the rules require fvcore, which is not
            installed.
        EvaluationError: A network does not run on images of this size.
        ModelError: The device is not available.
        DataError: The dataset cannot be read.
    """
    device = pick_device(device)
    if rules and rules.flops_rule == "fvcore":
        require_fvcore()
    if rules and rules.baseline not in {model.name for model in models}:
        models = [*models, *choose_models([rules.baseline], trained=data is not None)]
    dataset = None if data is None else open_data(data, models)
    for model in models:
        count_layers(model.network, lr_size)  # refuses a size that the network cannot take
    counts = [complexity(model.network) for model in models]
    flops = [count_flops(model, count.flops, rules) for model, count in zip(models, counts, strict=True)]
    predictions = [analyse(model.network, lr_size) if memory else None for model in models]
    networks = {model.name: model.network for model in models}
    runtimes = measure(networks, lr_size, device=device, runs=runs, progress=progress)
    rows = [
        Row(
            model,
            count.params,
            counted,
            count.macs,
            count.activations,
            count.convs,
            runtimes[model.name],
            accuracy=measure_accuracy(model, dataset, device, progress) if dataset and model.weights else None,
            prediction=prediction,
            hidden=hidden,
        )
        for model, count, (counted, hidden), prediction in zip(models, counts, flops, predictions, strict=True)
    ]
    conditions = describe_conditions(rows, device, lr_size, runs)
    if rules is None:
        return Benchmark(tuple(rows), conditions)
    return Benchmark(tuple(with_scores(rows, rules)), conditions, rules.baseline, remarks(rows, rules))


def describe_conditions(rows: Sequence[Row], device: str, lr_size: tuple[int, int], runs: int) -> str:
    """Describe in one line how the rows were measured."""
    height, width = lr_size
    spread = max(row.runtime.spread for row in rows)
    return (
        f"{device_name(device)}; PyTorch {torch.__version__}, {arithmetic(device)}; LR image {width}x{height}; "
        f"median of {runs} interleaved runs, quartiles at most {100 * spread:.1f} % apart; complexity for 256x256"
    )


def count_flops(model: BenchModel, by_modules: int, rules: Challenge | None) -> tuple[int, tuple[str, ...]]:
    """Count FLOPs by the challenge's rule, and name the operators that the count leaves out.

    Args:
        model: The network.
        by_modules: Its FLOPs by the rule of the organisers' ``utils/model_summary.py``.
        rules: The challenge; None for that rule.

    Raises:
        UserError: fvcore cannot trace the user's network.
    """
    if rules is None or rules.flops_rule == "challenge":
        return by_modules, ()
    if not model.custom:
        return count_with_fvcore(model.network)
    counted: tuple[int, tuple[str, ...]] = call_user_code(
        lambda: count_with_fvcore(model.network), f"{model.name}: fvcore cannot count its FLOPs"
    )
    return counted


def with_scores(rows: Sequence[Row], rules: Challenge) -> list[Row]:
    """Add a challenge's score, relative to its baseline's row; smaller is better."""
    scores = rules.scores({row.model.name: row.figures() for row in rows})
    return [replace(row, score=scores[row.model.name]) for row in rows]


def remarks(rows: Sequence[Row], rules: Challenge) -> tuple[str, ...]:
    """Describe a challenge's rules, and say which FLOPs are known to be wrong."""
    base = next(row for row in rows if row.model.name == rules.baseline)
    lines = [rules.describe(base.runtime.median_ms)]
    for row in rows:
        if row.model.name in rules.remarks:
            lines.append(f"{row.model.name}: {rules.remarks[row.model.name]}")
        if row.hidden:
            lines.append(f"{row.model.name}: FLOPs are too low, fvcore does not see into {', '.join(row.hidden)}")
    return tuple(lines)


def open_data(data: str, models: Iterable[BenchModel]) -> PairDataset:
    """Open the images to measure PSNR on, after checking that it can be measured.

    Raises:
        UserError: No network has weights, or one is not x4.
        ModelError: A network does not state its scale and data range.
        DataError: The dataset cannot be read.
    """
    trained = [model for model in models if model.weights]
    if not trained:
        raise UserError(
            "--data measures networks that have weights: name their files with --weights, "
            "or get published ones with 'fmen weights get NAME'"
        )
    for model in trained:
        scale = sr_model(model.network).scale
        if scale != SCALE:
            raise UserError(f"{model.name} is x{scale}, but the table is for x{SCALE}")
    return open_dataset(parse_source(data), scale=SCALE, split="val")


def measure_accuracy(model: BenchModel, dataset: PairDataset, device: str, progress: bool) -> Accuracy:
    """Measure PSNR on a dataset, and the challenge's runtime and memory there."""
    upscaler = Upscaler(model.network, device=device, channels_last=False)
    result = validate(upscaler, dataset, scale=dataset.scale, total=len(dataset), measure_ssim=False, progress=progress)

    def images() -> Iterable[Tensor]:
        for _name, lr, _hr in dataset:
            yield torch.from_numpy(lr).permute(2, 0, 1)[None].float() * (upscaler.data_range / 255)

    timed = measure_as_challenge(model.network, images(), device=device, progress=progress)
    return Accuracy(dataset.name, result.psnr, timed.mean_ms, timed.peak_memory_bytes)
