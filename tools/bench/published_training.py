"""FMEN's training form run as its authors' code runs it, over the parameters of our module.

What NJU-Jet/FMEN does (``train_fmen.py``): every re-parameterizable block is computed as drawn, at twice the width;
what a convolution pads with is written into the border of a padded copy by four assignments; a batch normalization in
front of a convolution makes such a copy too; the leaky rectifiers, the sigmoid and the product each allocate their
result. Written here from that description, so that the two ways of training share their weights, and a comparison of
outputs and gradients needs no translation.

Source: Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", NTIRE 2022, and
https://github.com/NJU-Jet/FMEN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core import FMENTraining
from fmen_core.blocks.attention import HFAB
from fmen_core.blocks.reparameterizable import RRRB
from fmen_core.models.fmen import ERB

SLOPE = 0.1


class PublishedFMEN(nn.Module):
    """The published training form; its parameters are those of the given network, which keeps owning them.

    Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.
    """

    def __init__(self, network: FMENTraining) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        net = self.network
        shallow = net.head(x)
        deep = published_hfab(net.warmup[1], net.warmup[0](shallow))
        for erb, hfab in zip(net.ERBs, net.HFABs, strict=True):
            deep = published_hfab(hfab, published_erb(erb, deep))
        deep = net.lr_conv(deep)
        deep += shallow
        return net.tail(deep)


def bordered(x: Tensor, values: Tensor) -> Tensor:
    """A copy of ``x`` ``(N, C, H, W)`` with a border of one pixel that holds ``values`` ``(C,)``."""
    copy = F.pad(x, (1, 1, 1, 1))
    column = values.view(1, -1, 1, 1)
    for line in (copy[:, :, :1], copy[:, :, -1:], copy[:, :, :, :1], copy[:, :, :, -1:]):
        line[...] = column
    return copy


def published_rrrb(block: RRRB, x: Tensor) -> Tensor:
    """Expand, convolve and reduce, ``(N, C, H, W)`` to the same."""
    wide = block.expand_conv(x)
    assert block.expand_conv.bias is not None
    out = block.reduce_conv(block.fea_conv(bordered(wide, block.expand_conv.bias)) + wide)
    out += x
    return out


def published_erb(block: ERB, x: Tensor) -> Tensor:
    """Two RRRBs with a leaky rectifier between them."""
    return published_rrrb(block.conv2, F.leaky_relu(published_rrrb(block.conv1, x), SLOPE))


def normalized(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """``bn(x)`` in a border of what its running statistics make of zero."""
    assert bn.running_mean is not None and bn.running_var is not None
    out = bn(x)
    return bordered(out, bn.bias - bn.running_mean * bn.weight / (bn.running_var + bn.eps).sqrt())


def published_hfab(block: HFAB, x: Tensor) -> Tensor:
    """Weigh ``x`` by the attention branch."""
    branch = F.leaky_relu(block.squeeze(normalized(block.bn1, x)), SLOPE)
    for erb in block.convs:
        assert isinstance(erb, ERB)
        branch = published_erb(erb, branch)
    branch = F.leaky_relu(branch, SLOPE)
    excited = block.excitate(normalized(block.bn2, branch))
    return torch.sigmoid(block.bn3(excited)) * x
