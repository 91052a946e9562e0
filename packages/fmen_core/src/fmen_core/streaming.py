"""Run a network on an image from top to bottom, in strips of rows, without computing anything twice.

Each convolution of ``k`` rows holds the last ``k - 1`` rows of its input, so that its output is ``k // 2`` rows behind
it. Where branches meet, the rows of the faster one wait for those of the slower one. The features of a strip stay in
the processor's cache (``tools/bench/tiling.py``).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import sr_model
from fmen_core.device import device_of
from fmen_core.row_graph import Node, Rows, record

CHECK = (41, 27, 7)
"""Rows and columns of the image, and rows of the strips, that a recorded network is checked with."""

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Largest difference from the whole image, relative to the largest output, by the type of the features."""


def streamable(model: nn.Module) -> list[Node] | None:
    """Return the operations of a network for :class:`Stream`, or None if it cannot be computed row by row.

    The operations are recorded on one image and checked on another one of a different size.

    Args:
        model: A network in its inference form, in any precision; it is called twice.
    """
    try:
        nodes = record(model)
        return nodes if _agrees(model, nodes) else None
    except Exception:  # A network may be any user's code and may raise anything.
        return None


@torch.inference_mode()
def _agrees(model: nn.Module, nodes: Sequence[Node]) -> bool:
    """Return whether a stream of ``nodes`` has the same output as ``model``."""
    height, width, rows = CHECK
    device, generator = device_of(model), torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, height, width, generator=generator).to(device) * sr_model(model).data_range
    expected = model(image)
    stream = Stream(nodes, height, width, torch.contiguous_format, device)
    strips = [
        stream.step(image[:, :, first : first + rows], rows) for first in range(0, stream.steps(rows) * rows, rows)
    ]
    found = torch.cat([strip for strip in strips if strip is not None], 2)
    tolerance = max(TOLERANCES.get(node.dtype, 0.0) for node in nodes)
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


class Stream:
    """The rows in flight while one image passes through a network.

    Args:
        nodes: The operations of the network, as :func:`streamable` returns them.
        height: Rows of the image.
        width: Columns of the image.
        memory_format: Of the features.
        device: Of the features.
        finish: Elementwise function of the output, applied before the pixel shuffle of a network that ends with one. It
            may change its argument.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        height: int,
        width: int,
        memory_format: torch.memory_format,
        device: torch.device,
        finish: Callable[[Tensor], Tensor] = lambda out: out,
    ) -> None:
        self.nodes, self.finish = nodes, finish
        self.height, self.width = height, width
        self.memory_format, self.device = memory_format, device
        self.fed = self.rows = 0
        self.done = [0] * len(nodes)
        # The rows of the current strip, below those above it that convolutions read: the number of the first one, rows.
        self.buffers: list[tuple[int, Tensor] | None] = [None] * len(nodes)
        self.above = [self._empty(node, 2 * node.halo).zero_() for node in nodes]
        self.waiting: list[deque[tuple[int, Tensor]]] = [deque() for _ in nodes]
        # Large tensors are used again, because those that come and go fragment the heap: in use, by node, and spare.
        self.taken: list[list[Tensor]] = [[] for _ in nodes]
        self.spare: dict[tuple[object, ...], list[Tensor]] = defaultdict(list)

    def _empty(self, node: Node, rows: int) -> Tensor:
        size = (1, node.channels, rows, self.width * node.scale)
        return torch.empty(size, dtype=node.dtype, device=self.device, memory_format=self.memory_format)

    def _take(self, place: int, rows: int) -> Tensor:
        """Return memory for ``rows`` rows of a node; ``_give_back`` makes it spare again."""
        node = self.nodes[place]
        if any(self.nodes[user].kind == "slice" for user, _ in node.users):
            return self._empty(node, rows)  # The slice has views of it.
        spare = self.spare[node.dtype, node.channels, node.scale, rows]
        self.taken[place].append(spare.pop() if spare else self._empty(node, rows))
        return self.taken[place][-1]

    def _give_back(self, place: int) -> None:
        """Make the memory of a node spare that none of its rows are in."""
        waiting = {rows.untyped_storage().data_ptr() for _, rows in self.waiting[place]}
        for tensor in self.taken[place]:
            if tensor.untyped_storage().data_ptr() not in waiting:
                self.spare[tensor.dtype, tensor.shape[1], self.nodes[place].scale, tensor.shape[2]].append(tensor)
        self.taken[place] = [each for each in self.taken[place] if each.untyped_storage().data_ptr() in waiting]

    def steps(self, rows: int) -> int:
        """Return the number of steps of ``rows`` rows after which the output is complete."""
        scale, lag = self.nodes[-1].scale, self.nodes[-1].lag
        return -(-(self.height * scale + lag) // (rows * scale))

    def step(self, strip: Tensor, rows: int) -> Tensor | None:
        """Advance by a number of rows of the image.

        Args:
            strip: The next rows ``(1, 3, rows, width)``, fewer at the end of the image, and none after it.
            rows: The number of rows of all strips but the last.

        Returns:
            The finished rows of the output that are complete, if there are any.
        """
        self.fed, self.rows = self.fed + rows, rows
        for place, node in enumerate(self.nodes):
            height, start = self.height * node.scale, self.done[place]
            # After the last row of the image come the rows of zeros that convolutions read below it.
            stop = min(height + node.halo, self.fed * node.scale - node.lag)
            if stop > start:
                self._advance(place, node, start, min(stop, height), stop, strip)
                self.done[place] = stop
            for source in dict.fromkeys(node.inputs):
                if self.nodes[source].last_user == place:
                    self._release(source)
        if not self.waiting[-1]:
            return None
        out = self.waiting[-1].pop()[1]
        return out if self.nodes[-1].kind == "shuffle" else self.finish(out)

    def _advance(self, place: int, node: Node, start: int, end: int, stop: int, strip: Tensor) -> None:
        """Compute the rows ``start:end`` of a node, and append zeros up to ``stop``."""
        rows = end - start
        if node.halo:
            above = self.above[place]
            margin = above.shape[2]
            buffer = self._take(place, margin + self.rows * node.scale)
            top = buffer.shape[2] - (stop - start)
            buffer[:, :, top - margin : top] = above
            if end < stop:
                buffer[:, :, max(0, rows) + top :] = 0
            self.buffers[place] = start - top, buffer
            target: Tensor | None = buffer[:, :, top : top + rows] if rows > 0 else None
        else:
            target = None
        if rows <= 0:
            return
        result = strip if node.kind == "input" else self._compute(node, start, end, target)
        if target is not None and result is not target:
            target.copy_(result)
        if node.users or place == len(self.nodes) - 1:
            self.waiting[place].append((start, result if target is None else target))

    def _compute(self, node: Node, start: int, end: int, target: Tensor | None) -> Tensor:
        """Return the rows ``start:end`` of a node, in ``target`` or in a new tensor."""
        if node.kind == "conv":
            first, buffer = self.buffers[node.inputs[0]] or (0, torch.empty(0))
            # Also of fewer rows: oneDNN prepares itself for each size of a convolution, which takes time and memory.
            most, stop = self.rows * node.scale, end + node.padding - first
            x = buffer[:, :, stop - most - 2 * node.padding : stop]
            out: Tensor = node.function(x, *node.arguments[1:])
            return out[:, :, most - (end - start) :]
        if node.kind == "shuffle":
            ratio, finish = node.arguments[1], self.finish if node is self.nodes[-1] else lambda rows: rows
            unshuffled = self._pieces(node, start // ratio, end // ratio)
            parts = [F.pixel_shuffle(finish(rows[0]), ratio) for _, rows in unshuffled]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        pieces = list(self._pieces(node, start, end))
        if len(pieces) == 1 and target is None:
            return self._apply(node, pieces[0][1])
        joined = self._empty(node, end - start) if target is None else target
        for offset, rows in pieces:
            self._apply(node, rows, joined[:, :, offset : offset + rows[0].shape[2]])
        return joined

    def _apply(self, node: Node, rows: list[Tensor], out: Tensor | None = None) -> Tensor:
        """Apply an operation to rows of its inputs, into ``out`` if given."""
        if node.kind == "slice":
            result = rows[0].narrow(*node.arguments[1:])
        elif node.kind == "copy":
            result = rows[0] if out is not None else rows[0].to(node.dtype, copy=True)
        else:
            if out is None and node.reuses is not None:
                out = rows[node.reuses]
            arguments = filled(node.arguments, iter(rows))
            if out is not None and node.out is not None:
                written: Tensor = node.out(*arguments, **node.options, out=out)
                return written
            result = node.function(*arguments, **node.options)
            if isinstance(result, tuple):  # BatchNorm also returns statistics
                result = result[0]
        return result if out is None else out.copy_(result)

    def _pieces(self, node: Node, start: int, end: int) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield the rows ``start:end`` of all inputs in pieces that are contiguous in each, with their offsets."""
        at = start
        while at < end:
            until, found = end, []
            for source in node.inputs:
                first, rows = next(piece for piece in reversed(self.waiting[source]) if piece[0] <= at)
                until = min(until, first + rows.shape[2])
                found.append((first, rows))
            yield at - start, [rows[:, :, at - first : until - first] for first, rows in found]
            at = until

    def _release(self, place: int) -> None:
        """Drop the rows of a node that are not read any more, after the last node that reads them in this step."""
        current, waiting = self.buffers[place], self.waiting[place]
        if current is not None:
            above = self.above[place].shape[2]
            self.above[place].copy_(current[1][:, :, -above:])  # in place, as new small tensors fragment the heap
            self.buffers[place] = None
        needed = min((self.done[user] // ratio for user, ratio in self.nodes[place].users), default=0)
        while waiting and waiting[0][0] + waiting[0][1].shape[2] <= needed:
            waiting.popleft()
        if waiting:
            first = max(needed, waiting[0][0])
            rest = waiting[0][1][:, :, first - waiting[0][0] :]
            if 2 * rest.nbytes <= rest.untyped_storage().nbytes():
                rest = self._take(place, rest.shape[2]).copy_(rest)
            waiting[0] = first, rest
        self._give_back(place)


def filled(arguments: Sequence[Any], rows: Iterator[Tensor]) -> list[Any]:
    """Return the arguments with the streams replaced by ``rows``, in order."""
    return [
        next(rows) if isinstance(each, Rows) else filled(each, rows) if isinstance(each, list | tuple) else each
        for each in arguments
    ]
