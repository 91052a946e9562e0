"""FMEN's two forms run as their authors' code runs them, over the parameters of this project's modules.

Written from a description of NJU-Jet/FMEN (``train_fmen.py``): eager, mostly out of place, channels first.
In training every RRRB is computed in its expanded form, at twice the width; a convolution's padding is written into
the border of a padded copy by four assignments; a BatchNorm in front of a convolution makes such a copy, too. Sharing
the parameters makes outputs and gradients directly comparable.

Source: Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", NTIRE 2022, and
https://github.com/NJU-Jet/FMEN.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core import FMENTraining
from fmen_core.blocks.attention import HFAB
from fmen_core.blocks.reparameterizable import RRRB
from fmen_core.fmen_deploy import FMEN, SLOPE


class Published(nn.Module):
    """A form of FMEN as published, over the parameters of ``network``.

    Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.
    """

    def __init__(self, network: FMEN | FMENTraining) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        net: Any = self.network
        shallow = net.head(x)
        deep = attend(net.warmup[1], net.warmup[0](shallow))
        for erb, hfab in zip(net.ERBs, net.HFABs, strict=True):
            deep = attend(hfab, enhance(erb, deep))
        deep = net.lr_conv(deep)
        deep += shallow
        out: Tensor = net.tail(deep)
        return out


def attend(hfab: Any, x: Tensor) -> Tensor:
    """Compute an HFAB: weigh ``x`` by the attention branch."""
    training = isinstance(hfab, HFAB)
    branch = activate(hfab.squeeze(normalize(hfab.bn1, x) if training else x))
    for erb in hfab.convs:
        branch = enhance(erb, branch)
    branch = activate(branch)
    branch = hfab.bn3(hfab.excitate(normalize(hfab.bn2, branch))) if training else hfab.excitate(branch)
    return torch.sigmoid(branch) * x


def enhance(erb: Any, x: Tensor) -> Tensor:
    """Compute an ERB: two convolutions, which are RRRBs in training, with a LeakyReLU between them."""
    return convolve(erb.conv2, activate(convolve(erb.conv1, x)))


def convolve(block: nn.Module, x: Tensor) -> Tensor:
    """Compute a convolution or the expanded form of an RRRB."""
    if not isinstance(block, RRRB):
        return block(x)  # type: ignore[no-any-return]
    wide = block.expand_conv(x)
    assert block.expand_conv.bias is not None
    out: Tensor = block.reduce_conv(block.fea_conv(pad(wide, block.expand_conv.bias)) + wide)
    out += x
    return out


def activate(x: Tensor) -> Tensor:
    """Apply the LeakyReLU, in place at inference only."""
    return F.leaky_relu(x, SLOPE, inplace=not torch.is_grad_enabled())


def normalize(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Return ``bn(x)``, padded with the BatchNorm's shift."""
    assert bn.running_mean is not None and bn.running_var is not None
    return pad(bn(x), bn.bias - bn.running_mean * bn.weight / (bn.running_var + bn.eps).sqrt())


def pad(x: Tensor, values: Tensor) -> Tensor:
    """Return a copy of ``x`` ``(N, C, H, W)`` with a border of one pixel that has the ``values`` ``(C,)``."""
    copy = F.pad(x, (1, 1, 1, 1))
    column = values.view(1, -1, 1, 1)
    for line in (copy[:, :, :1], copy[:, :, -1:], copy[:, :, :, :1], copy[:, :, :, -1:]):
        line[...] = column
    return copy
