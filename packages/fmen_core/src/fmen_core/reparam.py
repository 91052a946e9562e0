"""From the training form to the inference form: fuse every RRRB, fold every batch normalization, in float64."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fmen_core import deploy, fmen


def reparameterize(model: nn.Module) -> nn.Module:
    """The inference form of ``model``, computed in float64 and returned in ``model``'s precision, in eval mode.

    ``model`` itself is left untouched. Training form in eval mode and inference form are the same function, borders
    included. A network that is in its inference form already is returned as a copy.

    Args:
        model: ``fmen_core.fmen.FMEN``, or any network in inference form.
    """
    if not isinstance(model, fmen.FMEN):
        return copy.deepcopy(model).eval()
    source = copy.deepcopy(model).double().eval()
    target = deploy.FMEN(scale=model.scale, **model.sizes).double()
    with torch.no_grad():
        for name, module in source.named_modules():
            if isinstance(module, fmen.RRRB):
                assign(target, f"{name}.rep_conv", *module.merged())
            elif isinstance(module, fmen.HFAB):
                squeeze = fold_bn_before(module.bn1, *fmen.kernel_and_bias(module.squeeze))
                excitate = fold_bn_before(module.bn2, *fmen.kernel_and_bias(module.excitate))
                assign(target, f"{name}.squeeze", *squeeze)
                assign(target, f"{name}.excitate", *fold_bn_after(*excitate, module.bn3))
        for name in ("head", "warmup.0", "lr_conv", "tail.0"):
            plain = source.get_submodule(name)
            assert isinstance(plain, nn.Conv2d)
            assign(target, name, *fmen.kernel_and_bias(plain))
    return target.to(model.head.weight).eval()


def assign(target: nn.Module, name: str, weight: Tensor, bias: Tensor) -> None:
    """Give the convolution called ``name`` this weight ``(O, I, 3, 3)`` and this bias ``(O,)``."""
    conv = target.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    conv.weight.copy_(weight)
    fmen.kernel_and_bias(conv)[1].copy_(bias)


def fold_bn_before(bn: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Fold ``conv(pad(bn(x)))``: exact at the border because ``pad`` fills it with what ``bn`` makes of a zero."""
    factor, shift = fmen.factor_and_shift(bn)
    return weight * factor.view(1, -1, 1, 1), bias + weight.sum((2, 3)) @ shift


def fold_bn_after(weight: Tensor, bias: Tensor, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold ``bn(conv(x))``."""
    factor, shift = fmen.factor_and_shift(bn)
    return weight * factor.view(-1, 1, 1, 1), bias * factor + shift
