"""Copies between the host and a device, which a GPU makes while it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


class Copies:
    """Copies in one direction. On a GPU they have a stream of their own and go through pinned memory.

    Work is on the device's current stream. PyTorch's allocators reuse memory in the order of one stream, hence
    ``record_stream``; they wait by themselves for copies from and to pinned memory.

    Attributes:
        ahead: Number of results that are to be computed while one is downloaded.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.ahead = 0 if self.stream is None else 1

    def upload(self, host: Tensor) -> Tensor:
        """Return a copy on the device, for later work. Earlier work may still be running while it is made."""
        if self.stream is None:
            return host.to(self.device)
        work = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            copy = host.pin_memory().to(self.device, non_blocking=True)
        work.wait_stream(self.stream)
        copy.record_stream(work)
        return copy

    def download(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin a copy to the host of the result of earlier work; later work may run while it is made.

        Args:
            tensor: Must not be changed afterwards; on the CPU it is returned itself.

        Returns:
            A function that waits for the copy and returns it.
        """
        if self.stream is None:
            return tensor.cpu
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        tensor.record_stream(self.stream)
        done = self.stream.record_event()

        def wait() -> Tensor:
            done.synchronize()
            return copy

        return wait


def behind(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield items in order, each after ``count`` further ones have been made."""
    made: deque[Item] = deque()
    for item in items:
        made.append(item)
        if len(made) > count:
            yield made.popleft()
    yield from made
