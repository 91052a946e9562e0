"""Record a network as a graph of operations on rows, for ``fmen_core.streaming``.

Convolutions of stride 1 that leave the size unchanged, pointwise operations, slices and concatenations of channels, and
pixel shuffles are operations on rows. Anything else, such as pooling, interpolation or a mean over the image, is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fmen_core.architecture import sr_model
from fmen_core.device import device_of

PROBE = (24, 20)
"""Rows and columns of the image that a network is recorded with."""

NATIVE_VALUES = 20_480
"""Largest number of values of a float32 input for which PyTorch computes a convolution without oneDNN."""

aten = torch.ops.aten
BATCH_NORMS = (aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default)
ROW_OPERATIONS = (aten._prelu_kernel.default, aten.hardswish.default, aten.cat.default, *BATCH_NORMS)
"""Functions that compute each row from the same row of their inputs, without PyTorch's tag for pointwise functions."""


class NotStreamable(Exception):
    """The network has an operation that needs more than some rows, or an unknown one."""


@dataclass(frozen=True)
class Rows:
    """Stands for the rows of a node among the arguments of an operation."""

    node: int


@dataclass
class Node:
    """An operation of a network; its output is a stream of rows.

    Attributes:
        kind: ``"input"``, ``"conv"`` (of several rows), ``"shuffle"``, ``"copy"`` (also to another type), ``"slice"``
            (of channels), or ``"rows"`` for any other function that computes each row from the same row of its inputs.
        function: The function of ``"conv"`` and ``"rows"``.
        arguments: Positional arguments, with ``Rows`` for streams.
        options: Keyword arguments.
        inputs: The nodes among the arguments.
        padding: Of a convolution: rows that it reads above and below.
        out: The variant of the function that writes into a given tensor, if there is one.
        channels: Channels of the output.
        dtype: Type of the output.
        scale: Rows of the output per row of the image.
        lag: Rows, at this scale, by which the output is behind the image.
        halo: Largest number of rows above and below that a convolution of this output reads.
        last_user: The last node that reads the output.
        users: The nodes that read the output row by row, each with the number of its rows per row of the output.
        reuses: The position of an input whose memory may hold the output.
    """

    kind: str
    function: Any = None
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    padding: int = 0
    out: Any = None
    channels: int = 3
    dtype: torch.dtype = torch.float32
    scale: int = 1
    lag: int = 0
    halo: int = 0
    last_user: int = -1
    users: list[tuple[int, int]] = field(default_factory=list)
    reuses: int | None = None


def record(model: nn.Module) -> list[Node]:
    """Return the operations of a network; the last one has its output.

    Args:
        model: A network in its inference form, in any precision. It runs once on a small black image.

    Raises:
        NotStreamable: The network cannot be computed row by row.
    """
    with torch.inference_mode(False), torch.no_grad():
        x = torch.zeros(1, 3, *PROBE, device=device_of(model))
        with _Recorder(x) as recorder:
            out = model(x)
    nodes: list[Node] = recorder.nodes
    if recorder.index.get(id(out)) != len(nodes) - 1 or nodes[-1].scale != sr_model(model).scale:
        raise NotStreamable("the output is not that of the last operation")
    for node in nodes:
        if node.out is not None and torch.Tag.pointwise in node.function.tags and not node.halo:
            for position, source in enumerate(nodes[place] for place in node.inputs):
                owned = source.kind in ("conv", "rows", "copy") and not source.halo and len(source.users) == 1
                # With another lag, rows of the input wait, and their memory is used again when they have been read.
                if owned and source.lag == node.lag and (source.dtype, source.channels) == (node.dtype, node.channels):
                    node.reuses = position
    return nodes


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations of a forward pass as nodes."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes = [Node("input")]
        self.index = {id(x): 0}
        self.alive: list[Any] = [x]  # so that no later tensor gets the same id
        self.viewed: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: PyTorch would otherwise import its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.alive.append((args, result))
        if any(id(leaf) in self.index for leaf in tree_leaves((args, kwargs))):
            self._record(func, args, kwargs or {}, tree_leaves(result))
        return result

    def _record(self, func: OpOverload, args: tuple[Any, ...], options: dict[str, Any], results: list[Any]) -> None:
        if not all(isinstance(result, Tensor) for result in results) or not isinstance(args[0], Tensor | list):
            raise NotStreamable(str(func))
        marked: tuple[Any, ...] = tree_map_only(Tensor, self._mark, args)
        storage = results[0].untyped_storage()._cdata
        if func._schema.is_mutable and func not in BATCH_NORMS:
            if results[0] is not args[0] or id(args[0]) not in self.index or storage in self.viewed:
                raise NotStreamable(str(func))
            func = getattr(getattr(aten, func._schema.name.removeprefix("aten::")[:-1]), func._overloadname)
        elif isinstance(args[0], Tensor) and storage == args[0].untyped_storage()._cdata:
            self.viewed.add(storage)
            for part in results:
                self._add(part, _slice(args[0], part, marked[0]))
            return
        self._add(results[0], _node(func, marked, options, results[0]))

    def _mark(self, tensor: Tensor) -> Rows | Tensor:
        place = self.index.get(id(tensor))
        return tensor if place is None else Rows(place)

    def _add(self, result: Tensor, node: Node) -> None:
        """Append a node after its inputs, which must have the same scale."""
        node.inputs = tuple(leaf.node for leaf in tree_leaves(node.arguments) if isinstance(leaf, Rows))
        before = [self.nodes[place] for place in node.inputs]
        if len({each.scale for each in before}) != 1:
            raise NotStreamable("inputs of several sizes")
        ratio = node.arguments[1] if node.kind == "shuffle" else 1
        node.scale = before[0].scale * ratio
        if result.dim() != 4 or (len(result), *result.shape[2:]) != (1, *(node.scale * side for side in PROBE)):
            raise NotStreamable(f"an output of the size {tuple(result.shape)}")
        node.channels, node.dtype = result.shape[1], result.dtype
        node.lag = (max(each.lag for each in before) + node.padding) * ratio
        for each in before:
            each.last_user = len(self.nodes)
            if node.kind == "conv":
                each.halo = max(each.halo, node.padding)
            else:
                each.users.append((len(self.nodes), ratio))
        self.index[id(result)] = len(self.nodes)
        self.nodes.append(node)


def _slice(base: Tensor, part: Tensor, rows: Rows) -> Node:
    """Return the node of a view of some channels; any other view raises NotStreamable."""
    offset, stride = part.storage_offset() - base.storage_offset(), base.stride(1)
    same = part.dim() == base.dim() == 4 and part.shape[2:] == base.shape[2:] and part.stride() == base.stride()
    if not same or offset % stride or offset // stride + part.shape[1] > base.shape[1]:
        raise NotStreamable(f"a view of the size {tuple(part.shape)}")
    return Node("slice", arguments=(rows, 1, offset // stride, part.shape[1]))


def _node(func: OpOverload, marked: tuple[Any, ...], options: dict[str, Any], result: Tensor) -> Node:
    """Return the node of an operation that makes a new tensor."""
    if func is aten.convolution.default:
        return _convolution(*marked)
    if func is aten.pixel_shuffle.default:
        return Node("shuffle", arguments=marked)
    if func in (aten._to_copy.default, aten.clone.default) and options.get("device", result.device) == result.device:
        return Node("copy", arguments=marked)
    if func is aten.cat.default and marked[1:] not in ((1,), (-3,)):
        raise NotStreamable("a concatenation of rows or columns")
    if func is BATCH_NORMS[0] and marked[5]:
        raise NotStreamable("a BatchNorm in training mode")
    pointwise = torch.Tag.pointwise in func.tags
    if not pointwise and func not in ROW_OPERATIONS:
        raise NotStreamable(str(func))
    for leaf in tree_leaves((marked, options)):
        if pointwise and isinstance(leaf, Tensor) and leaf.shape[-2:].numel() > 1:
            raise NotStreamable(f"{func} with a constant of the size {tuple(leaf.shape)}")
    return Node("rows", func, marked, options, out=_out_variant(func))


def _convolution(x: Any, weight: Any, bias: Any, *settings: Any) -> Node:
    """Return the node of a convolution, unless its output has another size than its input."""
    stride, padding, dilation, transposed, _, groups = settings
    reach = [dilated * (size - 1) for dilated, size in zip(dilation, weight.shape[2:], strict=True)]
    if transposed or not isinstance(x, Rows) or set(stride) != {1} or [2 * pad for pad in padding] != reach:
        raise NotStreamable("a convolution that changes the size")
    arguments = (x, weight, bias, 1, (0, padding[1]), tuple(dilation), groups)
    return Node("conv" if padding[0] else "rows", convolution, arguments, padding=padding[0])


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """Compute ``F.conv2d`` for some rows as PyTorch computes it for a large image.

    PyTorch has another convolution for small inputs, whose sums are formed in another order.
    """
    onednn: Any = torch.backends.mkldnn
    small = x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() <= NATIVE_VALUES
    pointwise = weight.shape[2:] == (1, 1) and torch.get_num_threads() == 1  # without oneDNN for large images, too
    if not small or pointwise or not (onednn.is_available() and onednn.enabled):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return torch.mkldnn_convolution(x, weight, bias, padding, (stride, stride), dilation, groups)


def _out_variant(func: OpOverload) -> Any:
    """Return the overload of ``func`` that writes into its argument ``out``; None if there is none."""
    packet = getattr(aten, func._schema.name.removeprefix("aten::"))
    types = [str(argument.type) for argument in func._schema.arguments]
    for overload in (getattr(packet, name) for name in packet.overloads()):
        arguments = overload._schema.arguments
        outs = [argument.name for argument in arguments if argument.is_out]
        if outs == ["out"] and [str(argument.type) for argument in arguments if not argument.is_out] == types:
            return overload
    return None
