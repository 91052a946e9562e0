"""The two ways of distillation: keep a part of each convolution's features at once, and refine the rest further.

IMDN splits the channels; RFDN lets a 1x1 convolution beside each 3x3 convolution pick what is kept. All features of a
block stay referenced until the block is done, as in the published code, for their memory is among the things measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu


def split_off(
    x: Tensor, convs: Iterable[nn.Module], kept: int, act: nn.Module | None = None
) -> tuple[list[Tensor], Tensor]:
    """Information multi-distillation (IMDN, section 3.1): run each convolution on what the one before it passed on.

    Args:
        x: Features ``(N, C, H, W)``.
        convs: Each takes the channels that were not kept of the previous one's output.
        kept: How many of each convolution's output channels are set aside, the first ones.
        act: Activation after each convolution; None if the convolutions carry their own.

    Returns:
        The parts set aside, one per convolution, and the channels that the last one passed on.
    """
    parts = []
    for conv in convs:
        out = conv(x) if act is None else act(conv(x))
        parts.append(out[:, :kept])
        x = out[:, kept:]
    return parts, x


class FeatureDistillation(nn.Module):
    """The feature distillation block of RFDN (section 3.2) and of the networks made from it.

    Args:
        n_feats: Channels in and out.
        distilled: Channels kept by each step and by the last convolution.
        attention: What the fused features pass through at the end.
        steps: How many times features are distilled and refined before the last convolution.
        residual: Whether each refining convolution has a shortcut (RFDN's shallow residual block).
        conv: Makes the 3x3 convolutions from the numbers of input and output channels.
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
        """``(N, n_feats, H, W)`` to the same shape."""
        kept: list[Tensor] = []
        refined = [x]
        for step in range(1, self.steps + 1):
            distil, refine = self.get_submodule(f"c{step}_d"), self.get_submodule(f"c{step}_r")
            kept.append(self.act(distil(refined[-1])))
            refined.append(self.act(refine(refined[-1]) + refined[-1] if self.residual else refine(refined[-1])))
        kept.append(self.act(self.c4(refined[-1])))
        joined = torch.cat(kept, dim=1)
        out: Tensor = self.esa(self.c5(joined))
        return out
