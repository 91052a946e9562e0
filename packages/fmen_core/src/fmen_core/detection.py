"""How a network is recognised: by the names and shapes of its tensors, and by nothing else.

A network reads the few sizes that it can vary from the shapes; then it is built without memory, and it is the one only
if every name and every shape is the same. So no file is taken for a network that could not load it strictly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fmen_core.architecture import StateDict


def out_channels(state: StateDict, key: str) -> int | None:
    """The output channels of the convolution weight named ``key``, or None if there is no such weight."""
    weight = state.get(key)
    return weight.shape[0] if weight is not None and weight.dim() == 4 else None


def shuffle_scale(state: StateDict, key: str) -> int | None:
    """The scale of the sub-pixel convolution named ``key``, which has ``3 * scale**2`` outputs; else None."""
    channels = out_channels(state, key)
    scale = math.isqrt((channels or 0) // 3)
    return scale if scale and channels == 3 * scale**2 else None


def count(state: StateDict, pattern: str) -> int:
    """How many tensors have a name that matches the regular expression from beginning to end."""
    return sum(re.fullmatch(pattern, key) is not None for key in state)


def recognise(state: StateDict, build: Callable[..., nn.Module], **sizes: int | None) -> dict[str, Any] | None:
    """The sizes, if ``build(**sizes)`` has exactly the tensors of ``state``; None if not, or if a size is missing."""
    if any(not size for size in sizes.values()):
        return None
    with torch.device("meta"):
        expected = build(**sizes).state_dict()
    if expected.keys() != state.keys() or any(expected[key].shape != state[key].shape for key in expected):
        return None
    return dict(sizes)
