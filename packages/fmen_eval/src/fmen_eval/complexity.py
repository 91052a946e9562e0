"""Parameters, FLOPs, activations and convolutions of a network by the rule of the NTIRE efficient SR challenges.

The rule of ``utils/model_summary.py`` of the challenges' repository (ofsoundof/NTIRE2022_ESR):

- FLOPs: the multiply-accumulates of Conv2d, ConvTranspose2d and Linear modules without biases; one per output element
  of ReLU, PReLU, ELU, LeakyReLU and ReLU6 modules; two per element of an affine BatchNorm2d, one if it is not affine.
  Functional calls and all other modules count nothing.
- Activations: the output elements of Conv2d and ConvTranspose2d modules. Convs: the number of their calls.

``macs`` is the count of the ``thop`` package: convolutions and a few other modules, but no activation functions.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from fmen_eval.meta import run_on_meta
from fmen_eval.tables import format_text

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_RECTIFIERS = (nn.ReLU, nn.PReLU, nn.ELU, nn.LeakyReLU, nn.ReLU6)


@dataclass(frozen=True)
class Layer:
    """One leaf module of the forward pass.

    Attributes:
        name: Dotted name in the network.
        kind: Name of the class.
        calls: Number of calls.
        params: Number of parameter elements.
        flops: FLOPs of all calls by the challenge's rule.
        activations: Output elements of all calls of a convolution; 0 for other modules.
        output_shape: Output shape of the last call, batch first.
    """

    name: str
    kind: str
    calls: int
    params: int
    flops: int
    activations: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Complexity:
    """A network's complexity for one LR image, in units (not thousands or millions).

    Attributes:
        params: Number of parameter elements, including unused parameters.
        flops: FLOPs by the challenge's rule.
        macs: Multiply-accumulates as ``thop`` counts them.
        activations: Output elements of all convolutions.
        convs: Number of calls of convolutions.
        layers: The leaf modules in the order of their first call.
    """

    params: int
    flops: int
    macs: int
    activations: int
    convs: int
    layers: tuple[Layer, ...]

    def table(self) -> str:
        """Format the layers as a text table with the sums in the last row."""
        total = Layer("total", "", sum(x.calls for x in self.layers), self.params, self.flops, self.activations, ())
        rows = [("layer", "kind", "calls", "params", "MFLOPs", "activations", "output")]
        rows += [
            (
                layer.name,
                layer.kind,
                f"{layer.calls}",
                f"{layer.params:,}",
                f"{layer.flops / 1e6:,.3f}",
                f"{layer.activations:,}",
                "x".join(map(str, layer.output_shape)),
            )
            for layer in (*self.layers, total)
        ]
        return format_text(rows, words={0, 1, 6}, head=False, foot=True)


def complexity(module: nn.Module, lr_size: tuple[int, int] = (256, 256)) -> Complexity:
    """Count a network's complexity for one LR image. The network is not changed.

    Args:
        module: Maps RGB ``(1, 3, H, W)`` to the SR image; a copy in eval mode is measured. Give the inference form: the
            re-parameterizable blocks of a training form call functions, which the rule does not count.
        lr_size: ``(H, W)`` of the LR image; 256x256 in the challenge.

    Raises:
        EvaluationError: The network cannot take an image of this size.
    """
    params = sum(parameter.numel() for parameter in module.parameters())
    layers = count_layers(module, lr_size)
    convolutions = [layer for layer in layers if layer.activations]
    return Complexity(
        params=params,
        flops=sum(layer.flops for layer in layers),
        macs=run_on_meta(module, lr_size, _thop_macs),
        activations=sum(layer.activations for layer in convolutions),
        convs=sum(layer.calls for layer in convolutions),
        layers=layers,
    )


def count_layers(module: nn.Module, lr_size: tuple[int, int] = (256, 256)) -> tuple[Layer, ...]:
    """Return the layers of :func:`complexity`, without the count of ``thop``; arguments and errors as there."""
    return run_on_meta(module, lr_size, _count_layers)


def _count_layers(network: nn.Module, image: Tensor) -> tuple[Layer, ...]:
    """Run the network with a hook on each leaf module and collect the layers."""
    layers: dict[str, Layer] = {}

    def record(name: str, leaf: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            return
        before = layers.get(name)
        activations = output.numel() if isinstance(leaf, _CONVOLUTIONS) else 0
        layers[name] = Layer(
            name=name,
            kind=type(leaf).__name__,
            calls=1 + (before.calls if before else 0),
            params=sum(parameter.numel() for parameter in leaf.parameters()),
            flops=_flops(leaf, output) + (before.flops if before else 0),
            activations=activations + (before.activations if before else 0),
            output_shape=tuple(output.shape),
        )

    for name, leaf in network.named_modules():
        if not any(leaf.children()):
            leaf.register_forward_hook(partial(record, name))
    network(image)
    return tuple(layers.values())


def _flops(leaf: nn.Module, output: Tensor) -> int:
    """Return the FLOPs of one call of one module by the challenge's rule."""
    if isinstance(leaf, _CONVOLUTIONS):
        positions = output.numel() // leaf.out_channels
        return int(math.prod(leaf.kernel_size) * leaf.in_channels * (leaf.out_channels // leaf.groups) * positions)
    if isinstance(leaf, nn.Linear):
        return leaf.in_features * output.numel()
    if isinstance(leaf, nn.BatchNorm2d):
        return output.numel() * (2 if leaf.affine else 1)
    return output.numel() if isinstance(leaf, _RECTIFIERS) else 0


def _thop_macs(network: nn.Module, image: Tensor) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # thop uses deprecated functions
        from thop import profile

        macs, _ = profile(network, inputs=(image,), verbose=False)
    return int(macs)
