"""Make FMEN computable in fp16, whose numbers end at 65504.

Its features grow from block to block, in the attention branches of the released weights into the millions. But
convolutions, leaky rectifiers and the product with an attention map are positively homogeneous: multiply a
convolution's kernel and bias by a factor, divide the kernels behind it by the same, and the network is the same
function. With powers of two it is the same to the last bit, for nothing is rounded.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from fmen_core import fmen_deploy
from fmen_core.architecture import scale_and_range

LARGEST = 65504.0

HEADROOM = 16.0
"""How far below the end of fp16 the probe's values stay. The probe is harsher than photographs are: the released FMEN-S
reaches 5e7 on it and 2e7 on Set5 and Set14."""


@torch.no_grad()
def fit_half(model: nn.Module) -> bool:
    """Rescale FMEN in place so that its values fit into fp16; other networks are left as they are.

    Args:
        model: A network in its inference form, in float32.

    Returns:
        Whether ``model`` can be run in fp16.
    """
    peaks = largest_outputs(model)
    if isinstance(model, fmen_deploy.FMEN):
        rescale(model, peaks)
        peaks = largest_outputs(model)
    weights = max((parameter.abs().max().item() for parameter in model.parameters()), default=0.0)
    return max(weights, *peaks.values()) < LARGEST if peaks else True


def rescale(model: fmen_deploy.FMEN, peaks: dict[nn.Conv2d, float]) -> None:
    """Choose a factor for every convolution's output, from its peak, and change the kernels accordingly."""
    head, first, last, tail = model.head, model.warmup[0], model.lr_conv, model.tail[0]
    assert isinstance(first, nn.Conv2d) and isinstance(tail, nn.Conv2d)
    shallow = factor_for(max(peaks[head], peaks[last]))  # one factor, for their outputs are added
    convert(head, 1.0, shallow)
    deep = convert(first, shallow, factor_for(peaks[first]))
    rescale_branch(model.warmup[1], deep, peaks)
    for erb, hfab in zip(model.ERBs, model.HFABs, strict=True):
        deep = rescale_erb(erb, deep, peaks)
        rescale_branch(hfab, deep, peaks)
    convert(last, deep, shallow)
    convert(tail, shallow, 1.0)


def rescale_branch(hfab: nn.Module, before: float, peaks: dict[nn.Conv2d, float]) -> None:
    """The same for an attention branch, whose logits must stay as they are."""
    assert isinstance(hfab, fmen_deploy.HFAB)
    inside = convert(hfab.squeeze, before, factor_for(peaks[hfab.squeeze]))
    for erb in hfab.convs:
        inside = rescale_erb(erb, inside, peaks)
    convert(hfab.excitate, inside, 1.0)


def rescale_erb(erb: nn.Module, before: float, peaks: dict[nn.Conv2d, float]) -> float:
    """The same for an enhanced residual block; returns the factor of its output."""
    assert isinstance(erb, fmen_deploy.ERB)
    for conv in (erb.conv1.rep_conv, erb.conv2.rep_conv):
        before = convert(conv, before, factor_for(peaks[conv]))
    return before


def factor_for(peak: float) -> float:
    """The largest power of two, 1 at most, that brings ``peak`` into fp16 with headroom."""
    return 2.0 ** -max(0, math.ceil(math.log2(max(1.0, peak * HEADROOM / LARGEST))))


def convert(conv: nn.Conv2d, before: float, after: float) -> float:
    """Give ``conv``, whose input has been multiplied by ``before``, an output multiplied by ``after``."""
    assert conv.bias is not None
    conv.weight.mul_(after / before)
    conv.bias.mul_(after)
    return after


@torch.no_grad()
def largest_outputs(model: nn.Module) -> dict[nn.Conv2d, float]:
    """The largest magnitude that each convolution returns for a probe: uniform noise of three sizes of grain."""
    _, data_range = scale_and_range(model)
    generator = torch.Generator().manual_seed(0)
    peaks: dict[nn.Conv2d, float] = {}

    def note(conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        peaks[conv] = max(peaks.get(conv, 0.0), output.abs().max().item())

    with ExitStack() as hooks:
        for conv in model.modules():
            if isinstance(conv, nn.Conv2d):
                hooks.callback(conv.register_forward_hook(note).remove)
        for grain in (1, 4, 16):
            noise = torch.rand(1, 3, 64 // grain, 64 // grain, generator=generator)
            probe = noise.repeat_interleave(grain, 2).repeat_interleave(grain, 3) * data_range
            model(probe.to(next(model.parameters())))
    return peaks
