"""A training step as one CUDA graph.

A step of FMEN-S consists of more than 1,000 kernels, which a CPU launches more slowly than a GPU runs them. A graph
launches them at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARMUP = 3
"""Calls before the capture, in which cuDNN chooses its algorithms and the optimizer allocates its moments."""


class CudaGraph:
    """Calls a function of CUDA tensors: the first three times as it is, then as a replayed CUDA graph.

    The function must not synchronise with the device. It may change tensors in place, but everything else that it reads
    stays as it was at the capture; ``make_capturable`` turns the numbers of an optimizer into tensors. Inputs of other
    shapes start over with another graph.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
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
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.result = function(*self.inputs)
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


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move the learning rate and the count of steps of an optimizer to the device, so that a graph reads them there."""
    for group in optimizer.param_groups:
        for key in {"lr", "steps"} & group.keys():
            group[key] = torch.tensor(float(group[key]), device=device)
        if "capturable" in group:
            group["capturable"] = True
    for moments in optimizer.state.values():
        if "step" in moments:
            moments["step"] = moments["step"].to(device)


def make_plain(optimizer: torch.optim.Optimizer) -> None:
    """Undo ``make_capturable``: a checkpoint of a GPU can be continued without a graph."""
    for group in optimizer.param_groups:
        group.update({key: value.item() for key, value in group.items() if isinstance(value, Tensor)})
        if "capturable" in group:
            group["capturable"] = False


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
