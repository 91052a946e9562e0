"""``fmen bench``: networks in, one row of figures per network out, all measured in the same run."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmen.charts.networks import Network
from fmen.errors import UserError
from fmen_core import Upscaler, create_model, load, model_names, reparameterize
from fmen_core.architecture import scale_and_range
from fmen_core.checkpoint import known_architectures, normalise_keys, read_tensors
from fmen_core.upscaler import pick_device
from fmen_data import PairDataset, open_dataset
from fmen_data.datasets import parse_source
from fmen_eval import MemoryReport, Runtime, analyse, complexity, device_name, measure, measure_as_challenge, validate

BASELINE = "imdn-baseline"
"""The network that the challenge's report, and so the table, compares the others with."""

SCORE_BASELINE = "span"
"""The baseline of the 2026 challenge, which defines the score."""

SCALE = 4


@dataclass(frozen=True)
class Entrant:
    """A network that takes part, in its inference form.

    Attributes:
        model: What the row is called; unique in a table.
        title: What a figure calls it.
        network: The module.
        weights: The file its weights are from; None if they are random.
        guest: Whether it came from a source file of the user's.
    """

    model: str
    title: str
    network: nn.Module
    weights: Path | None = None
    guest: bool = False


@dataclass(frozen=True)
class Accuracy:
    """What was measured on a dataset.

    Attributes:
        dataset: Its name.
        psnr: Mean PSNR in dB under ``ntire``.
        runtime_ms: Mean time per image as the challenge takes it: one pass, nothing warmed up.
        peak_memory_bytes: The peak of that pass.
    """

    dataset: str
    psnr: float
    runtime_ms: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Row:
    """All figures of one network."""

    entrant: Entrant
    params: int
    flops: int
    macs: int
    activations: int
    convs: int
    runtime: Runtime
    accuracy: Accuracy | None = None
    score: float | None = None
    prediction: MemoryReport | None = None

    def plotted(self) -> Network:
        """The row as ``fmen bench --plot`` draws it."""
        accuracy = self.accuracy
        return Network(
            self.entrant.model,
            self.entrant.title,
            self.params,
            self.runtime.median_ms,
            self.runtime.memory.allocated_bytes,
            accuracy.psnr if accuracy else None,
            accuracy.dataset if accuracy else "",
            self.entrant.guest,
        )

    def to_json(self) -> dict[str, Any]:
        """The row as ``fmen bench --json`` writes it; plain numbers, bytes and milliseconds."""
        data: dict[str, Any] = {
            "model": self.entrant.model,
            "params": self.params,
            "flops": self.flops,
            "macs": self.macs,
            "activations": self.activations,
            "convs": self.convs,
            "runtime_ms": self.runtime.median_ms,
            "runtime_quartiles_ms": list(self.runtime.quartiles_ms),
            "runs": len(self.runtime.times_ms),
            "peak_memory_bytes": self.runtime.memory.allocated_bytes,
            "resident_memory_bytes": self.runtime.memory.resident_bytes,
            "weights": None if self.entrant.weights is None else str(self.entrant.weights),
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
    """

    rows: tuple[Row, ...]
    conditions: str

    def to_json(self) -> list[dict[str, Any]]:
        """What ``fmen bench --json`` writes: a list of rows, each with the conditions that it was measured under."""
        return [{**row.to_json(), "conditions": self.conditions} for row in self.rows]


def run_bench(
    entrants: Sequence[Entrant],
    *,
    lr_size: tuple[int, int] = (256, 256),
    device: str = "auto",
    runs: int = 20,
    score: bool = False,
    memory: bool = False,
    data: str | None = None,
    progress: bool = True,
) -> Benchmark:
    """Measure networks side by side.

    Args:
        entrants: Which, as :func:`choose` makes them.
        lr_size: ``(H, W)`` of the image that time and memory are measured on. The complexity is that of 256x256
            always, as the challenge has it.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        runs: Timed forward passes per network.
        score: Compute the 2026 challenge's score; SPAN joins the run if it is not there.
        memory: Predict each network's memory from a trace.
        data: A dataset, as ``fmen validate --data`` takes it, to measure the networks that have weights on.
        progress: Show progress bars.

    Raises:
        UserError: A network cannot be run, or the dataset is at fault.
    """
    device = pick_device(device)
    if score and SCORE_BASELINE not in {entrant.model for entrant in entrants}:
        entrants = [*entrants, *choose([SCORE_BASELINE])]
    dataset = None if data is None else open_data(data, entrants)
    counted = [complexity(entrant.network) for entrant in entrants]
    predictions = [analyse(entrant.network, lr_size) if memory else None for entrant in entrants]
    networks = {entrant.model: entrant.network for entrant in entrants}
    runtimes = measure(networks, lr_size, device=device, runs=runs, progress=progress)
    rows = [
        Row(
            entrant,
            count.params,
            count.flops,
            count.macs,
            count.activations,
            count.convs,
            runtimes[entrant.model],
            accuracy=measure_accuracy(entrant, dataset, device, progress) if dataset and entrant.weights else None,
            prediction=prediction,
        )
        for entrant, count, prediction in zip(entrants, counted, predictions, strict=True)
    ]
    height, width = lr_size
    spread = max(row.runtime.spread for row in rows)
    return Benchmark(
        tuple(with_scores(rows) if score else rows),
        f"{device_name(device)}; PyTorch {torch.__version__}, float32; LR image {width}x{height}; median of {runs} "
        f"interleaved runs, quartiles at most {100 * spread:.1f} % apart; complexity for 256x256",
    )


def with_scores(rows: Sequence[Row]) -> list[Row]:
    """The rows with the 2026 challenge's score, relative to SPAN's row; smaller is better, SPAN has e squared."""
    base = next(row for row in rows if row.entrant.model == SCORE_BASELINE)

    def score(row: Row) -> float:
        time = math.exp(2 * row.runtime.median_ms / base.runtime.median_ms)
        return 0.8 * time + 0.1 * math.exp(2 * row.flops / base.flops) + 0.1 * math.exp(2 * row.params / base.params)

    return [replace(row, score=score(row)) for row in rows]


def open_data(data: str, entrants: Iterable[Entrant]) -> PairDataset:
    """The images to measure PSNR on, once it is clear that it can be measured.

    Raises:
        UserError: No network has weights, one does not say its scale and data range, or the dataset is at fault.
    """
    trained = [entrant for entrant in entrants if entrant.weights]
    if not trained:
        raise UserError("--data measures networks that have weights: name their files with --weights")
    for entrant in trained:
        scale, _ = scale_and_range(entrant.network)
        if scale != SCALE:
            raise UserError(f"{entrant.model} enlarges {scale} times, but the table is for x{SCALE}")
    return open_dataset(parse_source(data), scale=SCALE, split="val")


def measure_accuracy(entrant: Entrant, dataset: PairDataset, device: str, progress: bool) -> Accuracy:
    """PSNR of a network on a dataset, and the challenge's runtime and memory there."""
    upscaler = Upscaler(entrant.network, device=device, channels_last=False)
    result = validate(upscaler, dataset, scale=dataset.scale, total=len(dataset), measure_ssim=False, progress=progress)

    def images() -> Iterable[Tensor]:
        for _name, lr, _hr in dataset:
            yield torch.from_numpy(lr).permute(2, 0, 1)[None].float() * (upscaler.data_range / 255)

    timed = measure_as_challenge(entrant.network, images(), device=device, progress=progress)
    return Accuracy(dataset.name, result.psnr, timed.mean_ms, timed.peak_memory_bytes)


def choose(
    names: Iterable[str] | None = None, weights: Iterable[Path] = (), modules: Iterable[str] = ()
) -> list[Entrant]:
    """The networks that take part.

    Args:
        names: What ``create_model`` takes; None for every network there is. Their weights are random.
        weights: Weights files. A file's network takes the place of the random one of the same name.
        modules: Networks of other people, as ``path/to/file.py:ClassName`` or ``...:ClassName,weights``.

    Raises:
        UserError: A name, a file or a module is at fault.
    """
    titles = {architecture.name: architecture.title for architecture in known_architectures()} | {
        "fmen": "FMEN",
        "fmen-s": "FMEN-S",
    }
    entrants: dict[str, Entrant] = {}
    for name in model_names() if names is None else names:
        entrants[name] = Entrant(name, titles.get(name, name), reparameterize(create_model(name, SCALE)))
    for file in weights:
        network = reparameterize(load(file))
        name, title = str(network.name), titles.get(str(network.name), str(network.name))
        taken = entrants.get(name)
        if taken is not None and taken.weights is not None:
            name, title = f"{name} ({file.stem})", f"{title} ({file.stem})"
        entrants[name] = Entrant(name, title, network, file)
    for module in modules:
        entrant = load_module(module)
        if entrant.model in entrants:
            raise UserError(f"--module {module}: the table has a network called {entrant.model} already")
        entrants[entrant.model] = entrant
    if not entrants:
        raise UserError("there is no network to measure: name some with --models, --weights or --module")
    return list(entrants.values())


def load_module(argument: str) -> Entrant:
    """A network from somebody's source file: ``path/to/file.py:ClassName`` or ``path/to/file.py:ClassName,weights``.

    The class is called without arguments. Its weights must fit strictly. The file is run: it is code.
    """
    location, _, weights = argument.partition(",")
    file, colon, class_name = location.rpartition(":")
    path = Path(file)
    if not colon or not class_name.isidentifier():
        raise UserError(f"--module {argument}: expected path/to/file.py:ClassName or path/to/file.py:ClassName,weights")
    if not path.is_file():
        raise UserError(f"--module {argument}: there is no file {path}")
    namespace = _attempt(lambda: _execute(path), f"--module {argument}: {path} cannot be imported")
    network = _attempt(getattr(namespace, class_name, lambda: None), f"--module {argument}: {class_name}() failed")
    if not isinstance(network, nn.Module):
        raise UserError(f"--module {argument}: {path} has no nn.Module called {class_name}")
    if weights:
        _load_strictly(network, Path(weights))
    return Entrant(class_name, class_name, network.eval(), Path(weights) if weights else None, guest=True)


def _execute(path: Path) -> Any:
    """Import a file under a name that nothing else has; its neighbours can be imported from it."""
    name = f"fmen_bench_module_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def _attempt(action: Callable[[], Any], failure: str) -> Any:
    """Run other people's code; whatever it raises becomes one line."""
    try:
        return action()
    except Exception as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise UserError(f"{failure}: {type(error).__name__}: {reason}") from error


def _load_strictly(network: nn.Module, weights: Path) -> None:
    """Load a weights file under its own key names, or failing that under those of this project's networks."""
    tensors: Mapping[str, Tensor] = read_tensors(weights)
    expected = network.state_dict().keys()
    if tensors.keys() != expected:
        stripped = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
        tensors = stripped if stripped.keys() == expected else normalise_keys(tensors)
    differing = sorted(tensors.keys() ^ expected)
    if differing:
        raise UserError(f"{weights}: does not fit {type(network).__name__}: {', '.join(differing[:3])} differ")
    failure = f"{weights}: does not fit {type(network).__name__}"
    _attempt(lambda: network.load_state_dict(dict(tensors), strict=True), failure)
