"""The forward pass of every network on a GPU: time and memory on a DIV2K-sized image, with and without a CUDA graph.

``forward.py`` runs this where there is a GPU. The networks are randomly initialized, in their inference form, as
``Upscaler`` runs them. The shares relate to a product of large matrices of the same precision in the same run, and to a
copy of memory, if the result of every convolution is written once and read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from measure import Action, Report, in_turns, rounded
from roofs import copy_rate, matmul_rate
from torch import Tensor, nn

from fmen_core import Upscaler, create_model, model_names, reparameterize
from fmen_eval import complexity, peak_memory

SIZE = (339, 510)  # height and width
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MIB = 2**20


def prepared(name: str, precision: str, device: str, size: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    """Return a network and an image on the device; ValueError if its values are too large for the precision."""
    torch.manual_seed(0)
    upscaler = Upscaler(create_model(name), device=device, precision=precision, tile=None)
    x = torch.rand(1, 3, *size) * upscaler.data_range
    return upscaler.model, x.to(device, upscaler.dtype).contiguous(memory_format=upscaler.memory_format)


def captured(network: nn.Module, x: Tensor) -> tuple[Action, int]:
    """Return a replay of the pass as a CUDA graph, and the peak memory of its capture in bytes.

    Raises:
        RuntimeError: A graph cannot hold an operation of the network.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            network(x)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = network(x)
    torch.cuda.synchronize()
    standing = sum(weight.nbytes for weight in (*network.parameters(), *network.buffers())) + x.nbytes

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay, standing + torch.cuda.max_memory_allocated() - before


def row(report: Report, name: str, precision: str, device: str, size: tuple[int, int], runs: int) -> None:
    """Add time and memory of one network in one precision."""
    title = f"{name}, {precision}"
    try:
        network, x = prepared(name, precision, device, size)
    except ValueError as error:
        print(f"{title}: left out: {error}")
        return
    actions: dict[str, Action] = {"ms": lambda: network(x)}
    expected = network(x).float()
    found: dict[str, float] = {"peak MiB": peak_memory(network, x).allocated_bytes / MIB}
    if device == "cuda":
        try:
            replay, peak = captured(network, x)
            actions["ms with a graph"], found["peak MiB with a graph"] = replay, peak / MIB
            apart = (expected - replay().float()).nan_to_num().abs().max()  # type: ignore[attr-defined]
            report.checks[f"{title}: largest difference between graph and pass"] = float(apart)
        except RuntimeError as error:
            print(f"{title}: no graph: {str(error).splitlines()[0]}")
    taken = [in_turns(actions, rounds=20 if device == "cuda" else 1) for _ in range(runs)]
    found |= {what: 1e3 * median(seconds[what] for seconds in taken) for what in actions}
    report.facts.setdefault("networks", {})[title] = found


def run(runs: int, *, device: str = "cuda", names: Sequence[str] = (), size: tuple[int, int] = SIZE) -> Report:
    """Measure every network; on a CPU without graphs."""
    report = Report("forward-gpu")
    small = device == "cpu"
    report.facts["fp32 convolutions may use TF32"] = str(torch.backends.cudnn.allow_tf32)
    with torch.inference_mode():
        copied = copy_rate(2**20 if small else 2**31, device)
        report.facts["copying memory, GB/s read and written"] = round(copied / 1e9, 1)
        products = {p: matmul_rate(dtype, 128 if small else 8192, device) for p, dtype in DTYPES.items()}
        for precision, product in products.items():
            report.facts[f"product of large matrices in {precision}, TFLOP/s"] = round(product / 1e12, 2)
        for name in names or model_names():
            counted = complexity(reparameterize(create_model(name)), lr_size=size)
            for precision, dtype in DTYPES.items():
                row(report, name, precision, device, size, runs)
                found = report.facts["networks"].get(f"{name}, {precision}")
                if found:
                    seconds = min(value for what, value in found.items() if what.startswith("ms")) / 1e3
                    found["share of matrix products"] = 2 * counted.macs / seconds / products[precision]
                    found["share of bandwidth"] = 2 * counted.activations * dtype.itemsize / seconds / copied
    report.facts["networks"] = {title: rounded(found) for title, found in report.facts["networks"].items()}
    return report
