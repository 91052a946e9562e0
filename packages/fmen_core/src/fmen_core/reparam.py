"""Convert between the training form and the inference form, in float64.

``reparameterize`` merges every re-parameterizable block and folds every BatchNorm; ``expand`` is its inverse.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import copy_of, sr_model, unwrap
from fmen_core.blocks.reparameterizable import ConvStatistics, Reparameterizable, Statistics
from fmen_core.errors import ModelError
from fmen_core.models import recognise


def reparameterize(model: nn.Module) -> nn.Module:
    """Return the inference form of ``model``, merged in float64, in ``model``'s precision and in eval mode.

    ``model`` is unchanged. The training form in eval mode and the inference form are the same function, borders
    included. A network without re-parameterizable blocks is copied.

    Args:
        model: A network; wrappers (``torch.compile``, ``DataParallel``, ``DistributedDataParallel``) are removed.

    Returns:
        The published inference form where there is one; otherwise a copy of ``model`` with merged blocks.
    """
    model = unwrap(model)
    with torch.random.fork_rng(devices=[]):  # new modules are initialised before they get their weights
        fused = fuse(copy_of(model)).eval()
        if not any(isinstance(module, Reparameterizable) for module in model.modules()):
            return fused
        state = fused.state_dict()
        found = recognise(state, getattr(model, "name", None))
        if found is None:
            return fused
        architecture, arguments = found
        if type(model) is not architecture.training:  # another network may have tensors of the same names
            return fused
        inference = architecture.build(**arguments).to(next(iter(state.values())))
    inference.load_state_dict(state)
    return inference.eval()


def fuse(module: nn.Module) -> nn.Module:
    """Replace every re-parameterizable block by its inference form, in place; return what replaces ``module``."""
    module = unwrap(module)
    if isinstance(module, Reparameterizable):
        module = module.fused()
    for name, child in list(module._modules.items()):
        if child is not None:
            module.add_module(name, fuse(child))
    return module


def expand(model: nn.Module, images: Tensor | None = None, **sizes: Any) -> nn.Module:
    """Return a training form that computes the same function as the inference form ``model``, for fine-tuning.

    In eval mode both are the same function, borders included, up to the rounding of the parameters. Blocks are freshly
    initialised, and one factor of each takes up the difference to the given kernel, so that gradients reach all
    parameters. The BatchNorms have the statistics that their inputs have on ``images``. In training mode, where the
    statistics of the batch replace them, the function is therefore close to ``model`` on batches like ``images``.

    Args:
        model: A network in the inference form; it is unchanged. A training form is re-parameterized first.
        images: ``(N, 3, H, W)`` in ``[0, data_range]``, typical of the training data; by default synthetic images.
        sizes: Sizes that only the training form has, such as ``block="ecb"`` for FMEN.

    Raises:
        ModelError: The network has no training form, or not with these sizes.
    """
    source = reparameterize(model)
    found = recognise(source.state_dict(), getattr(source, "name", None))
    if found is None or found[0].training is None:
        raise ModelError(f"{getattr(source, 'name', type(source).__name__)} has no training form")
    architecture, arguments = found
    for name in sizes.keys() & arguments.keys() - {"form"}:
        value = tuple(sizes[name]) if isinstance(sizes[name], list) else sizes[name]
        if value != arguments[name]:
            raise ModelError(
                f"{architecture.name}: {name} = {value} differs from the inference form's {arguments[name]}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        training = architecture.build(**{**arguments, **sizes, "form": "training"})
    return expand_into(source, training, images)


def expand_into(source: nn.Module, training: nn.Module, images: Tensor | None = None) -> nn.Module:
    """Give a training form the function of an inference form; otherwise as :func:`expand`.

    Args:
        source: The inference form.
        training: The same network with blocks, which is changed and returned.
        images: As of :func:`expand`.
    """
    first, own = next(source.parameters()), training.state_dict()
    fitting = {key: value for key, value in source.state_dict().items() if key in own and value.shape == own[key].shape}
    training.to(first).load_state_dict(fitting, strict=False)  # the convolutions outside blocks
    if images is None:
        images = synthetic_images() * sr_model(source).data_range
    statistics = conv_statistics(source, images.to(first))
    for name, module in training.named_modules():
        if isinstance(module, Reparameterizable):
            module.expand_from(source.get_submodule(name), statistics)
    return training.eval()


def synthetic_images(number: int = 8, side: int = 64) -> Tensor:
    """Return color images ``(number, 3, side, side)`` in ``[0, 1]`` whose spectrum falls as that of photographs."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(number, 3, side, side)
    for octave in range(6):
        coarse = torch.randn(number, 3, side >> octave, side >> octave, generator=generator)
        coarse = coarse + 2 * coarse.mean(1, keepdim=True)  # the channels of photographs are correlated
        total += F.interpolate(coarse, (side, side), mode="bicubic")
    return (0.45 + 0.2 * total / total.std()).clamp(0, 1)


@torch.no_grad()
def conv_statistics(model: nn.Module, images: Tensor) -> ConvStatistics:
    """Return the statistics of the input and the output of every convolution of ``model`` on ``images``."""
    statistics: dict[nn.Module, tuple[Statistics, Statistics]] = {}

    def observe(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        var_mean = [torch.var_mean(x, (0, 2, 3)) for x in (inputs[0], output)]
        of_input, of_output = (Statistics(mean, var, 0.0) for var, mean in var_mean)
        statistics[conv] = of_input, of_output

    with ExitStack() as hooks:
        for conv in model.modules():
            if isinstance(conv, nn.Conv2d):
                hooks.callback(conv.register_forward_hook(observe).remove)
        model(images)
    return statistics
