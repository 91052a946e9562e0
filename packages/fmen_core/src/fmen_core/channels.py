"""FMEN with channels of zeros, for processors that compute a multiple of some channels in the time of fewer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fmen_core.fmen_deploy import FMEN

PADDED_ON, PADDED_IN = ("cuda",), ("bf16", "fp16")
"""Devices and precisions in which the features have a multiple of 8 channels, as the matrix units of GPUs take."""


def pad_for_gpu(model: nn.Module, device: torch.device, precision: str) -> None:
    """Pad the channels of an FMEN in its inference form, in place, where a GPU computes in 16 bits."""
    if isinstance(model, FMEN) and device.type in PADDED_ON and precision in PADDED_IN:
        pad_channels(model)


@torch.no_grad()
def pad_channels(model: FMEN, multiple: int = 8) -> None:
    """Extend the features of an inference form by channels of zeros, in place, to a multiple of channels.

    The function is the same: a convolution without weights and bias gives zeros, which LeakyReLU and the product with
    an attention map leave zeros, and which the next convolution weighs with zeros. cuDNN otherwise copies 50 channels
    into 56 before each convolution.

    Args:
        model: The network; its images have 3 channels as before.
        multiple: The number of channels of all features becomes a multiple of it.
    """
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            inputs = 0 if conv is model.head else -conv.in_channels % multiple
            outputs = 0 if conv is model.tail[0] else -conv.out_channels % multiple
            assert conv.bias is not None
            conv.weight = nn.Parameter(F.pad(conv.weight, (0, 0, 0, 0, 0, inputs, 0, outputs)))
            conv.bias = nn.Parameter(F.pad(conv.bias, (0, outputs)))
            conv.in_channels += inputs
            conv.out_channels += outputs
