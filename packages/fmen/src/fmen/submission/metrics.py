"""The figures that a package declares in ``metrics.json`` and in its texts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import nn

from fmen.submission.rules import Layout, Split, SubmissionError
from fmen_core.device import device_of
from fmen_eval import ValidationResult, complexity

LR_SIZE = (256, 256)
"""Height and width of the LR image that FLOPs and activations are counted on."""

Metrics: TypeAlias = dict[str, Any]


def count_complexity(model: nn.Module, layout: Layout) -> Metrics:
    """Count parameters, FLOPs by the layout's rule, MACs, activations and convolutions.

    Raises:
        SubmissionError: The layout counts FLOPs with fvcore, which is not installed.
    """
    measured = complexity(model, LR_SIZE)
    flops = measured.flops if layout.flops_rule == "challenge" else fvcore_flops(model)
    return {
        "params": measured.params,
        "flops": flops,
        "flops_rule": layout.flops_rule,
        "macs": measured.macs,
        "activations": measured.activations,
        "convs": measured.convs,
        "lr_size": list(LR_SIZE),
    }


def require_fvcore() -> None:
    """Raise ``SubmissionError`` if fvcore is not installed."""
    if find_spec("fvcore") is None:
        raise SubmissionError(
            "the challenges since 2024 count FLOPs with fvcore, which is not installed: pip install 'fmen[ntire2026]'"
        )


def fvcore_flops(model: nn.Module) -> int:
    """Count FLOPs as the challenges since 2024 do, with fvcore's ``FlopCountAnalysis``.

    Raises:
        SubmissionError: fvcore is not installed.
    """
    return count_with_fvcore(model)[0]


def count_with_fvcore(model: nn.Module) -> tuple[int, tuple[str, ...]]:
    """Count FLOPs with fvcore, and name the operators that it cannot see into: those that are not PyTorch's own.

    Raises:
        SubmissionError: fvcore is not installed.
    """
    require_fvcore()
    from fvcore.nn import FlopCountAnalysis

    device = device_of(model)
    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, *LR_SIZE, device=device))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        total = int(analysis.total())
    hidden = (name for name in analysis.unsupported_ops() if not name.startswith(("aten::", "prim::")))
    functions = (name for name in analysis.unsupported_ops() if name.startswith("prim::PythonOp"))
    return total, (*sorted(hidden), *sorted(functions))


def measured_figures(result: ValidationResult, dataset: str, device: str) -> Metrics:
    """Return a validation's figures, means and per image; PSNR is infinite, in JSON ``null``, for equal images."""
    return {
        "dataset": dataset,
        "protocol": result.protocol,
        "psnr": result.psnr,
        "ssim": result.ssim,
        "seconds_per_image": result.seconds,
        "device": device,
        "images": {image.name: {"psnr": image.psnr, "ssim": image.ssim} for image in result.images},
    }


def meets_threshold(psnr: float, layout: Layout, split: Split = "valid") -> bool | None:
    """Whether a mean PSNR, rounded to two decimals as the challenge does, reaches the threshold; None without one."""
    threshold = layout.thresholds.get(split)
    return None if threshold is None else round(psnr, 2) >= threshold


def threshold_line(psnr: float, layout: Layout, official: bool) -> str:
    """Compare the PSNR with the challenge's threshold, in one sentence."""
    wanted = f"{layout.thresholds['valid']:.2f} dB on {layout.folders['valid'][0].removesuffix('_LR')}"
    if not official:
        return f"The challenge requires {wanted}; these are other images."
    return f"The challenge requires {wanted}: {'reached' if meets_threshold(psnr, layout) else 'missed'}."


def figures_table(metrics: Metrics) -> str:
    """Format the figures as a Markdown table; ``check.package`` finds them again by the names of the rows."""
    rule = "fvcore" if metrics["flops_rule"] == "fvcore" else "the challenge's rule"
    rows = [
        ("Parameters", f"{metrics['params']:,}"),
        (f"FLOPs ({rule}, LR 256x256)", f"{metrics['flops'] / 1e9:.4f} G"),
        ("Activations (LR 256x256)", f"{metrics['activations'] / 1e6:.4f} M"),
        ("Convolutions", f"{metrics['convs']}"),
        ("PSNR", f"{metrics['psnr']:.4f} dB"),
        ("SSIM", f"{metrics['ssim']:.4f}"),
        (f"Runtime per image ({metrics['device']})", f"{1000 * metrics['seconds_per_image']:.1f} ms"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
