"""The re-parameterizable blocks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fmen_core.blocks.asymmetric import NormalizedACB
from fmen_core.blocks.bases import FilterBases
from fmen_core.blocks.reparameterizable import ACB, DBB, ECB, RRRB, PlainConv, ReparamConv2d, RepVGG

BLOCKS: Mapping[str, Callable[[int, int], ReparamConv2d]] = {
    "rrrb": RRRB,
    "ecb": lambda channels, ratio: ECB(channels, channels, ratio, identity=True),
    "repvgg": lambda channels, _: RepVGG(channels, channels),
    "acb": lambda channels, _: ACB(channels, channels),
    "dbb": lambda channels, _: DBB(channels, channels),
    "plain": lambda channels, _: PlainConv(channels, channels),
    "acb-bn": lambda channels, _: NormalizedACB(channels, channels),
    "bases": lambda channels, ratio: FilterBases(channels, channels, ratio),
}
"""Blocks from and to the same number of channels by name.

The second argument is the ratio of those that expand, and the number of filters of ``"bases"``.
"""
