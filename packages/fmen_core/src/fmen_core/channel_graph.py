"""Find which channels of a network are tied: those that can only be removed together, for ``fmen_core.pruning``.

A forward pass is recorded. A convolution makes new channels; an addition, a product or a shared weight
ties channels of equal position; concatenations, slices and pixel shuffles rearrange them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from fmen_core.device import device_of
from fmen_core.errors import ModelError

aten = torch.ops.aten

BATCH_NORMS = (aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default)

PER_CHANNEL = (
    *(aten._prelu_kernel.default, aten.hardswish.default, aten.clone.default, aten._to_copy.default),
    *(aten.mean.dim, aten.sum.dim_IntList, aten.var.correction, aten.std.correction, aten.constant_pad_nd.default),
    *(aten.avg_pool2d.default, aten.max_pool2d_with_indices.default, aten._adaptive_avg_pool2d.default),
    *(aten.adaptive_max_pool2d.default, aten.replication_pad2d.default, aten.reflection_pad2d.default),
    *(aten.upsample_bilinear2d.default, aten.upsample_nearest2d.default, aten.upsample_bicubic2d.default),
    *BATCH_NORMS,
)
"""Functions, besides pointwise ones, that compute each channel from the same channel of their inputs."""


@dataclass(frozen=True)
class Use:
    """A dimension of a parameter that has one entry for each of some channels.

    Attributes:
        name: The parameter.
        axis: The dimension.
        channels: The number of the channel of each entry.
        shares: If a convolution reads the channels: the variance that each adds to the output, as if they were
            uncorrelated, relative to the output's variance.
    """

    name: str
    axis: int
    channels: tuple[int, ...]
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class ChannelGraph:
    """The channels of a network.

    Attributes:
        uses: The dimensions of the parameters that channels have entries in.
        groups: The tied channels. Groups that the same operations read and write at the same positions are
            interchangeable; they are listed under these operations, in the order of their channels.
        group_of: The group of each channel, by its first channel.
    """

    uses: tuple[Use, ...]
    groups: dict[tuple[tuple[int, int], ...], list[int]]
    group_of: tuple[int, ...]


def record_channels(model: nn.Module, images: Tensor) -> ChannelGraph:
    """Return the channels of a network.

    Args:
        model: A network in its inference form and in eval mode.
        images: ``(N, 3, H, W)`` in ``[0, data_range]``; the network runs once on them.

    Raises:
        ModelError: The network has an operation whose channels cannot be followed, or it cannot run.
    """
    with torch.inference_mode(False), torch.no_grad():
        x = images.to(device_of(model), next(model.parameters()).dtype, copy=True)
        with _Recorder(model, x) as recorder:
            try:
                model(x)
            except (RuntimeError, IndexError, ZeroDivisionError) as error:
                raise ModelError(f"the network cannot run: {str(error).strip().splitlines()[0]}") from error
    graph: ChannelGraph = recorder.graph()
    return graph


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the channels of each tensor through a forward pass."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        named = [*model.named_parameters(), *model.named_buffers()]
        self.named = {tensor.untyped_storage()._cdata: (name, tensor) for name, tensor in named}
        self.uses: dict[tuple[str, int], Use] = {}
        self.parents: list[int] = []
        self.marks: list[list[tuple[int, int]]] = []
        self.operations = 0
        self.channels: Any = WeakTensorKeyDictionary()
        self.channels[x] = self._new(3)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: PyTorch would otherwise import its compiler, which takes seconds."""
        return False

    def graph(self) -> ChannelGraph:
        """Return what was recorded."""
        members: dict[int, list[int]] = {}
        for channel in range(len(self.parents)):
            members.setdefault(self._root(channel), []).append(channel)
        groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for root, channels in members.items():
            marks = sorted(mark for channel in channels for mark in self.marks[channel])
            groups.setdefault(tuple(marks), []).append(root)
        return ChannelGraph(tuple(self.uses.values()), groups, tuple(map(self._root, range(len(self.parents)))))

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(leaf in self.channels for leaf in inputs):
            self.operations += 1
            results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if func._schema.is_mutable and func not in BATCH_NORMS:  # the function that does the same out of place
                func = getattr(getattr(aten, func._schema.name.removeprefix("aten::")[:-1]), func._overloadname)
            self._follow(func, args, inputs, results)
        return result

    def _follow(self, func: OpOverload, args: tuple[Any, ...], inputs: list[Tensor], results: list[Tensor]) -> None:
        """Give the results of an operation their channels."""
        if func is aten.convolution.default:
            self.channels[results[0]] = self._convolve(results[0], *args)
        elif func is aten.pixel_shuffle.default:
            self.channels[results[0]] = self._shuffle(args[0], args[1] ** 2)
        elif func is aten.cat.default and args[1:] in ((1,), (-3,)) and all(part in self.channels for part in inputs):
            parts = [self._read(part, position) for position, part in enumerate(inputs)]
            self.channels[results[0]] = [channel for part in parts for channel in part]
        elif func.is_view:
            for position, part in enumerate(results):
                self.channels[part] = self._mark(self._slice(func, inputs[0], part), position)
        elif torch.Tag.pointwise in func.tags or func in PER_CHANNEL:
            self.channels[results[0]] = self._tie_inputs(func, inputs, results[0])
        else:
            raise _unknown(func)

    def _convolve(self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> list[int]:
        """Return the channels of a convolution's output."""
        transposed, groups = settings[3], settings[5]
        if transposed or not self._is_parameter(weight):
            raise ModelError("a transposed convolution, or one whose weights are computed, cannot be pruned")
        read = self._read(x)
        if groups == 1:
            self._use(weight, 1, read, shares(x, weight, out))
        elif weight.shape[1] > 1 or groups != len(read):
            raise ModelError(f"a convolution of {groups} groups cannot be pruned")
        if groups == 1:
            written = self._new(len(weight))
        else:  # each output channel is of one input channel
            written = [channel for channel in read for _ in range(len(weight) // groups)]
        for parameter in (weight, bias):
            if parameter is not None:
                self._use(parameter, 0, written)
        return self._mark(written, -1)

    def _shuffle(self, x: Tensor, ratio: int) -> list[int]:
        """Return the channels of a pixel shuffle's output, each of which has the pixels of ``ratio`` tied ones."""
        read = self._read(x)
        for start in range(0, len(read), ratio):
            for channel in read[start + 1 : start + ratio]:
                self._tie(read[start], channel)
        return read[::ratio]

    def _slice(self, func: OpOverload, base: Tensor, part: Tensor) -> list[int]:
        """Return the channels of a view of some channels, rows and columns."""
        channels: list[int] = self.channels[base]
        step = base.stride(1) if base.dim() > 1 else 0
        if part.dim() != base.dim() or part.dim() < 2 or part.stride(1) != step:
            raise _unknown(func)
        if part.shape[1] == base.shape[1]:
            return channels
        start = (part.storage_offset() - base.storage_offset()) // step
        if part.shape[2:] != base.shape[2:]:
            raise _unknown(func)
        return channels[start : start + part.shape[1]]

    def _tie_inputs(self, func: OpOverload, inputs: list[Tensor], result: Tensor) -> list[int]:
        """Return the channels of a result whose channels are each of the same channel of all inputs."""
        followed = [(place, self.channels[x]) for place, x in enumerate(inputs) if x in self.channels]
        tied: list[int] = max((channels for _, channels in followed), key=len)
        if result.dim() < 2 or result.shape[1] != len(tied):
            raise _unknown(func)
        for place, channels in followed:
            self._mark(channels, place)
            if len(channels) == len(tied):
                for first, second in zip(tied, channels, strict=True):
                    self._tie(first, second)
        for x in inputs:
            if x not in self.channels and x.numel() > 1:
                self._use_elementwise(func, x, tied, result.dim())
        return tied

    def _use_elementwise(self, func: OpOverload, x: Tensor, channels: list[int], dims: int) -> None:
        """Record a parameter with one entry per channel, such as those of a BatchNorm or a PReLU."""
        if func not in BATCH_NORMS:
            if x.dim() < dims - 1:
                raise _unknown(func)
            if x.shape[1 - dims] == 1:  # the same for all channels
                return
        _, parameter = self.named.get(x.untyped_storage()._cdata, ("", None))
        if parameter is None:  # a constant, such as the mean colour
            return
        if parameter.numel() != x.numel() or x.numel() != len(channels):
            raise _unknown(func)
        self._use(parameter, list(parameter.shape).index(len(channels)), channels)

    def _is_parameter(self, tensor: Tensor) -> bool:
        _, parameter = self.named.get(tensor.untyped_storage()._cdata, ("", None))
        return parameter is not None and parameter.shape == tensor.shape

    def _use(self, parameter: Tensor, axis: int, channels: Sequence[int], found: tuple[float, ...] = ()) -> None:
        """Record that a dimension of a parameter belongs to channels; those of a second use are tied to the first."""
        name, _ = self.named[parameter.untyped_storage()._cdata]
        known = self.uses.setdefault((name, axis), Use(name, axis, tuple(channels), found))
        for first, second in zip(known.channels, channels, strict=True):
            self._tie(first, second)

    def _new(self, count: int) -> list[int]:
        first = len(self.parents)
        self.parents += range(first, first + count)
        self.marks += [[] for _ in range(count)]
        return list(range(first, first + count))

    def _read(self, x: Tensor, position: int = 0) -> list[int]:
        return self._mark(self.channels[x], position)

    def _mark(self, channels: list[int], position: int) -> list[int]:
        """Note at the channels that this operation reads or writes them."""
        for channel in channels:
            self.marks[channel].append((self.operations, position))
        return channels

    def _root(self, channel: int) -> int:
        while self.parents[channel] != channel:
            channel = self.parents[channel]
        return channel

    def _tie(self, first: int, second: int) -> None:
        low, high = sorted((self._root(first), self._root(second)))
        self.parents[high] = low


def shares(x: Tensor, weight: Tensor, out: Tensor) -> tuple[float, ...]:
    """Return the variance that each input channel of a convolution adds to its output; see :class:`Use`."""
    variance, total = (torch.var(features.double(), (0, 2, 3), correction=0) for features in (x, out))
    added = weight.double().square().sum((0, 2, 3)) * variance
    return tuple((added / total.sum().clamp_min(torch.finfo(torch.float64).tiny)).tolist())


def _unknown(func: OpOverload) -> ModelError:
    return ModelError(f"channels cannot be followed through {func}")
