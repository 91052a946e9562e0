"""The forward pass of FMEN-S against the published code, ONNX Runtime and OpenVINO: time, memory, growth.

    python tools/bench/forward.py [--weights FILE] [--data shared/data/Set5 shared/data/Set14]

Published is the inference form as NJU-Jet/FMEN runs it: eager, channels first, out of place, over the parameters of our
module. Ours is the module that ``Upscaler`` runs. ONNX Runtime and OpenVINO read the file of ``fmen export --format
onnx``; OpenVINO knows the size of the image. All sides take the same tensor and as many threads as PyTorch.

Source: Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", NTIRE 2022, and
https://github.com/NJU-Jet/FMEN. With a CUDA GPU, ``forward_gpu.py`` measures that one instead.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from measure import Comparison, Report, in_turns, main, rounded
from numpy.typing import NDArray
from skimage.data import astronaut
from torch import Tensor, nn

from fmen.export.formats import write_onnx
from fmen_core import Upscaler, fmen_s, load, reparameterize
from fmen_core.fmen_deploy import ERB, FMEN, HFAB, SLOPE
from fmen_data import open_dataset
from fmen_eval import peak_memory, validate

Image = NDArray[np.uint8]
Run = Callable[[], Tensor]

SIDE = 256
LARGEST_PUBLISHED = 1024
MAPS = 3
"""Feature maps of C x H x W that a pass may need besides its input and output."""

TOLERANCE = {"fp32": 1e-2, "bf16": 8.0}
"""Largest difference from the published code anywhere on the image, in gray levels of 255."""


class Published(nn.Module):
    """The inference form as published, over the parameters of ``network``."""

    def __init__(self, network: FMEN) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)``."""
        net = self.network
        shallow = net.head(x)
        deep = self.attend(net.warmup[1], net.warmup[0](shallow))
        for erb, hfab in zip(net.ERBs, net.HFABs, strict=True):
            deep = self.attend(hfab, self.enhance(erb, deep))
        out: Tensor = net.tail(net.lr_conv(deep) + shallow)
        return out

    @staticmethod
    def enhance(erb: ERB, x: Tensor) -> Tensor:
        """An ERB."""
        return erb.conv2(F.leaky_relu(erb.conv1(x), SLOPE, inplace=True))

    @staticmethod
    def attend(hfab: HFAB, x: Tensor) -> Tensor:
        """An HFAB."""
        branch = F.leaky_relu(hfab.squeeze(x), SLOPE, inplace=True)
        for erb in hfab.convs:
            branch = Published.enhance(erb, branch)
        attention = torch.sigmoid(hfab.excitate(F.leaky_relu(branch, SLOPE, inplace=True)))
        return attention * x


def photograph(side: int) -> Image:
    """Return ``side`` x ``side`` pixels of a photograph, enlarged if necessary; uint8 RGB."""
    whole = np.asarray(astronaut(), np.uint8)
    if side > len(whole):
        whole = np.asarray(cv2.resize(whole, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.ascontiguousarray(whole[:side, :side])


def tensor(image: Image) -> Tensor:
    """Return an image as float32 ``(1, 3, H, W)`` in ``[0, 255]``."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float().contiguous()


@dataclass(frozen=True)
class Sides:
    """The ways to run one network in PyTorch: the published one, and upscalers by precision."""

    published: Published
    upscalers: dict[str, Upscaler]

    @classmethod
    def of(cls, model: nn.Module) -> Sides:
        """Return the ways to run FMEN."""
        network = reparameterize(model)
        if not isinstance(network, FMEN):
            raise SystemExit(f"the published code is FMEN's; these are weights of {type(network).__name__}")
        made = {name: Upscaler(network, device="cpu", precision=name, tile=None) for name in TOLERANCE}
        return cls(Published(network.float()), made)

    def inputs(self, x: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
        """Return the module and its input, by the name of the way."""
        found: dict[str, tuple[nn.Module, Tensor]] = {"published": (self.published, x)}
        for precision, upscaler in self.upscalers.items():
            ready = x.to(upscaler.dtype).contiguous(memory_format=upscaler.memory_format)
            found[f"ours, {precision}"] = (upscaler.model, ready)
        return found

    def runs(self, x: Tensor) -> dict[str, Run]:
        """Return a pass over ``x``, by the name of the way."""
        return {name: partial(module, ready) for name, (module, ready) in self.inputs(x).items()}


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


def others(model: nn.Module, x: Tensor) -> dict[str, Run]:
    """Return the passes of other software over ``x``, by name; says which software is not installed."""
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
            print("onnx, onnxscript or onnxruntime is not installed: no comparison with ONNX Runtime and OpenVINO")
            return runs
        write_onnx(reparameterize(model), file, {"channels": "RGB", "data_range": "255"})
        runs["ONNX Runtime"] = onnx_runtime(file, x)
        if importlib.util.find_spec("openvino") is None:
            print("openvino is not installed: no comparison with OpenVINO")
            return runs
        for precision in TOLERANCE:
            runs[f"OpenVINO, {precision}"] = open_vino(file, x, precision)
    return runs


def check(report: Report, runs: dict[str, Run]) -> None:
    """Verify that every side computes what the published code does."""
    expected = runs["published"]()
    for name, run in runs.items():
        if name == "published":
            continue
        precision = "bf16" if name.endswith("bf16") else "fp32"
        difference = (run().float() - expected).abs()
        largest = difference.max().item()
        if not largest <= TOLERANCE[precision]:
            raise SystemExit(f"{name} is {largest:g} of 255 from the published way; at most {TOLERANCE[precision]:g}")
        report.checks[f"{name}: largest difference from the published way, of 255"] = largest
        if precision == "bf16":
            report.checks[f"{name}: mean difference from the published way, of 255"] = difference.mean().item()


def check_psnr(report: Report, sides: Sides, folders: Sequence[str]) -> None:
    """Measure the change of datasets' mean PSNR in bf16."""
    for folder in folders:
        dataset = open_dataset(folder, scale=sides.published.network.scale)
        means = {}
        for precision, upscaler in sides.upscalers.items():
            pairs = ((pair.name, *dataset.read(index)) for index, pair in enumerate(dataset.pairs))
            found = validate(upscaler, pairs, scale=upscaler.scale, progress=False, measure_ssim=False)
            means[precision] = found.psnr
        moved = abs(means["bf16"] - means["fp32"])
        what = f"{dataset.name}: mean PSNR (ntire)"
        report.facts[what] = ", ".join(f"{mean:.4f} dB in {precision}" for precision, mean in means.items())
        report.checks[f"{what} moves in bf16 by, in dB (less than 0.01 is asked for)"] = round(moved, 5)


ROWS = (
    ("fp32", "published", "the published way", 1.8),
    ("fp32", "ONNX Runtime", "ONNX Runtime", 1.0),
    ("fp32", "OpenVINO, fp32", "OpenVINO in f32", 1.0),
    ("bf16", "published", "the published way, fp32", 3.2),
    ("bf16", "OpenVINO, bf16", "OpenVINO in bf16", 1.0),
)
"""Our precision, the other side, its name in the table, and the target of the ratio."""


def compare(report: Report, runs: dict[str, Run], side: int, times: int, rounds: int) -> None:
    """Add the rows of time for each other side in ``runs``.

    Two sides at a time: ONNX Runtime's threads keep spinning after its pass and would slow a third side.
    """
    for precision, other, title, target in ROWS:
        if other in runs:
            sides = (f"ours, {precision}", other)
            seconds = [in_turns({name: runs[name] for name in sides}, rounds=rounds) for _ in range(times)]
            taken = [{name: 1e3 * value for name, value in found.items()} for found in seconds]
            report.compare(f"forward, {side}x{side}, {precision}", title, "ms", taken, sides, target)


def memory(report: Report, sides: Sides, x: Tensor, channels: int) -> None:
    """Add the rows of memory, in feature maps of C x H x W above weights, input and output."""
    table = {}
    for name, (module, ready) in sides.inputs(x).items():
        out, peak = module(ready), peak_memory(module, ready).allocated_bytes
        standing = sum(weight.nbytes for weight in module.parameters()) + ready.nbytes
        unit = channels * x.shape[2] * x.shape[3] * ready.dtype.itemsize
        above = (peak - standing - out.nbytes) / unit
        label = name if "," in name else f"{name}, fp32"
        table[label] = rounded({
            "feature maps above input and output": above,
            "with the output": (peak - standing) / unit,
        })  # fmt: skip
        if name != "published":
            what = f"peak memory of the forward above input and output, {name.removeprefix('ours, ')}"
            bound = f"{MAPS} feature maps of C x H x W"
            report.comparisons.append(Comparison(what, bound, "feature maps", [above], [MAPS], 1, "at most"))
    report.facts["memory in feature maps of C x H x W of the same precision"] = table


def curves(report: Report, sides: Sides, lengths: Sequence[int], rounds: int) -> None:
    """Add time and memory by the side of the image."""
    times: dict[str, list[tuple[float, float]]] = {}
    taken: dict[str, list[tuple[float, float]]] = {}
    for side in lengths:
        inputs = sides.inputs(tensor(photograph(side)))
        if side > LARGEST_PUBLISHED:
            del inputs["published"]
        repeats = max(1, min(rounds, rounds * SIDE * 2 // side))
        runs = {name: partial(module, ready) for name, (module, ready) in inputs.items()}
        for name, seconds in in_turns(runs, rounds=repeats).items():
            times.setdefault(name, []).append((side, seconds))
            taken.setdefault(name, []).append((side, peak_memory(*inputs[name]).allocated_bytes / 2**20))
    x = "side of the LR image in pixels"
    report.curve("Forward pass", x, "seconds", times)
    per_pixel = {name: [(side, 1e6 * s / side**2) for side, s in line] for name, line in times.items()}
    report.curve("Forward pass per LR pixel", x, "microseconds", per_pixel)
    report.curve("Peak memory of the forward pass", x, "MiB", taken)


def run(
    runs: int,
    *,
    weights: str = "",
    data: Sequence[str] = (),
    side: int = SIDE,
    sides: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
    rounds: int = 5,
) -> Report:
    """Check and measure, on the GPU if there is one."""
    if torch.cuda.is_available():
        from forward_gpu import run as run_on_gpu

        return run_on_gpu(runs)
    report = Report("forward")
    model = load(weights) if weights else fmen_s(scale=4, pretrained=True)
    x = tensor(photograph(side))
    with torch.inference_mode():
        ways = Sides.of(model)
        passes = ways.runs(x)
        check(report, passes)
        compare(report, passes, side, runs, rounds)
        memory(report, ways, x, ways.published.network.head.out_channels)
        passes |= others(model, x)  # last, as other software keeps threads and memory
        check(report, passes)
        del passes["published"]
        compare(report, passes, side, runs, rounds)
        passes.clear()
        check_psnr(report, ways, data)
        curves(report, ways, sides, rounds)
    return report


if __name__ == "__main__":
    main(
        __doc__,
        run,
        {"side": 24, "sides": (16, 24), "rounds": 1},
        weights={"default": "", "help": "weights file of FMEN (default: the bundled weights of FMEN-S x4)"},
        data={"nargs": "*", "default": [], "help": "dataset folders whose mean PSNR bf16 must not change"},
    )
