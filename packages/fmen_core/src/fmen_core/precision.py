"""Which number format each part of a network is computed in: fp32, TF32, bf16 or fp16.

In bf16 and fp16 the first and the last convolution stay in fp32, for they read and write gray levels: bf16 has steps of
1 between 128 and 256, so rounding the input or the output costs up to half a gray level.

fp16 ends at 65504. The features of FMEN grow from block to block, in the attention branches of the released weights to
more than 1e7. Convolutions, LeakyReLU and the product with an attention map are positively homogeneous: multiplying a
convolution's weight and bias by a factor and dividing the weights of the next convolutions by it leaves the function
unchanged. Powers of two round nothing, so the function is unchanged to the last bit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fmen_core import fmen_deploy
from fmen_core.architecture import sr_model
from fmen_core.errors import ModelError

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

FP16_LARGEST = 65504.0

HEADROOM = 16.0
"""Ratio of the largest fp16 number to the largest value of the rescaled features of the probe image."""

PROBE_SIDE = 48
"""Side in pixels of the image that a network is examined with."""

CONVOLUTIONS = (torch.conv2d, torch.conv_transpose2d)


def automatic_precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that ``"auto"`` tries on ``device``, the fastest first."""
    bf16 = ("bf16",) if has_bf16(device) else ()
    return ("fp16", *bf16, "fp32") if device.type == "cuda" else (*bf16, "fp32")


def has_bf16(device: torch.device) -> bool:
    """Return whether ``device`` has instructions for bf16. Emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")  # PyTorch has no public function for this.
    flags = set(cpuinfo.read_text(errors="replace").split()) if cpuinfo.is_file() else set()
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})


def stalls_in_bf16(model: nn.Module) -> bool:
    """Return whether a convolution of ``model``, on the CPU, would never end in bf16.

    oneDNN 3.12, that of PyTorch 2.13, generates code without end for a channels-last depthwise convolution with at most
    16 channels and a kernel that is 15 pixels wide or wider.
    """
    return any(
        isinstance(conv, nn.Conv2d)
        and conv.weight.device.type == "cpu"
        and conv.groups == conv.in_channels <= 16
        and conv.kernel_size[1] >= 15
        for conv in model.modules()
    )


def convert(model: nn.Module, precision: str) -> None:
    """Convert ``model``, in its inference form and in float32, to a precision in place.

    Args:
        model: A network. It is called with float32 images afterwards, in every precision.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        ModelError: The network cannot be computed in this precision.
    """
    if precision == "bf16" and stalls_in_bf16(model):
        raise ModelError("this network has depthwise convolutions that never end in bf16 on a CPU; choose fp32")
    if precision == "fp16" and not rescale_for_fp16(model):
        raise ModelError("this network's values are larger than fp16 can hold; choose bf16 or fp32")
    if DTYPES[precision] != torch.float32:
        cast_except_tail(model, DTYPES[precision])


# --- fp32 and TF32 ----------------------------------------------------------------------------------------------------


class _Float32Mode:
    """The number of threads that need a setting of PyTorch's float32 flags, which are those of the whole process."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.threads = 0
        self.tf32 = False
        self.restore: Callable[[], None] = lambda: None

    def enter(self, tf32: bool) -> None:
        """Set the flags for the first thread; wait while other threads need the other setting."""
        with self.changed:
            self.changed.wait_for(lambda: not self.threads or self.tf32 == tf32)
            if not self.threads:
                self.tf32 = tf32
                self.restore = _set_float32_flags(tf32)
            self.threads += 1

    def leave(self) -> None:
        """Restore the flags after the last thread."""
        with self.changed:
            self.threads -= 1
            if not self.threads:
                self.restore()
                self.changed.notify_all()


_FLOAT32_MODE = _Float32Mode()


@contextmanager
def float32_mode(*, tf32: bool = False) -> Iterator[None]:
    """Compute float32 convolutions and matrix products as float32, or as TF32 on a GPU; restore PyTorch's flags after.

    PyTorch's default is TF32 for convolutions on a GPU, which rounds their operands to 11 bits. Threads may enter at
    the same time. A context within another one must ask for the same mode.

    Args:
        tf32: Allow TF32.
    """
    _FLOAT32_MODE.enter(tf32)
    try:
        yield
    finally:
        _FLOAT32_MODE.leave()


def _set_float32_flags(tf32: bool) -> Callable[[], None]:
    """Set PyTorch's float32 flags; returns the function that restores them."""
    backends: Any = torch.backends
    gpu = "tf32" if tf32 else "ieee"
    flags: list[tuple[Any, str, Any]] = [(backends.cudnn, "allow_tf32", tf32)]
    if hasattr(backends.cudnn, "conv"):  # PyTorch 2.9 and newer
        modes = {backends.cuda.matmul: gpu, backends.cudnn.conv: gpu, backends.mkldnn.conv: "ieee"}
        modes[backends.mkldnn.matmul] = "ieee"
        flags = [(operation, "fp32_precision", mode) for operation, mode in modes.items()]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in flags]
    try:
        matmul: str | None = torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch refuses to read this flag after the newer interface has set another value.
        matmul = None

    def assign(matmul_precision: str | None, values: list[tuple[Any, str, Any]]) -> None:
        if matmul_precision is not None:
            torch.set_float32_matmul_precision(matmul_precision)
        for owner, name, value in values:
            setattr(owner, name, value)

    assign(None if matmul is None else "high" if tf32 else "highest", flags)
    return lambda: assign(matmul, saved)


# --- bf16 and fp16 ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A convolution that ran: the module that called it, and the channels of its input and output."""

    module: nn.Module
    channels_in: int
    channels_out: int


class _Trace(TorchFunctionMode):
    """Records the convolutions of a forward pass, and the tensors used before, between and after them."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[nn.Module] = []
        self.calls: list[_Call] = []
        self.used: list[set[int]] = [set()]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "__get__":  # reads an attribute, such as a parameter's device
            return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.used[-1].update(map(id, tensors))
        if func in CONVOLUTIONS:
            self.calls.append(_Call(self.running[-1], tensors[0].shape[-3], result.shape[-3]))
            self.used.append(set(map(id, tensors)))
        return result


@torch.no_grad()
def trace(model: nn.Module) -> _Trace:
    """Run ``model`` on a black image and record its convolutions.

    Raises:
        ModelError: The network cannot run.
    """
    recorded = _Trace()
    with ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(module.register_forward_pre_hook(lambda module, _: recorded.running.append(module)).remove)
            hooks.callback(module.register_forward_hook(lambda *_: _discard(recorded.running.pop())).remove)
        with recorded:
            _run_probe(model)
    return recorded


def _discard(_: object) -> None:
    """Return None, so that a forward hook leaves the output as it is."""


def _run_probe(model: nn.Module) -> None:
    device = next((weight.device for weight in model.parameters()), None)
    try:
        model(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=device))
    except Exception as error:  # A network may be any user's code and may raise anything.
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise ModelError(f"{type(model).__name__} cannot run on a {PROBE_SIDE}x{PROBE_SIDE} image: {reason}") from error


def cast_except_tail(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert ``model``, in float32, to ``dtype`` in place, except its first and its last convolution.

    What comes before the first convolution and after the last one stays in float32, too. Convolutions from RGB to RGB,
    such as a subtraction of the mean, count as part of the input or the output.

    Args:
        model: A network. Its convolutions are found by running it, so their names do not matter.
        dtype: ``torch.bfloat16`` or ``torch.float16``.

    Raises:
        ModelError: The network cannot run, or not in ``dtype``.
    """
    recorded = trace(model)
    calls = recorded.calls
    inner = [index for index, call in enumerate(calls) if call.channels_out > 3]
    outer = [index for index, call in enumerate(calls) if call.channels_in > 3]
    if not inner or not outer or inner[0] >= outer[-1]:
        return
    first, last = inner[0], outer[-1]
    exact = set().union(*recorded.used[: first + 1], *recorded.used[last + 1 :])
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and id(tensor) not in exact:
            tensor.data = tensor.data.to(dtype)
    in_float32 = {call.module for call in (*calls[: first + 1], *calls[last:])}
    for module in {call.module for call in calls}:
        module.register_forward_pre_hook(partial(_cast_input, torch.float32 if module in in_float32 else dtype))
    calls[first].module.register_forward_hook(partial(_cast_output, dtype))
    with torch.no_grad():
        _run_probe(model)


def _cast_input(dtype: torch.dtype, _module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(dtype), inputs)


def _cast_output(dtype: torch.dtype, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.to(dtype)


# --- the range of fp16 ------------------------------------------------------------------------------------------------


@torch.no_grad()
def rescale_for_fp16(model: nn.Module) -> bool:
    """Rescale FMEN in place so that its features fit into fp16; other networks are left as they are.

    Args:
        model: A network in its inference form, in float32.

    Returns:
        Whether ``model`` can be run in fp16.
    """
    peaks = largest_outputs(model)
    if isinstance(model, fmen_deploy.FMEN):
        _rescale(model, peaks)
        peaks = largest_outputs(model)
    weights = max((parameter.abs().max().item() for parameter in model.parameters()), default=0.0)
    return max(weights, *peaks.values()) < FP16_LARGEST if peaks else True


def _rescale(model: fmen_deploy.FMEN, peaks: dict[nn.Conv2d, float]) -> None:
    """Choose a factor for every convolution's output from its largest value, and change weights and biases."""
    head, first, last, tail = model.head, model.warmup[0], model.lr_conv, model.tail[0]
    assert isinstance(first, nn.Conv2d) and isinstance(tail, nn.Conv2d)
    shallow = _factor(max(peaks[head], peaks[last]))  # One factor, because the two outputs are added.
    _multiply(head, 1.0, shallow)
    deep = _multiply(first, shallow, _factor(peaks[first]))
    _rescale_branch(model.warmup[1], deep, peaks)
    for erb, hfab in zip(model.ERBs, model.HFABs, strict=True):
        deep = _rescale_erb(erb, deep, peaks)
        _rescale_branch(hfab, deep, peaks)
    _multiply(last, deep, shallow)
    _multiply(tail, shallow, 1.0)


def _rescale_branch(hfab: nn.Module, before: float, peaks: dict[nn.Conv2d, float]) -> None:
    """Rescale an attention branch; its logits do not change."""
    assert isinstance(hfab, fmen_deploy.HFAB)
    inside = _multiply(hfab.squeeze, before, _factor(peaks[hfab.squeeze]))
    for erb in hfab.convs:
        inside = _rescale_erb(erb, inside, peaks)
    _multiply(hfab.excitate, inside, 1.0)


def _rescale_erb(erb: nn.Module, before: float, peaks: dict[nn.Conv2d, float]) -> float:
    """Rescale an enhanced residual block; returns the factor of its output."""
    assert isinstance(erb, fmen_deploy.ERB)
    for conv in (erb.conv1.rep_conv, erb.conv2.rep_conv):
        before = _multiply(conv, before, _factor(peaks[conv]))
    return before


def _factor(peak: float) -> float:
    """Return the largest power of two, 1 at most, that brings ``peak`` into fp16 with headroom."""
    return 2.0 ** -max(0, math.ceil(math.log2(max(1.0, peak * HEADROOM / FP16_LARGEST))))


def _multiply(conv: nn.Conv2d, before: float, after: float) -> float:
    """Multiply the output of ``conv``, whose input is multiplied by ``before``, by ``after``."""
    assert conv.bias is not None
    conv.weight.mul_(after / before)
    conv.bias.mul_(after)
    return after


@torch.no_grad()
def largest_outputs(model: nn.Module) -> dict[nn.Conv2d, float]:
    """Return the largest magnitude that each convolution outputs for uniform noise of three grain sizes.

    Noise gives larger features than photographs: those of the released FMEN-S reach 5e7 on it, 2e7 on Set5.
    """
    data_range, parameter = sr_model(model).data_range, next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    peaks: dict[nn.Conv2d, float] = {}

    def record(conv: nn.Conv2d, _inputs: object, output: Tensor) -> None:
        peaks[conv] = max(peaks.get(conv, 0.0), output.abs().max().item())

    with ExitStack() as hooks:
        for conv in model.modules():
            if isinstance(conv, nn.Conv2d):
                hooks.callback(conv.register_forward_hook(record).remove)
        for grain in (1, 4, 16):
            noise = torch.rand(1, 3, 64 // grain, 64 // grain, generator=generator)
            probe = noise.repeat_interleave(grain, 2).repeat_interleave(grain, 3) * data_range
            model(probe.to(parameter))
    return peaks
