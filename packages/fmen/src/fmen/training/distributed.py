"""The processes of a distributed run, as ``torchrun`` describes them in the environment.

DistributedDataParallel averages the gradients. This module connects the processes, lets the first one decide for all,
exchanges signals, and ends the run if one process fails.

In a run of one process, every function here returns at once.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from fmen.sources.runs import RunError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""The longest time that a process waits for another one that is alive."""

HEARTBEAT = 1.0
"""Seconds between two checks that all processes are alive."""

POLL = 0.2
"""Seconds between two looks at what another process does."""


@dataclass
class Processes:
    """This process among those of the run.

    Attributes:
        rank: Index of this process in the run.
        size: Number of processes.
        local_rank: Index of this process on its node.
        store: The run's key-value store; None in a run of one process.
        done: Set at the end of the run, and when this process has failed.
        heartbeat: The thread that watches the others.
        turns: Number of calls of ``first_on_node``.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Store | None = None
    done: threading.Event = field(default_factory=threading.Event)
    heartbeat: threading.Thread | None = None
    turns: int = 0
    sent: dict[str, Tensor] = field(default_factory=dict)
    """The last tensors that gloo's threads sent. To free them, a thread would wait for the GIL, which
    ``destroy_process_group`` holds while it waits for the thread."""

    @property
    def first(self) -> bool:
        """Whether this process logs and writes files."""
        return self.rank == 0

    def decide(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns in the first process; called once per run, before ``connect``."""
        if self.store is None:
            return make()
        if self.first:
            result = make()
            self.store.set("decision", pickle.dumps(result).hex())
            return result
        return cast(T, pickle.loads(bytes.fromhex(self.store.get("decision").decode())))

    def connect(self, device: torch.device) -> None:
        """Connect the processes: over NCCL for tensors on a GPU, over gloo for those on the CPU."""
        if self.store is None:
            return
        cuda = device.type == "cuda"
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=self.store,
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
            device_id=device if cuda else None,
        )
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.heartbeat = threading.Thread(target=self._watch, args=(group,), daemon=True)
        self.heartbeat.start()

    def first_on_node(self, prepare: Callable[[], T]) -> T:
        """Call ``prepare`` in one process per node first, then in the others; return when all processes have called it.

        Waiting processes poll, so that ``prepare`` may take longer than ``TIMEOUT``.
        """
        if self.store is None:
            return prepare()
        self.turns += 1
        node, ready = f"{self.turns} on the node of rank {self.rank - self.local_rank}", f"{self.turns} in all"
        while self.local_rank and not self.store.check([node]):
            time.sleep(POLL)
        result = prepare()
        if not self.local_rank:
            self.store.set(node, "done")
        self.store.add(ready, 1)
        while self.store.add(ready, 0) < self.size:
            time.sleep(POLL)
        return result

    def largest(self, number: float) -> float:
        """Return the largest ``number`` of all processes."""
        return self.vote(lambda: number)()

    def vote(self, number: Callable[[], float]) -> Callable[[], float]:
        """Start to exchange ``number()``, and return a function that waits for the largest one of all processes."""
        if self.size == 1:
            return number
        value = self.sent["vote"] = torch.tensor(number(), dtype=torch.float64)
        work = dist.all_reduce(value, dist.ReduceOp.MAX, async_op=True)
        assert work is not None

        def result() -> float:
            work.wait()
            return value.item()

        return result

    def average(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its mean over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size

    def add(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def share(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns in the first process, in all of them; after ``connect``."""
        values = [make() if self.first else None]
        if self.size > 1:
            dist.broadcast_object_list(values, 0)
        return cast(T, values[0])

    def _watch(self, group: dist.ProcessGroup) -> None:
        """Exchange messages until all processes are done; end this process if the connection to another one breaks."""
        try:
            finished = False
            while not finished:
                self.done.wait(HEARTBEAT)
                each = self.sent["heartbeat"] = torch.tensor(float(self.done.is_set()))
                dist.all_reduce(each, dist.ReduceOp.MIN, group=group)
                finished = bool(each)
        except RuntimeError:
            if not self.done.is_set():
                if self._claim():
                    print("error: another process of the run has ended; its messages say why", file=sys.stderr)
                if self.first:  # It may serve the store, which the others read until they end.
                    time.sleep(2 * HEARTBEAT)
                leave(1)

    def _claim(self) -> bool:
        """Return whether this process is the first one that reports a failure."""
        assert self.store is not None
        try:
            return bool(self.store.add("failures", 1) == 1)
        except RuntimeError:  # The process that serves the store has ended.
            return False

    def fail(self, error: BaseException) -> None:
        """End this process silently if another one has failed before.

        The others fail because of the first one, or in the same way as it.
        """
        if isinstance(error, RuntimeError):  # The heartbeat ends the process if the error is a broken connection.
            time.sleep(2 * HEARTBEAT)
        self.done.set()
        if not self._claim():
            time.sleep(HEARTBEAT)  # A launcher ends all processes after the first one has ended, which has to report.
            leave(1)

    def end(self) -> None:
        """Wait until all processes are done, and disconnect."""
        if self.heartbeat:
            self.done.set()
            self.heartbeat.join()
            dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End this process at once: Python's way waits for communication with processes that have ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def agree_on_prefix(store: Store, rank: int, size: int) -> str:
    """Return a prefix for the keys of these processes, the same in all of them.

    The store of ``torchrun`` has the keys of the processes that it has restarted. Its count of restarts would not do as
    a prefix, as it can differ between nodes. Every process therefore asks the first one under a key of its own.

    Raises:
        RunError: A process has not started within ``TIMEOUT``.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"question of {rank}", mine)
        prefix: str = store.get(f"answer to {mine}").decode()
        store.add(f"joined {prefix}", 1)
        return prefix
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while (joined := store.add(f"joined {mine}", 0)) < size - 1:
        if time.monotonic() > deadline:
            raise RunError(f"{size - 1 - joined} of {size} processes have not started within {TIMEOUT}")
        for other in range(1, size):
            if store.check([f"question of {other}"]):
                store.set(f"answer to {store.get(f'question of {other}').decode()}", mine)
        time.sleep(POLL)
    return mine


@contextmanager
def join() -> Iterator[Processes]:
    """Join the run that ``torchrun`` started, or be its only process.

    If a process fails, it alone reports the error, and all others end within seconds.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    store = PrefixStore(agree_on_prefix(store, rank, size), store)
    processes = Processes(rank, size, int(os.environ.get("LOCAL_RANK", "0")), store)
    try:
        yield processes
    except BaseException as error:
        processes.fail(error)
        raise
    processes.end()


def distribute(model: nn.Module, processes: Processes, device: torch.device, *, static_graph: bool) -> nn.Module:
    """Return ``model`` as one whose gradients are averaged over the processes, during the backward pass.

    Initial weights and buffers become those of the first process, whose BatchNorm buffers replace the others' before
    each forward pass.

    Args:
        model: The network on ``device``.
        processes: A single one gets the model itself.
        device: The device of this process.
        static_graph: Every step runs the same operations. PyTorch does not allow it together with ``no_sync``.
    """
    if processes.size == 1:
        return model
    # A 1x1 kernel in channels-last memory has two descriptions of the same strides.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, static_graph=static_graph)


def no_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which backward passes accumulate gradients and do not average them over the processes."""
    pause = getattr(network, "no_sync", nullcontext)
    return cast(AbstractContextManager[None], pause())
