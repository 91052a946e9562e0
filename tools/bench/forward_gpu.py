"""The forward pass of every network on a GPU: time and memory on a DIV2K-sized image, with and without a CUDA graph.

``forward.py`` runs this where there is a GPU. The networks are freshly initialised, in their inference form, as
``Upscaler`` runs them; a graph replays the same kernels without a call from Python for each. The two shares set the
pass against what this GPU reaches in the same run: in a product of large matrices of the same precision, and in copying
memory, if every convolution's result were written once and read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import torch
from measure import Report, in_turns, rounded
from operations import copy_rate, matmul_rate
from torch import Tensor, nn

from fmen_core import Upscaler, create_model, model_names, reparameterize
from fmen_eval import complexity, peak_memory

SIZE = (339, 510)  # height and width
PRECISIONS = ("fp32", "fp16", "bf16")
MIB = 2**20


def prepared(name: str, precision: str, device: torch.device, size: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    """A network and an image for it, both on the device.

    Raises:
        ValueError: The network's values are too large for this precision.
    """
    torch.manual_seed(0)
    upscaler = Upscaler(create_model(name), device=str(device), precision=precision, tile=None)
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * upscaler.data_range
    return upscaler.model, x.to(device, upscaler.dtype).contiguous(memory_format=upscaler.memory_format)


def captured(network: nn.Module, x: Tensor) -> tuple[Callable[[], object], int]:
    """The pass over ``x`` as a CUDA graph, and the most bytes that its capture had allocated at a time.

    Raises:
        RuntimeError: The network does something that a graph cannot hold.
    """
    side = torch.cuda.Stream(x.device)
    side.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(side):
        for _ in range(3):
            network(x)
    torch.cuda.current_stream(x.device).wait_stream(side)
    torch.cuda.synchronize(x.device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(x.device)
    before = torch.cuda.memory_allocated(x.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = network(x)
    torch.cuda.synchronize(x.device)
    standing = sum(weight.nbytes for weight in (*network.parameters(), *network.buffers())) + x.nbytes
    peak = standing + torch.cuda.max_memory_allocated(x.device) - before

    def replay() -> Tensor:
        graph.replay()
        return out  # which keeps the graph's memory

    return replay, peak


def check(network: nn.Module, x: Tensor, replay: Callable[[], object]) -> float:
    """The largest difference between a replay of the graph and the pass itself."""
    expected = network(x)
    found = replay()
    assert isinstance(found, Tensor)
    both = torch.stack([expected.float(), found.float()]).nan_to_num()
    return float((both[0] - both[1]).abs().max())


def row(report: Report, name: str, precision: str, device: torch.device, size: tuple[int, int], times: int) -> None:
    """Time and memory of one network in one precision."""
    title = f"{name}, {precision}"
    try:
        network, x = prepared(name, precision, device, size)
    except ValueError as error:
        print(f"{title}: left out, for {error}")
        return
    runs: dict[str, Callable[[], object]] = {"ms": lambda: network(x)}
    network(x)
    found: dict[str, float] = {"peak MiB": peak_memory(network, x).allocated_bytes / MIB}
    if device.type == "cuda":
        try:
            runs["ms with a graph"], peak = captured(network, x)
            found["peak MiB with a graph"] = peak / MIB
            report.checks[f"{title}: largest difference between graph and pass"] = check(
                network, x, runs["ms with a graph"]
            )
        except RuntimeError as error:
            print(f"{title}: no graph, for {str(error).splitlines()[0]}")
    taken = [in_turns(runs, rounds=20 if device.type == "cuda" else 1) for _ in range(times)]
    found |= {what: 1e3 * median(seconds[what] for seconds in taken) for what in taken[0]}
    report.facts.setdefault("networks", {})[title] = found


def shares(report: Report, names: Sequence[str], device: torch.device, size: tuple[int, int], small: bool) -> None:
    """Add to every row what share of the arithmetic and of the memory bandwidth it reaches."""
    copied = copy_rate(2**20 if small else 2**31, str(device))
    report.facts["copying memory, GB/s read and written"] = round(copied / 1e9, 1)
    for precision in PRECISIONS:
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        multiplied = matmul_rate(dtype, 128 if small else 8192, str(device))
        report.facts[f"product of large matrices in {precision}, TFLOP/s"] = round(multiplied / 1e12, 2)
        for name in names:
            found = report.facts["networks"].get(f"{name}, {precision}")
            if found is None:
                continue
            counted = complexity(reparameterize(create_model(name)), lr_size=size)
            seconds = min(value for what, value in found.items() if what.startswith("ms")) / 1e3
            found["share of matrix products"] = 2 * counted.macs / seconds / multiplied
            found["share of bandwidth"] = 2 * counted.activations * dtype.itemsize / seconds / copied


def run(
    times: int,
    *,
    device: str = "cuda",
    names: Sequence[str] = (),
    size: tuple[int, int] = SIZE,
) -> Report:
    """Measure every network; on a processor, with a small ``size``, all but the graphs."""
    report = Report("forward-gpu")
    place, names = torch.device(device), names or model_names()
    small = size[0] * size[1] < 10_000
    # Convolutions in fp32 may be computed in TF32, PyTorch's default; so may the products that they are set against.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    report.facts["fp32 convolutions may use TF32"] = str(torch.backends.cudnn.allow_tf32)
    with torch.inference_mode():
        for name in names:
            for precision in PRECISIONS:
                row(report, name, precision, place, size, times)
            if place.type == "cuda":
                torch.cuda.empty_cache()
        shares(report, names, place, size, small)
    report.facts["networks"] = {title: rounded(found) for title, found in report.facts["networks"].items()}
    return report
