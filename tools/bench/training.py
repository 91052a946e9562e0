"""A training step of FMEN-S x4: its time and its memory, against the way of the published code.

    python tools/bench/training.py

- theirs: the blocks as drawn, eager, NCHW, fp32, PyTorch's default Adam (``published_training.py``);
- ours: what ``fmen train`` runs, that is ``fmen.training.loop.take_step``: collapsed, channels-last, fused Adam, in
  fp32 and under bf16 autocast, eager and compiled.

First, in float64, that both have the same output, gradients and running statistics. Then the whole step: forward, L1,
backward, Adam, on batches that are in memory already. Peak memory is parameters, running statistics, Adam's moments,
the batch, and the most that the allocator had handed out at a time during a step, from its own log. Then how a step's
time grows with batch and patch, and what whole runs of the recipes would take.

Where there is a CUDA GPU, ``training_gpu.py`` is run instead.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

import torch
import torch.nn.functional as F
from measure import Comparison, Report, in_turns, options
from published_training import PublishedFMEN
from torch import Tensor, nn

from fmen.training.distributed import Processes
from fmen.training.loop import take_step
from fmen.training.recipe import load_recipe, make_recipe
from fmen.training.setup import make_state
from fmen_core import FMENTraining
from fmen_eval.runtime import allocated_by

SCALE = 4
BATCH, PATCH = 16, 48
BATCHES, PATCHES = (1, 2, 4, 8, 16, 32), (16, 32, 48, 64, 96)
PRECISIONS = ("fp32", "bf16")
TARGETS = {"fp32": 2.8, "bf16": 4.0}
PUBLISHED = "the expanded form, eager, as published"
TOLERANCE = 1e-9
ZERO_GRADIENTS = ("bn2.bias", "excitate.bias")
"""Constants right before a normalization: their gradients are rounding errors, on both sides."""

Step = Callable[[], object]


@dataclass(frozen=True)
class Way:
    """One way of training.

    Attributes:
        take: One step on a batch of floats.
        model: What is trained.
        optimizer: By what.
        layout: The memory format that it takes batches in.
    """

    take: Callable[[Tensor, Tensor], object]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    layout: torch.memory_format

    def on(self, batch: int, patch: int, device: str = "cpu") -> Step:
        """A step on random patches that stay in memory."""
        lr, hr = (
            torch.randint(256, (batch, 3, side, side), device=device).to(torch.float32, memory_format=self.layout)
            for side in (patch, SCALE * patch)
        )
        return lambda: self.take(lr, hr)

    def standing_bytes(self) -> int:
        """What is in memory between two steps: weights, running statistics, Adam's moments."""
        moments = (value for state in self.optimizer.state.values() for value in state.values())
        held = [*self.model.parameters(), *self.model.buffers(), *moments]
        return sum(tensor.nbytes for tensor in held if isinstance(tensor, Tensor))


def published(device: str = "cpu") -> Way:
    """As FMEN's authors train."""
    torch.manual_seed(0)
    model = PublishedFMEN(FMENTraining()).train().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)

    def take(lr: Tensor, hr: Tensor) -> None:
        sr = model(lr)
        loss = F.l1_loss(sr, hr)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Way(take, model, optimizer, torch.contiguous_format)


def ours(precision: str, compiled: Mapping[str, Any] | None = None, device: str = "cpu") -> Way:
    """As ``fmen train`` trains; ``compiled`` holds options of ``torch.compile``, None leaves the network eager."""
    settings = {"steps": 1, "learning_rate": 5e-4, "schedule": "constant", "fused": True}
    recipe = make_recipe({**settings, "precision": precision, "device": device})
    state = make_state(recipe, torch.device(device))
    network = state.model
    if compiled is not None:
        network = cast(nn.Module, torch.compile(network, **compiled))
    return Way(
        lambda lr, hr: take_step(recipe, state, network, Processes(), lr, hr),
        state.model,
        state.optimizer,
        torch.channels_last,
    )


def step_of(
    network: nn.Module, owner: FMENTraining, lr: Tensor, hr: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients by parameter and, by name, what else a step computes: the output and the running statistics."""
    sr = network(lr)
    F.l1_loss(sr, hr).backward()
    gradients = {name: cast(Tensor, parameter.grad) for name, parameter in owner.named_parameters()}
    statistics = {name: buffer for name, buffer in owner.named_buffers() if buffer.is_floating_point()}
    return gradients, {"output": sr.detach(), **statistics}


def difference(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor], leave_out: tuple[str, ...] = ()) -> float:
    """The largest relative difference of a tensor, by its norm."""
    names = [name for name in reference if not name.endswith(leave_out or ("?",)) and reference[name].norm() > 0]
    apart = ((ours[name] - reference[name]).double().norm() / reference[name].double().norm() for name in names)
    return max(float(value) for value in apart)


def randomised(dtype: torch.dtype = torch.float64) -> FMENTraining:
    """An FMEN-S whose normalizations are far from the identity."""
    torch.manual_seed(0)
    model = FMENTraining().to(dtype).train()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if ".bn" in name and tensor.is_floating_point():
                tensor.uniform_(0.3, 2)
    return model


def check(report: Report, patch: int = 12) -> None:
    """Make sure that both ways compute the same step."""
    model = randomised()
    lr, hr = (torch.rand(2, 3, side, side, dtype=torch.float64) * 255 for side in (patch, SCALE * patch))
    theirs = step_of(PublishedFMEN(model), model, lr, hr)
    twin = randomised()
    mine = step_of(twin, twin, lr, hr)
    gradients, rest = difference(mine[0], theirs[0], ZERO_GRADIENTS), difference(mine[1], theirs[1])
    if max(gradients, rest) > TOLERANCE:
        raise SystemExit(f"the two ways differ by {rest:.1e} in the output and by {gradients:.1e} in a gradient")
    report.checks["relative difference of output and running statistics, in float64"] = rest
    report.checks["relative difference of a parameter's gradient, in float64"] = gradients


def check_compiled(report: Report, batch: int = 4, patch: int = 16) -> None:
    """Make sure that compiling changes no gradient."""
    model = randomised(torch.float32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    twin = copy.deepcopy(model)
    lr, hr = (torch.rand(batch, 3, side, side) * 255 for side in (patch, SCALE * patch))
    plain = step_of(model, model, lr, hr)
    quick = step_of(cast(nn.Module, torch.compile(twin)), twin, lr, hr)
    apart = max(difference(quick[0], plain[0], ZERO_GRADIENTS), difference(quick[1], plain[1]))
    if apart > 1e-3:
        raise SystemExit(f"compiled, a gradient differs by {apart:.1e} from the eager one in fp32")
    report.checks["relative difference that compiling makes to a gradient, in fp32"] = apart


def compile_all(report: Report, steps: Mapping[str, Step]) -> dict[str, dict[str, Any]]:
    """Compile, from nothing and then with what PyTorch keeps on disk; seconds of the first step in each case."""
    found: dict[str, dict[str, Any]] = {name: {} for name in steps}
    for column in ("seconds to compile", "seconds when PyTorch has it cached"):
        torch._dynamo.reset()
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            found[name][column] = time.perf_counter() - begun
    report.facts["compiling"] = found
    return found


def compare(report: Report, ways: Mapping[str, Way], runs: int, rounds: int, batch: int, patch: int) -> None:
    """Time the steps in turns, and measure their memory."""
    steps = {name: way.on(batch, patch) for name, way in ways.items()}
    compiling = compile_all(report, {name: step for name, step in steps.items() if "compiled" in name})
    times = [in_turns(steps, rounds=rounds) for _ in range(runs)]
    peaks = {name: [peak_bytes(way, batch, patch) for _ in range(runs)] for name, way in ways.items()}
    for name in list(ways)[1:]:
        precision = name.split(",")[0]
        mine, theirs = ([time[side] for time in times] for side in (name, "published"))
        what = f"training step, {batch} patches of {patch}x{patch}, {name}"
        report.comparisons.append(Comparison(what, PUBLISHED, "s", mine, theirs, TARGETS[precision]))
        if name in compiling:
            saved = median(time[precision] - time[name] for time in times)
            first = compiling[name]["seconds to compile"] - median(mine)
            compiling[name]["steps after which it has paid"] = round(first / saved) if saved > 0 else "never"
    for name in list(ways)[1:]:
        what, unit = f"peak memory of that step, {name}", "bytes"
        row = Comparison(what, PUBLISHED, unit, peaks[name], peaks["published"], target=1 / 3, goal="at most")
        report.comparisons.append(row)


def peak_bytes(way: Way, batch: int, patch: int, device: str = "cpu") -> int:
    """The fullest moment of a step, the one before it having made what stays."""
    step = way.on(batch, patch, device)
    step()
    standing = way.standing_bytes() + 4 * 3 * batch * patch**2 * (1 + SCALE**2)
    if device == "cpu":
        return standing + allocated_by(lambda: cast(None, step()))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return standing + torch.cuda.max_memory_allocated() - before


def curves(
    report: Report, ways: Mapping[str, Way], rounds: int, batches: Iterable[int], patches: Iterable[int]
) -> None:
    """Time by batch and by patch, per step and per LR pixel."""
    kinds = {"batch": [(size, PATCH) for size in batches], "patch": [(BATCH, size) for size in patches]}
    for kind, sizes in kinds.items():
        lines: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        pixels: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for batch, patch in sizes:
            seconds = in_turns({name: way.on(batch, patch) for name, way in ways.items()}, rounds=rounds, warmup=1)
            for name in ways:
                place = float(batch if kind == "batch" else patch)
                lines[name].append((place, 1000 * seconds[name]))
                pixels[name].append((place, 1e9 * seconds[name] / (batch * patch**2)))
        x = f"batch, of {PATCH}x{PATCH} patches" if kind == "batch" else f"side of the LR patches, {BATCH} of them"
        report.curve(f"Time of a training step by {kind}", x, "ms", lines)
        report.curve(f"Time of a training step per LR pixel by {kind}", x, "ns per LR pixel", pixels)


def state_hours(report: Report, seconds: Mapping[str, float], batch: int, patch: int) -> None:
    """What the steps of the recipes come to, from the seconds of one of that batch and patch in every way."""
    report.facts["paper_steps_per_second"] = 1 / seconds["fp32"]
    found = []
    for recipe in (load_recipe("paper"), load_recipe("fast")):
        for name, value in seconds.items():
            hours = recipe.steps * value / 3600
            sentence = (
                f"The steps of the recipe `{recipe.name}`, {name}: {recipe.steps:,} x {value:.3g} s, one of {batch} "
                f"patches of {patch}x{patch}, = {hours:,.0f} h = {hours / 24:,.1f} days."
            )
            found.append({"recipe": recipe.name, "way": name, "seconds": value, "hours": hours, "sentence": sentence})
    report.facts["whole runs"] = found


def whole_runs(report: Report, ways: Mapping[str, Way], batch: int, patch: int) -> None:
    """What whole runs would take on this CPU."""
    seconds = in_turns({name: way.on(batch, patch) for name, way in ways.items()}, rounds=2, warmup=1)
    state_hours(report, seconds, batch, patch)


def run(
    runs: int,
    *,
    batch: int = BATCH,
    patch: int = PATCH,
    rounds: int = 7,
    batches: Iterable[int] = BATCHES,
    patches: Iterable[int] = PATCHES,
    paper: tuple[int, int] = (64, 64),
) -> Report:
    """Check and measure on the CPU."""
    report = Report("training")
    check(report)
    check_compiled(report)
    theirs, eager = {"published": published()}, {precision: ours(precision) for precision in PRECISIONS}
    quick = {f"{precision}, compiled": ours(precision, {}) for precision in PRECISIONS}
    compare(report, theirs | eager | quick, runs, rounds, batch, patch)
    del quick
    curves(report, eager, min(rounds, 4), batches, patches)
    whole_runs(report, eager | theirs, *paper)
    return report


def main() -> None:
    """The command line."""
    chosen = options(__doc__)
    if torch.cuda.is_available():
        from training_gpu import run as run_on_gpu

        report = run_on_gpu(chosen.runs)
    else:
        with tempfile.TemporaryDirectory(prefix="fmen-compiled-") as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # or a compilation of last week's would be found
            report = run(chosen.runs)
    report.show()
    report.write(chosen.json)


if __name__ == "__main__":
    main()
