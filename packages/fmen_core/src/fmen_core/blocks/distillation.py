"""Feature distillation: set aside a part of each convolution's features, and refine the rest further.

IMDN splits the channels; RFDN computes the distilled part with a 1x1 convolution beside each 3x3 convolution. All
features of a block stay referenced until the block returns, as in the published code, whose peak memory is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu


def split_off(
    x: Tensor, convs: Iterable[nn.Module], distilled: int, act: nn.Module | None = None
) -> tuple[list[Tensor], Tensor]:
    """Information multi-distillation (IMDN, section 3.1): run each convolution on the remaining channels.

    Args:
        x: Features ``(N, C, H, W)``.
        convs: Each takes the channels of the previous output that were not set aside.
        distilled: Number of channels of each output that are set aside, the first ones.
        act: Activation after each convolution; None if the convolutions include one.

    Returns:
        The parts set aside, one per convolution, and the remaining channels of the last output.
    """
    parts = []
    for conv in convs:
        out = conv(x) if act is None else act(conv(x))
        parts.append(out[:, :distilled])
        x = out[:, distilled:]
    return parts, x


class FeatureDistillation(nn.Module):
    """Feature distillation block of RFDN (section 3.2) and of the networks derived from it.

    Args:
        n_feats: Channels in and out.
        distilled: Channels of each step and of the last convolution.
        attention: Applied to the fused features.
        steps: Number of distillation steps before the last convolution.
        residual: Whether each refining convolution has a shortcut (RFDN's shallow residual block).
        conv: Returns a 3x3 convolution for the numbers of input and output channels.
    """

    def __init__(
        self,
        n_feats: int,
        distilled: int,
        attention: nn.Module,
        *,
        steps: int = 3,
        residual: bool = False,
        conv: Callable[[int, int], nn.Module] = conv3x3,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.residual = residual
        for step in range(1, steps + 1):
            self.add_module(f"c{step}_d", conv1x1(n_feats, distilled))
            self.add_module(f"c{step}_r", conv(n_feats, n_feats))
        self.c4 = conv(n_feats, distilled)
        self.c5 = conv1x1((steps + 1) * distilled, n_feats)
        self.esa = attention
        self.act = leaky_relu()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        parts: list[Tensor] = []
        refined = [x]
        for step in range(1, self.steps + 1):
            distil, refine = self.get_submodule(f"c{step}_d"), self.get_submodule(f"c{step}_r")
            parts.append(self.act(distil(refined[-1])))
            refined.append(self.act(refine(refined[-1]) + refined[-1] if self.residual else refine(refined[-1])))
        parts.append(self.act(self.c4(refined[-1])))
        joined = torch.cat(parts, dim=1)
        out: Tensor = self.esa(self.c5(joined))
        return out
