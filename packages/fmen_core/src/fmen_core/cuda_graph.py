"""CUDA graphs: a GPU launches all kernels of a function at once, where a CPU launches them one by one.

A training step of FMEN-S consists of more than 1,000 kernels, a forward pass of 100. A CPU launches those of a small
image more slowly than a GPU runs them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

WARMUP = 3
"""Calls before the capture, in which cuDNN chooses its algorithms and an optimizer allocates its moments."""

GRAPH_PIXELS = 2**18
"""Largest number of LR pixels of a captured forward pass. A graph holds its features in memory, and a larger image
keeps a GPU busy without one."""

MOST_GRAPHS = 4
"""Number of sizes of images whose graphs are held in memory."""


class CudaGraph:
    """Calls a function of CUDA tensors: the first three times as it is, then as a replayed CUDA graph.

    The function must not synchronise with the device. It may change tensors in place, but everything else that it reads
    stays as it was at the capture. Inputs of other shapes start over with another graph.
    """

    def __init__(self, stream: torch.cuda.Stream | None = None) -> None:
        self.stream = stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.shapes: list[torch.Size] = []
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.result = torch.empty(0)

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return ``function(*inputs)``; a later call overwrites the returned tensor."""
        shapes = [x.shape for x in inputs]
        if shapes != self.shapes:
            self.shapes, self.calls, self.graph = shapes, 0, None
        self.calls += 1
        if self.calls <= WARMUP:
            return self.eager(function, *inputs)
        if self.graph is None:
            self.inputs = [x.clone() for x in inputs]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self.result = function(*self.inputs)
            self.graph = graph  # not before: a capture that runs out of memory is repeated
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return self.result

    def eager(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Call the function on the stream of the capture."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function(*inputs)
        current.wait_stream(self.stream)
        return result


def may_capture(network: nn.Module, x: Tensor) -> bool:
    """Return whether a forward pass for images of the size of ``x`` may be captured.

    Networks of this package read nothing back from the device. A user's network may, which would end its capture.
    """
    known = type(network).__module__.startswith("fmen_core.")
    return x.device.type == "cuda" and known and x.shape[2:].numel() <= GRAPH_PIXELS


class GraphBySize:
    """Calls a network with images, as one CUDA graph for each of the last sizes.

    Several threads may call it on one stream, such as the default one.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network
        self.graphs: OrderedDict[torch.Size, CudaGraph] = OrderedDict()
        self.stream: torch.cuda.Stream | None = None
        self.lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``network(x)``, for an image ``(1, 3, H, W)``."""
        with self.lock, torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            graph = self.graphs.pop(x.shape, None) or CudaGraph(self.stream)
            self.graphs[x.shape], self.stream = graph, graph.stream
            if len(self.graphs) > MOST_GRAPHS:
                self.graphs.popitem(last=False)
            return graph(self.network, x).clone()
