"""FMEN's batch normalizations in training, where none of them keeps its result.

What follows a normalization, a convolution or the attention map's product, needs the normalized features again in the
backward pass. They are made from the normalization's input in one quick pass, so that input is all that is kept: a
quarter less memory for a training step, at the same gradients. The statistics are computed once and serve the batch,
the running averages and the backward pass.

Source of the idea: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; for batch normalization, Rota
Bulò et al., "In-Place Activated BatchNorm for Memory-Optimized Training of DNNs", CVPR 2018.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten


class Statistics(NamedTuple):
    """Mean and variance of each channel, ``(C,)`` each, and what is added to the variance."""

    mean: Tensor
    var: Tensor
    eps: float


def running(bn: nn.BatchNorm2d) -> Statistics:
    """The running statistics of ``bn``: its own tensors, which move with the next batch."""
    assert bn.running_mean is not None and bn.running_var is not None
    return Statistics(bn.running_mean, bn.running_var, bn.eps)


def observe(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Statistics, Statistics]:
    """Move ``bn``'s running statistics towards those of the batch ``x`` ``(N, C, H, W)``, as its forward pass would.

    Returns:
        The statistics of the batch, with the biased variance, and a copy of the running ones as they are now.
    """
    assert bn.num_batches_tracked is not None
    momentum = 0.1 if bn.momentum is None else bn.momentum
    old = running(bn)
    mean, var = torch.zeros_like(old.mean), torch.ones_like(old.var)
    with torch.no_grad():
        # Running statistics that forget at once are those of the batch. torch.var_mean takes twenty times as long
        # for features that are channels-last.
        F.batch_norm(x, mean, var, training=True, momentum=1.0)
        new = Statistics(moved(old.mean, mean, momentum), moved(old.var, var, momentum), bn.eps)
        old.mean.copy_(new.mean)
        old.var.copy_(new.var)
        bn.num_batches_tracked.add_(1)
        count = x.numel() // x.shape[1]
        return Statistics(mean, var * ((count - 1) / count), bn.eps), new


@torch.library.custom_op("fmen::moved", mutates_args=())
def moved(old: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """``old`` moved towards ``batch`` by the share ``momentum``.

    An operator of its own because torch.compile never computes such a one again in the backward pass. It would do so
    with a plain ``lerp``, from the buffer that has been overwritten by then, and get wrong gradients without a word
    (pytorch/pytorch#197039).
    """
    return torch.lerp(old, batch, momentum)


@moved.register_fake
def _(old: Tensor, batch: Tensor, momentum: float) -> Tensor:
    return torch.empty_like(old)


def normalized_conv(
    x: Tensor, statistics: Statistics, affine: tuple[Tensor, Tensor], kernel: tuple[Tensor, Tensor]
) -> Tensor:
    """A zero-padded 3x3 convolution of the normalized ``x`` ``(N, C, H, W)``.

    Args:
        x: Features, whose own statistics are given.
        statistics: What :func:`observe` returned for them.
        affine: Factor and offset of the normalization, ``(C,)`` each.
        kernel: Weight ``(O, C, 3, 3)`` and bias ``(O,)`` of the convolution; rounded to the precision of ``x``.
    """
    weight, bias = (parameter.to(x.dtype) for parameter in kernel)
    out: Tensor = _NormalizedConv.apply(x, *statistics, *affine, weight, bias)  # type: ignore[no-untyped-call]
    return out


def normalized_gate(x: Tensor, features: Tensor, statistics: Statistics, affine: tuple[Tensor, Tensor]) -> Tensor:
    """``x`` times the sigmoid of the normalized ``features``, all ``(N, C, H, W)``; see :func:`normalized_conv`."""
    out: Tensor = _NormalizedGate.apply(x, features, *statistics, *affine)  # type: ignore[no-untyped-call]
    return out


class _NormalizedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
        factor: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, var, factor, offset, weight)
        ctx.eps = eps
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(F.batch_norm(x, mean, var, factor, offset, eps=eps), weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, var, factor, offset, weight = ctx.saved_tensors
        centred = F.batch_norm(x, mean, var, factor, offset, eps=ctx.eps)
        one = [1, 1]
        grad, to_weight, to_bias = aten.convolution_backward(
            grads[0], centred, weight, [len(weight)], one, one, one, False, [0, 0], 1, [True] * 3
        )
        del centred  # before the last allocation
        return *_through_norm(grad, x, factor, mean, var, ctx.eps), to_weight, to_bias


class _NormalizedGate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, features: Tensor, mean: Tensor, var: Tensor, eps: float, factor: Tensor, offset: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, features, mean, var, factor, offset)
        ctx.eps = eps
        return F.batch_norm(features, mean, var, factor, offset, eps=eps).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, features, mean, var, factor, offset = ctx.saved_tensors
        gate = F.batch_norm(features, mean, var, factor, offset, eps=ctx.eps).sigmoid_()
        to_x = grads[0] * gate
        # The sigmoid's slope is gate * (1 - gate), and to_x has the first factor already.
        grad = gate.neg_().add_(1).mul_(to_x).mul_(x)
        return to_x, *_through_norm(grad, features, factor, mean, var, ctx.eps)


def _through_norm(
    grad: Tensor, x: Tensor, factor: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor | None, ...]:
    """Gradients of ``x``, of the statistics (None: they are ``x``'s own), of factor and offset."""
    scale = torch.rsqrt(var + eps)
    to_x, to_factor, to_offset = aten.native_batch_norm_backward(
        grad, x, factor, None, None, mean, scale, True, eps, [True] * 3
    )
    return to_x, None, None, None, to_factor, to_offset
