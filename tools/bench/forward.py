"""The forward pass of FMEN-S against the published code, ONNX Runtime and OpenVINO: time and memory.

    python tools/bench/forward.py [--weights FILE]

Published is the inference form as NJU-Jet/FMEN runs it (``published.py``). Ours is the module that ``Upscaler`` runs.
ONNX Runtime and OpenVINO read the file of ``fmen export --format onnx``; OpenVINO knows the size of the image. All
sides take the same tensor and as many threads as PyTorch.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from measure import Report, in_turns, main, photograph
from published import Published
from torch import Tensor, nn

from fmen.export.formats import write_onnx
from fmen_core import Upscaler, fmen_s, load, reparameterize
from fmen_core.fmen_deploy import FMEN
from fmen_eval import peak_memory

Run = Callable[[], Tensor]
Ways = Mapping[str, tuple[nn.Module, Tensor]]

MAPS = 3  # feature maps of C x H x W that a pass may need besides its input and output
TOLERANCE = {"fp32": 1e-2, "bf16": 16.0}  # largest difference from the published code, in gray levels of 255

ROWS = (
    ("fp32", "published", "the published code", 1.8),
    ("fp32", "ONNX Runtime", "ONNX Runtime", 1.0),
    ("fp32", "OpenVINO, fp32", "OpenVINO in f32", 1.0),
    ("bf16", "published", "the published code, fp32", 3.2),
    ("bf16", "OpenVINO, bf16", "OpenVINO in bf16", 1.0),
)
"""Our precision, the other side, its name in the table, and the target of the ratio."""


def open_model(weights: str) -> FMEN:
    """Return the inference form of FMEN from a weights file or the bundled weights."""
    network = reparameterize(load(weights) if weights else fmen_s(scale=4, pretrained=True))
    assert isinstance(network, FMEN), "the published code is FMEN's"
    return network.float()


def ways(network: FMEN, side: int) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return the modules that PyTorch runs and their input, a square photograph, by name."""
    x = torch.from_numpy(photograph(side, side)).permute(2, 0, 1)[None].float().contiguous()
    found: dict[str, tuple[nn.Module, Tensor]] = {"published": (Published(network), x)}
    for precision in TOLERANCE:
        upscaler = Upscaler(network, device="cpu", precision=precision, tile=None)
        ready = x.to(upscaler.dtype).contiguous(memory_format=upscaler.memory_format)
        found[f"ours, {precision}"] = (upscaler.model, ready)
    return found


def passes(sides: Ways) -> dict[str, Run]:
    """Return a forward pass of each module."""
    return {name: partial(module, ready) for name, (module, ready) in sides.items()}


def onnx_runtime(file: Path, x: Tensor) -> Run:
    """Return a pass of ONNX Runtime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    feed = {"lr": x.numpy()}
    return lambda: torch.from_numpy(session.run(["sr"], feed)[0])


def open_vino(file: Path, x: Tensor, precision: str) -> Run:
    """Return a pass of OpenVINO."""
    import openvino

    model = openvino.Core().read_model(file)
    model.reshape(list(x.shape))
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    feed = {0: x.numpy()}
    return lambda: torch.from_numpy(request.infer(feed)[0])


def others(network: nn.Module, x: Tensor) -> dict[str, Run]:
    """Return the passes of other software over ``x``, by name; print which packages are not installed."""
    missing = {name for name in ("onnx", "onnxscript", "onnxruntime", "openvino") if not importlib.util.find_spec(name)}
    if missing:
        print(f"not installed, and therefore not compared with: {', '.join(sorted(missing))}")
    runs: dict[str, Run] = {}
    if missing <= {"openvino"}:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            write_onnx(network, file, {"channels": "RGB", "data_range": "255"})
            runs["ONNX Runtime"] = onnx_runtime(file, x)
            if not missing:
                runs |= {f"OpenVINO, {precision}": open_vino(file, x, precision) for precision in TOLERANCE}
    return runs


def check(report: Report, runs: Mapping[str, Run]) -> None:
    """Verify that every side computes what the published code does."""
    expected = runs["published"]()
    for name, run in runs.items():
        precision = "bf16" if name.endswith("bf16") else "fp32"
        difference = (run().float() - expected).abs()
        largest = difference.max().item()
        if not largest <= TOLERANCE[precision]:
            raise SystemExit(f"{name} is {largest:g} of 255 from the published code; at most {TOLERANCE[precision]:g}")
        if name != "published":
            report.checks[f"{name}: largest difference from the published code, of 255"] = largest


def compare(report: Report, runs: Mapping[str, Run], side: int, times: int, rounds: int) -> None:
    """Add the rows of time for each other side in ``runs``.

    Two sides at a time: ONNX Runtime's threads keep spinning after its pass and would slow a third side.
    """
    for precision, other, title, target in ROWS:
        if other in runs:
            sides = (f"ours, {precision}", other)
            seconds = [in_turns({name: runs[name] for name in sides}, rounds=rounds) for _ in range(times)]
            report.compare(f"forward, {side}x{side}, {precision}", title, "s", seconds, sides, target)


def memory(report: Report, sides: Ways, channels: int) -> None:
    """Add the rows of memory, in feature maps of C x H x W above weights, input and output."""
    bound = f"{MAPS} feature maps of C x H x W"
    for name, (module, x) in sides.items():
        standing = sum(weight.nbytes for weight in module.parameters()) + x.nbytes + module(x).nbytes
        unit = channels * x.shape[2] * x.shape[3] * x.dtype.itemsize
        above = (peak_memory(module, x).allocated_bytes - standing) / unit
        if name == "published":
            report.facts["feature maps of the published code above input and output"] = round(above, 2)
        else:
            what = f"peak memory of the forward above input and output, {name.removeprefix('ours, ')}"
            figures = [{"ours": above, "bound": float(MAPS)}]
            report.compare(what, bound, "feature maps", figures, ("ours", "bound"), 1, "at most")


@torch.inference_mode()
def run(runs: int, *, weights: str = "", side: int = 256, rounds: int = 5) -> Report:
    """Check and measure."""
    report = Report("forward")
    network = open_model(weights)
    modules = ways(network, side)
    pytorch = passes(modules)
    check(report, pytorch)
    compare(report, pytorch, side, runs, rounds)
    memory(report, modules, network.head.out_channels)
    foreign = others(network, modules["published"][1])  # last, as other software keeps threads and memory
    check(report, {"published": pytorch.pop("published"), **foreign})
    compare(report, pytorch | foreign, side, runs, rounds)
    return report


if __name__ == "__main__":
    settings = {"default": "", "help": "weights file of FMEN (default: the bundled weights of FMEN-S x4)"}
    main(__doc__, run, {"side": 24, "rounds": 1}, weights=settings)
