"""From the training form to the inference form: fuse every RRRB, fold every batch normalization, in float64."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fmen_core import fmen_deploy
from fmen_core.models import fmen


def reparameterize(model: nn.Module) -> nn.Module:
    """The inference form of ``model``, computed in float64 and returned in ``model``'s precision, in eval mode.

    ``model`` itself is left untouched. Training form in eval mode and inference form are the same function, borders
    included. A network that is in its inference form already is returned as a copy.

    Args:
        model: ``fmen_core.models.fmen.FMEN``, or any network in inference form.
    """
    if not isinstance(model, fmen.FMEN):
        return copy.deepcopy(model).eval()
    target = fmen_deploy.FMEN(scale=model.scale, **model.sizes).to(model.head.weight)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, fmen.RRRB):
                assign(target, f"{name}.rep_conv", module.merged(torch.float64))
            elif isinstance(module, fmen.HFAB):
                squeeze, excitate = module.folded()
                assign(target, f"{name}.squeeze", squeeze)
                assign(target, f"{name}.excitate", excitate)
        for name in ("head", "warmup.0", "lr_conv", "tail.0"):
            plain = model.get_submodule(name)
            assert isinstance(plain, nn.Conv2d)
            assign(target, name, fmen.kernel_and_bias(plain))
    return target.eval()


def assign(target: nn.Module, name: str, kernel: fmen.Kernel) -> None:
    """Give the convolution called ``name`` these parameters, rounded to its precision."""
    conv = target.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    for parameter, value in zip(fmen.kernel_and_bias(conv), kernel, strict=True):
        parameter.copy_(value)
