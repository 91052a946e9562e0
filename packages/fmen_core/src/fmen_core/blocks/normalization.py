"""BatchNorm next to a convolution: training without storing normalized features, and folding.

In training, a convolution or an attention product behind a BatchNorm needs the normalized features again in the
backward pass. They are recomputed from the BatchNorm's input, so that only this input is stored: a quarter less memory
per training step, with the same gradients. The statistics are computed once, and used for the batch, for the running
averages and in the backward pass.

The padding of a convolution behind a BatchNorm is the BatchNorm's shift, the output for a zero input, so that folding
is exact at the border. It equals subtracting the shift, padding with zeros, and adding the convolution's response to
the shift to its bias; this needs no padded copy.

Sources: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; for BatchNorm, Rota Bulò et al., "In-Place
Activated BatchNorm for Memory-Optimized Training of DNNs", CVPR 2018.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.layers import Kernel, kernel_of, no_autocast
from fmen_core.blocks.reparameterizable import Statistics

aten = torch.ops.aten

BatchNorm = nn.BatchNorm2d | nn.SyncBatchNorm
"""What an attribute of type ``BatchNorm2d`` may be: ``convert_sync_batchnorm`` replaces it."""


def running_stats(bn: BatchNorm) -> Statistics:
    """Return the running statistics of ``bn``: the buffers themselves, not copies."""
    assert bn.running_mean is not None and bn.running_var is not None
    return Statistics(bn.running_mean, bn.running_var, bn.eps)


def update_running_stats(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Statistics, Statistics]:
    """Update the running statistics of ``bn`` with the batch ``x`` ``(N, C, H, W)``, as its forward pass does.

    Returns:
        The statistics of the batch, with the biased variance, and a copy of the updated running statistics.
    """
    assert bn.num_batches_tracked is not None
    bn.num_batches_tracked.add_(1)
    # momentum=None is a cumulative average, as in nn.BatchNorm2d.
    momentum = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
    old = running_stats(bn)
    mean, var = torch.zeros_like(old.mean), torch.ones_like(old.var)
    with torch.no_grad():
        # With momentum 1 the running statistics become those of the batch. torch.var_mean is slow on channels-last
        # features (tools/bench/operations.py).
        F.batch_norm(x, mean, var, training=True, momentum=1.0)
        new = Statistics(average(old.mean, mean, momentum), average(old.var, var, momentum), bn.eps)
        old.mean.copy_(new.mean)
        old.var.copy_(new.var)
        count = x.numel() // x.shape[1]
        return Statistics(mean, var * ((count - 1) / count), bn.eps), new


def average(old: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """Return ``old + momentum * (batch - old)``."""
    if torch.compiler.is_compiling():
        averaged: Tensor = average_in_compiled_code(old, batch, momentum)
        return averaged
    return torch.lerp(old, batch, momentum)


@torch.library.custom_op("fmen::average", mutates_args=())
def average_in_compiled_code(old: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """Return ``old + momentum * (batch - old)``.

    A custom operator, because torch.compile never recomputes one in the backward pass. It would recompute a plain
    ``lerp`` from the buffer that has been overwritten by then, with wrong gradients (pytorch/pytorch#197039).
    """
    return torch.lerp(old, batch, momentum)


@average_in_compiled_code.register_fake
def _(old: Tensor, batch: Tensor, momentum: float) -> Tensor:
    return torch.empty_like(old)


def factor_and_shift(bn: BatchNorm, statistics: Statistics, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the factor and the shift by which ``bn`` maps ``x`` to ``factor * x + shift``, both ``(C,)``."""
    mean, var, eps = statistics
    factor = bn.weight.to(dtype) * torch.rsqrt(var.to(dtype) + eps)
    return factor, bn.bias.to(dtype) - mean.to(dtype) * factor


def conv_after_bn(x: Tensor, bn: BatchNorm, conv: nn.Conv2d) -> Tensor:
    """Return ``conv(pad(bn(x)))``, where ``pad`` adds a border of one pixel with the shift of the running statistics.

    Args:
        x: Features ``(N, C, H, W)``.
        bn: Any module but ``BatchNorm2d`` itself is called as a module, so that SyncBatchNorm synchronises.
        conv: A 3x3 convolution.
    """
    normalized: Tensor | None = None
    batch: Statistics | None = None
    if type(bn) is not nn.BatchNorm2d:
        normalized = bn(x)
        moving = Statistics(bn.running_mean.clone(), bn.running_var.clone(), bn.eps)  # type: ignore[union-attr]
    elif bn.training:
        batch, moving = update_running_stats(bn, x)
    else:
        moving = running_stats(bn)
    shift = factor_and_shift(bn, moving, bn.weight.dtype)[1]
    weight, bias = kernel_of(conv)
    # A sum of products, because autocast would compute a matrix product in reduced precision.
    bias = bias + (weight.sum((2, 3)) * shift).sum(1)
    if batch is not None:
        return normalized_conv(x, batch, (bn.weight, bn.bias - shift), (weight, bias))
    if normalized is None:
        centred = F.batch_norm(x, moving.mean, moving.var, bn.weight, bn.bias - shift, eps=bn.eps)
    else:
        centred = normalized - shift.view(1, -1, 1, 1)
    return F.conv2d(centred, weight, bias, padding=1)


def gate_after_bn(x: Tensor, features: Tensor, bn: BatchNorm) -> Tensor:
    """Return ``x * sigmoid(bn(features))``, all ``(N, C, H, W)``."""
    if type(bn) is nn.BatchNorm2d and bn.training:
        return normalized_gate(x, features, update_running_stats(bn, features)[0], (bn.weight, bn.bias))
    return x * torch.sigmoid_(bn(features))


def fold_bn_before(bn: BatchNorm, kernel: Kernel) -> Kernel:
    """Fold ``conv(pad(bn(x)))`` into one zero-padded convolution; exact, since ``pad`` pads with ``bn``'s shift."""
    weight, bias = kernel
    factor, shift = factor_and_shift(bn, running_stats(bn), weight.dtype)
    return weight * factor.view(1, -1, 1, 1), bias + weight.sum((2, 3)) @ shift


def fold_bn_after(kernel: Kernel, bn: BatchNorm) -> Kernel:
    """Fold ``bn(conv(x))`` into one convolution."""
    weight, bias = kernel
    factor, shift = factor_and_shift(bn, running_stats(bn), weight.dtype)
    return weight * factor.view(-1, 1, 1, 1), bias * factor + shift


def unfold_bn_before(bn: BatchNorm, kernel: Kernel) -> Kernel:
    """Return the kernel that :func:`fold_bn_before` turns into ``kernel``."""
    weight, bias = kernel
    factor, shift = factor_and_shift(bn, running_stats(bn), weight.dtype)
    weight = weight / factor.view(1, -1, 1, 1)
    return weight, bias - weight.sum((2, 3)) @ shift


def unfold_bn_after(kernel: Kernel, bn: BatchNorm) -> Kernel:
    """Return the kernel that :func:`fold_bn_after` turns into ``kernel``."""
    weight, bias = kernel
    factor, shift = factor_and_shift(bn, running_stats(bn), weight.dtype)
    return weight / factor.view(-1, 1, 1, 1), (bias - shift) / factor


@torch.no_grad()
def set_statistics(bn: BatchNorm, statistics: Statistics, *, identity: bool = False) -> None:
    """Set the running statistics of ``bn``, and its affine parameters to 1 and 0.

    Args:
        bn: A BatchNorm.
        statistics: The statistics of its input.
        identity: Set the affine parameters to the standard deviation and the mean instead, so that ``bn`` returns its
            input in eval mode.
    """
    mean, var = running_stats(bn)[:2]
    mean.copy_(statistics.mean)
    var.copy_(statistics.var)
    bn.weight.copy_((var + bn.eps).sqrt() if identity else torch.ones_like(var))
    bn.bias.copy_(mean if identity else torch.zeros_like(mean))


def normalized_conv(x: Tensor, statistics: Statistics, affine: tuple[Tensor, Tensor], kernel: Kernel) -> Tensor:
    """Return a zero-padded 3x3 convolution of the normalized ``x`` ``(N, C, H, W)``.

    Args:
        x: Features.
        statistics: The statistics of ``x``, from :func:`update_running_stats`.
        affine: Factor and offset of the normalization, both ``(C,)``.
        kernel: Weight ``(O, C, 3, 3)`` and bias ``(O,)``; rounded to the precision of ``x``.
    """
    weight, bias = (parameter.to(x.dtype) for parameter in kernel)
    out: Tensor = _NormalizedConv.apply(x, *statistics, *affine, weight, bias)  # type: ignore[no-untyped-call]
    return out


def normalized_gate(x: Tensor, features: Tensor, statistics: Statistics, affine: tuple[Tensor, Tensor]) -> Tensor:
    """Return ``x * sigmoid(normalized features)``, all ``(N, C, H, W)``; arguments as in :func:`normalized_conv`."""
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
        with no_autocast(x):
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
        # The derivative of the sigmoid is gate * (1 - gate), and to_x contains the first factor.
        grad = gate.neg_().add_(1).mul_(to_x).mul_(x)
        return to_x, *_through_norm(grad, features, factor, mean, var, ctx.eps)


def _through_norm(
    grad: Tensor, x: Tensor, factor: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``x``, of the statistics (None, as they depend on ``x``), of factor and offset."""
    scale = torch.rsqrt(var + eps)
    to_x, to_factor, to_offset = aten.native_batch_norm_backward(
        grad, x, factor, None, None, mean, scale, True, eps, [True] * 3
    )
    return to_x, None, None, None, to_factor, to_offset
