"""The residual local feature block of RLFN (Kong et al., CVPR Workshops 2022) and of the networks derived from it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fmen_core.blocks.layers import conv3x3


class ResidualLocalFeature(nn.Module):
    """Three 3x3 convolutions with activations, a shortcut around them, a 1x1 convolution and attention (section 3.2).

    Args:
        n_feats: Channels in and out.
        mid_feats: Channels between the convolutions.
        act: Activation after each 3x3 convolution.
        fuse: The 1x1 convolution.
        attention: What the fused features pass through at the end.
        conv: Makes the 3x3 convolutions from the numbers of input and output channels.
    """

    def __init__(
        self,
        n_feats: int,
        mid_feats: int,
        *,
        act: nn.Module,
        fuse: nn.Module,
        attention: nn.Module,
        conv: Callable[[int, int], nn.Module] = conv3x3,
    ) -> None:
        super().__init__()
        self.c1_r = conv(n_feats, mid_feats)
        self.c2_r = conv(mid_feats, mid_feats)
        self.c3_r = conv(mid_feats, n_feats)
        self.c5 = fuse
        self.esa = attention
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        local = self.act(self.c1_r(x))
        local = self.act(self.c2_r(local))
        local = self.act(self.c3_r(local))
        local = local + x
        out: Tensor = self.esa(self.c5(local))
        return out
