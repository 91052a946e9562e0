"""FMEN-S x4 in int8 with OpenVINO against bf16: time of a forward pass, and PSNR.

    fmen export FILE --format openvino --int8 --calibrate DIR --out int8.xml
    python tools/bench/int8.py --network int8.xml --weights FILE --data Set5 Set14

All sides take the same image and as many threads as PyTorch. OpenVINO knows its size. What is not in int8 is in bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import openvino
import torch
from measure import Action, Report, in_turns, main, photograph
from torch import Tensor

from fmen.sources.openvino_file import OpenVINONetwork
from fmen_core import Upscaler, fmen_s, load, reparameterize
from fmen_core.backends import to_openvino
from fmen_data import open_dataset
from fmen_eval import validate

TARGET, ALLOWED = 1.4, 0.05


def open_vino(model: openvino.Model, x: Tensor) -> Action:
    """Return a pass of OpenVINO with bf16 for what is not in int8."""
    model.reshape(list(x.shape))
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return partial(request.infer, {0: x.numpy()})


@torch.inference_mode()
def run(runs: int, network: Path, weights: str, data: Sequence[str], *, side: int = 256, rounds: int = 7) -> Report:
    """Measure the file ``network`` against the network in ``weights``, the bundled ones by default."""
    report = Report("int8")
    exact = reparameterize(load(weights) if weights else fmen_s(scale=4, pretrained=True))
    in_bf16 = Upscaler(exact, device="cpu", precision="bf16", tile=None)
    upscalers = {"fp32": Upscaler(exact, device="cpu"), "bf16": in_bf16, "int8": Upscaler(OpenVINONetwork(network))}
    for source in data:
        dataset = open_dataset(source)
        decibels = {
            name: validate(upscaler, dataset, scale=4, protocol="paper", progress=False, measure_ssim=False).psnr
            for name, upscaler in upscalers.items()
        }
        for name in ("bf16", "int8"):
            what = f"{dataset.name}: PSNR (paper) in {name} below fp32, {decibels['fp32']:.4f} dB, by, in dB"
            report.checks[what + (f" (target {ALLOWED} at most)" if name == "int8" else "")] = round(
                decibels["fp32"] - decibels[name], 4
            )
    x = torch.from_numpy(photograph(side, side)).permute(2, 0, 1)[None].float().contiguous()
    actions: dict[str, Action] = {
        "int8": open_vino(openvino.Core().read_model(network), x),
        "OpenVINO": open_vino(to_openvino(exact), x),
        "PyTorch": partial(in_bf16.model, x.contiguous(memory_format=in_bf16.memory_format)),
    }
    times = [in_turns(actions, rounds=rounds) for _ in range(runs)]
    for other in ("OpenVINO", "PyTorch"):
        report.compare(f"forward, {side}x{side}, int8", f"{other} in bf16", "s", times, ("int8", other), TARGET)
    return report


if __name__ == "__main__":
    options = {
        "network": {"type": Path, "required": True, "help": "file of fmen export --format openvino --int8"},
        "weights": {"default": "", "help": "the network in fp32 (default: bundled)"},
        "data": {"nargs": "*", "default": [], "help": "datasets to measure PSNR on"},
    }
    main(__doc__, run, {"side": 24, "rounds": 1}, **options)
