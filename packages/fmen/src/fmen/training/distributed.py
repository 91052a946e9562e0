"""The processes of a distributed run, as ``torchrun`` describes them in the environment.

A run of one process is rank 0 of 1; every function here then returns at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: Index of this process in the run.
        size: Number of processes.
        local_rank: Index of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process validates, logs and writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether ``flag`` is true in any process; all processes must call it."""
        if self.size == 1:
            return flag
        total = torch.tensor(float(flag), device=device)
        dist.all_reduce(total)
        return bool(total.item() > 0)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one message."""
        each = list(tensors)
        if self.size == 1 or not each:
            return
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in each])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(each, torch.split(flat, [tensor.numel() for tensor in each]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def average_gradients(processes: Processes, model: nn.Module) -> None:
    """Average gradients and BatchNorm statistics, so that every process takes the same step."""
    processes.average(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    processes.average(buffer for buffer in model.buffers() if buffer.is_floating_point())


@contextmanager
def join(device: str) -> Iterator[Processes]:
    """Join the run that ``torchrun`` started, or be its only process.

    Args:
        device: ``"cuda"`` communicates over NCCL, ``"cpu"`` over gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
