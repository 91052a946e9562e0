"""FMEN-S's forward pass, against the published way, ONNX Runtime and OpenVINO; its memory, and how both grow.

    python tools/bench/forward.py [--weights FILE] [--data shared/data/Set5 shared/data/Set14]

The published way is the inference form as NJU-Jet/FMEN runs it: eager, channels first, the attention map and the
product allocated anew; written here from that description over the parameters of our module. Ours is the module that
``Upscaler`` runs. ONNX Runtime and OpenVINO read the file that ``fmen export --format onnx`` writes; OpenVINO is told
the image's size, which makes it faster. All take the same tensor and may use as many threads as PyTorch does.

Source: Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", NTIRE 2022, and
https://github.com/NJU-Jet/FMEN. With a GPU the script measures that one instead: see ``forward_gpu.py``.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from measure import Comparison, Report, in_turns, options, rounded
from numpy.typing import NDArray
from skimage import data
from torch import Tensor, nn

from fmen.export.formats import write_onnx
from fmen_core import Upscaler, fmen_s, load, reparameterize
from fmen_core.fmen_deploy import ERB, FMEN, HFAB, SLOPE
from fmen_data import open_dataset
from fmen_eval import peak_memory, validate

Image = NDArray[np.uint8]
Run = Callable[[], Tensor]

SIDE = 256
SIDES = (64, 128, 256, 512, 1024, 2048)
LARGEST_PUBLISHED = 1024
MAPS = 3
"""Feature maps of C x H x W that a pass may take above its input and output."""

TOLERANCE = {"fp32": 1e-2, "bf16": 8.0}
"""How far, in gray levels of 255, a side may be from the published way anywhere on the image."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
    """``side`` x ``side`` pixels of a photograph, enlarged where it is smaller than that; uint8 RGB."""
    whole = np.asarray(data.astronaut(), np.uint8)
    if side > len(whole):
        whole = np.asarray(cv2.resize(whole, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.ascontiguousarray(whole[:side, :side])


def tensor(image: Image) -> Tensor:
    """An image as float32 ``(1, 3, H, W)`` in ``[0, 255]``."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float().contiguous()


@dataclass
class Sides:
    """The ways to run one network.

    Attributes:
        published: The published one; its parameters are the network's.
        upscalers: Ours, by precision.
    """

    published: Published
    upscalers: dict[str, Upscaler] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Sides:
        """All that PyTorch runs."""
        network = reparameterize(model)
        if not isinstance(network, FMEN):
            raise SystemExit(f"the published way is FMEN's; these are weights of {type(network).__name__}")
        made = {name: Upscaler(network, device="cpu", precision=name, tile=None) for name in DTYPES}
        return cls(Published(network.float()), made)

    def ours(self, precision: str, x: Tensor) -> Run:
        """The pass of our module over ``x``, which is converted beforehand."""
        upscaler = self.upscalers[precision]
        ready = x.to(upscaler.dtype).contiguous(memory_format=upscaler.memory_format)
        return lambda: upscaler.model(ready)

    def runs(self, x: Tensor) -> dict[str, Run]:
        """Every pass over ``x`` that PyTorch runs, by name."""
        ours = {f"ours, {precision}": self.ours(precision, x) for precision in DTYPES}
        return {"published": lambda: self.published(x), **ours}


def onnx_runtime(file: Path, x: Tensor) -> Run:
    """ONNX Runtime's pass."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    feed = {"lr": x.numpy()}
    return lambda: torch.from_numpy(session.run(["sr"], feed)[0])


def open_vino(file: Path, x: Tensor, precision: str) -> Run:
    """OpenVINO's pass."""
    import openvino

    model = openvino.Core().read_model(file)
    model.reshape(list(x.shape))
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    feed = {0: x.numpy()}
    return lambda: torch.from_numpy(request.infer(feed)[0])


def others(model: nn.Module, x: Tensor) -> dict[str, Run]:
    """The passes of other software over ``x``, by name; what is not installed is left out, and said so."""
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
        for precision in DTYPES:
            runs[f"OpenVINO, {precision}"] = open_vino(file, x, precision)
    return runs


def check(report: Report, runs: dict[str, Run]) -> None:
    """Make sure that every side computes what the published way does."""
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
    """How far bf16 moves the mean PSNR of datasets."""
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
"""Our precision, the other side, what the table calls it, and the ratio that is aimed at."""


def compare(report: Report, runs: dict[str, Run], side: int, times: int, rounds: int) -> None:
    """The rows of time, of each other side in ``runs``.

    Two sides at a time: the threads of ONNX Runtime go on spinning after its pass, at the cost of a third that follows.
    """
    for precision, other, title, target in ROWS:
        if other not in runs:
            continue
        ours = f"ours, {precision}"
        taken = [in_turns({name: runs[name] for name in (ours, other)}, rounds=rounds) for _ in range(times)]
        sides = ([1e3 * seconds[name] for seconds in taken] for name in (ours, other))
        report.comparisons.append(Comparison(f"forward, {side}x{side}, {precision}", title, "ms", *sides, target))


def above_input_and_output(network: nn.Module, x: Tensor, unit: int) -> dict[str, float]:
    """The most memory of a pass besides weights, input and output, in feature maps of ``unit`` bytes."""
    out = network(x)
    standing = sum(weight.nbytes for weight in network.parameters()) + x.nbytes
    peak = peak_memory(network, x)
    return {
        "feature maps above input and output": (peak.allocated_bytes - standing - out.nbytes) / unit,
        "with the output": (peak.allocated_bytes - standing) / unit,
    }


def memory(report: Report, sides: Sides, x: Tensor, channels: int) -> None:
    """The rows of memory."""
    pixels = x.shape[2] * x.shape[3]
    found = {"published, fp32": rounded(above_input_and_output(sides.published, x, channels * pixels * 4))}
    for precision, upscaler in sides.upscalers.items():
        ready = x.to(upscaler.dtype).contiguous(memory_format=upscaler.memory_format)
        maps = above_input_and_output(upscaler.model, ready, channels * pixels * upscaler.dtype.itemsize)
        found[f"ours, {precision}"] = rounded(maps)
        peak = maps["feature maps above input and output"]
        what = f"peak memory of the forward above input and output, {precision}"
        bound = f"{MAPS} feature maps of C x H x W"
        report.comparisons.append(Comparison(what, bound, "feature maps", [peak], [MAPS], 1, "at most"))
    report.facts["memory in feature maps of C x H x W of the same precision"] = found


def curves(report: Report, sides: Sides, lengths: Sequence[int], rounds: int) -> None:
    """How time and memory grow with the image."""
    times: dict[str, list[tuple[float, float]]] = {}
    taken: dict[str, list[tuple[float, float]]] = {}
    for side in lengths:
        x = tensor(photograph(side))
        runs = sides.runs(x)
        if side > LARGEST_PUBLISHED:
            del runs["published"]
        repeats = max(1, min(rounds, rounds * SIDE * 2 // side))
        for name, seconds in in_turns(runs, rounds=repeats, warmup=1).items():
            times.setdefault(name, []).append((side, seconds))
        for name in runs:
            upscaler = None if name == "published" else sides.upscalers[name.removeprefix("ours, ")]
            network: nn.Module = upscaler.model if upscaler else sides.published
            ready = x.to(upscaler.dtype).contiguous(memory_format=upscaler.memory_format) if upscaler else x
            taken.setdefault(name, []).append((side, peak_memory(network, ready).allocated_bytes / 2**20))
    report.curve("Forward pass", "side of the LR image in pixels", "seconds", times)
    per_pixel = {name: [(side, 1e6 * s / side**2) for side, s in line] for name, line in times.items()}
    report.curve("Forward pass per LR pixel", "side of the LR image in pixels", "microseconds", per_pixel)
    report.curve("Peak memory of the forward pass", "side of the LR image in pixels", "MiB", taken)


def run(
    times: int,
    *,
    weights: str = "",
    folders: Sequence[str] = (),
    side: int = SIDE,
    sides: Sequence[int] = SIDES,
    rounds: int = 7,
) -> Report:
    """Check and measure on the CPU."""
    report = Report("forward")
    model = load(weights) if weights else fmen_s(scale=4, pretrained=True)
    x = tensor(photograph(side))
    with torch.inference_mode():
        ways = Sides.of(model)
        runs = ways.runs(x)
        check(report, runs)
        compare(report, runs, side, times, rounds)
        memory(report, ways, x, ways.published.network.head.out_channels)
        runs |= others(model, x)  # last: other software keeps threads and memory
        check(report, runs)
        del runs["published"]
        compare(report, runs, side, times, rounds)
        runs.clear()
        check_psnr(report, ways, folders)
        curves(report, ways, sides, min(rounds, 5))
    return report


def main() -> None:
    """The command line."""
    settings: dict[str, dict[str, Any]] = {
        "weights": {"default": "", "help": "weights file of FMEN (default: FMEN-S x4 with the weights in the box)"},
        "data": {"nargs": "*", "default": [], "help": "dataset folders whose mean PSNR bf16 must not move"},
    }
    chosen = options(__doc__, **settings)
    if torch.cuda.is_available():
        from forward_gpu import run as run_on_gpu

        report = run_on_gpu(chosen.runs)
    else:
        report = run(chosen.runs, weights=chosen.weights, folders=chosen.data)
    report.show()
    print(f"written to {report.write(chosen.json)}")


if __name__ == "__main__":
    main()
