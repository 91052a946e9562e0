"""Analysis of a network's memory by section 3.1 of the FMEN paper, from a trace of its operations.

While a node of the network runs, memory contains its *input*, its *output*, tensors that later nodes read (*kept*), and
the network's *parameters*. The largest sum over the nodes is the peak. A chain of convolutions with C channels needs
2CHW; a concatenation of N features 2NCHW; FMEN 4CHW at the product in its attention block (the shallow features for the
last sum, the block's input, the attention map, the product).

Two refinements go beyond the paper's formula:

- An in-place operation needs no buffer for its output. ``saved_bytes`` is the size of the buffer that it saves.
- Python frees a tensor when its last reference is deleted, which may be long after its last use. ``held_bytes`` counts
  such tensors. The sum with them predicts the memory that PyTorch allocates.

The scratch memory inside a single operation, such as a convolution's copies in another layout, is not predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fmen_eval.meta import run_on_meta
from fmen_eval.tables import format_text

MIB = 2**20


@dataclass(frozen=True)
class NodeMemory:
    """The memory in bytes while one node runs. Views are not nodes, because they compute nothing.

    Attributes:
        name: Dotted name of the module that runs the operation; empty for the network itself.
        op: Name of the operation in PyTorch's dispatcher, e.g. ``"convolution"``, ``"sigmoid_"``; a trailing
            underscore marks in-place operations.
        input_bytes: Features that the node reads.
        output_bytes: Features that the node allocates; 0 for in-place operations.
        kept_bytes: Other features that a later node reads.
        parameter_bytes: Parameters and buffers of the whole network.
        held_bytes: Other features that no later node reads but a variable still refers to.
        saved_bytes: Size of the output buffer that an in-place operation saves.
    """

    name: str
    op: str
    input_bytes: int
    output_bytes: int
    kept_bytes: int
    parameter_bytes: int
    held_bytes: int
    saved_bytes: int

    @property
    def total(self) -> int:
        """Sum of input, output, kept and parameters, as in the paper."""
        return self.input_bytes + self.output_bytes + self.kept_bytes + self.parameter_bytes

    @property
    def total_held(self) -> int:
        """The paper's sum plus the tensors that are unused but still referenced."""
        return self.total + self.held_bytes

    @property
    def total_out_of_place(self) -> int:
        """The paper's sum for an operation that is not in place."""
        return self.total + self.saved_bytes

    def __str__(self) -> str:
        return f"{self.name}: {self.op}" if self.name else self.op


@dataclass(frozen=True)
class MemoryReport:
    """The memory at every node of a forward pass, in the order in which they run.

    Among nodes of equal memory the last one is the peak.
    """

    nodes: tuple[NodeMemory, ...]

    @property
    def peak(self) -> NodeMemory:
        """The node with the largest sum, as in the paper."""
        return self._fullest(lambda node: node.total)

    @property
    def peak_held(self) -> NodeMemory:
        """The node with the largest ``total_held``, which predicts the measured peak."""
        return self._fullest(lambda node: node.total_held)

    @property
    def peak_out_of_place(self) -> NodeMemory:
        """The node with the largest sum without in-place operations."""
        return self._fullest(lambda node: node.total_out_of_place)

    def table(self) -> str:
        """Format the nodes as a text table in MiB; ``>`` marks ``peak``, ``*`` marks ``peak_held``."""
        rows = [["  node", "input", "output", "kept", "params", "total", "held", "in place saves"]]
        for node in self.nodes:
            marks = (">" if node is self.peak else " ") + ("*" if node is self.peak_held else " ")
            sizes = [node.input_bytes, node.output_bytes, node.kept_bytes, node.parameter_bytes, node.total]
            sizes += [node.held_bytes, node.saved_bytes]
            rows.append([f"{marks}{node}", *(f"{size / MIB:.2f}" for size in sizes)])
        return format_text(rows, head=False)

    def _fullest(self, size: Callable[[NodeMemory], int]) -> NodeMemory:
        return max(reversed(self.nodes), key=size)


def analyse(module: nn.Module, lr_size: tuple[int, int] = (256, 256)) -> MemoryReport:
    """Predict the memory of a network's forward pass on one LR image. The network is not changed.

    Args:
        module: Maps RGB ``(1, 3, H, W)`` to the SR image; a copy in eval mode is analysed, without gradients.
        lr_size: ``(H, W)`` of the LR image.

    Raises:
        EvaluationError: The network cannot take an image of this size.
    """
    return run_on_meta(module, lr_size, _trace)


@dataclass
class _Buffer:
    """One allocation, which several tensors may share as views."""

    size: int
    reference: StorageWeakRef
    last_read: int = -1

    def is_alive(self) -> bool:
        return not self.reference.expired()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Operation:
    """One node of the trace, with its buffers by their keys."""

    name: str
    op: str
    inputs: frozenset[int]
    outputs: frozenset[int]
    alive: frozenset[int]
    saved_bytes: int


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every dispatched operation with the buffers that are alive when it runs."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        weights = (*network.parameters(), *network.buffers())
        # Weak references: a buffer's key is not reused while one exists, and the buffer can be freed.
        self.weights = {_weak_reference(tensor) for tensor in weights}
        self.buffers: dict[int, _Buffer] = {}
        self.operations: list[_Operation] = []
        self.modules: list[str] = []
        self._key(image)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        alive = frozenset(key for key, buffer in self.buffers.items() if buffer.is_alive())
        result = func(*args, **(kwargs or {}))
        inputs = self.keys((args, kwargs))
        touched = self.keys(result)
        index = len(self.operations)
        for key in inputs | touched:
            self.buffers[key].last_read = index
        written = touched & inputs if func._schema.is_mutable else frozenset()
        if touched <= inputs and not written:
            return result  # a view
        saved = sum(tensor.nbytes for tensor in tree_leaves(result) if isinstance(tensor, Tensor)) if written else 0
        name = self.modules[-1] if self.modules else ""
        op = func._schema.name.split("::")[-1]
        self.operations.append(_Operation(name, op, inputs, touched - inputs, alive, saved))
        return result

    def keys(self, tree: Any) -> frozenset[int]:
        tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
        return frozenset(key for key in map(self._key, tensors) if key is not None)

    def _key(self, tensor: Tensor) -> int | None:
        """Return the key of a tensor's buffer, which is registered if it is new; None for parameters."""
        reference = _weak_reference(tensor)
        if reference in self.weights:
            return None
        self.buffers.setdefault(reference.cdata, _Buffer(tensor.untyped_storage().nbytes(), reference))
        return int(reference.cdata)


def _weak_reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _trace(network: nn.Module, image: Tensor) -> MemoryReport:
    tracer = _Tracer(network, image)
    with _named_modules(network, tracer.modules), tracer:
        result = network(image)
    for key in tracer.keys(result):
        tracer.buffers[key].last_read = len(tracer.operations)  # the caller reads the result
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    operations = enumerate(tracer.operations)
    return MemoryReport(tuple(_node(index, operation, tracer.buffers, weights) for index, operation in operations))


def _node(index: int, operation: _Operation, buffers: dict[int, _Buffer], weights: int) -> NodeMemory:
    others = operation.alive - operation.inputs
    kept = {key for key in others if buffers[key].last_read > index}

    def size(keys: Iterable[int]) -> int:
        return sum(buffers[key].size for key in keys)

    return NodeMemory(
        name=operation.name,
        op=operation.op,
        input_bytes=size(operation.inputs),
        output_bytes=size(operation.outputs),
        kept_bytes=size(kept),
        parameter_bytes=weights,
        held_bytes=size(others - kept),
        saved_bytes=operation.saved_bytes,
    )


@contextmanager
def _named_modules(network: nn.Module, stack: list[str]) -> Iterator[None]:
    """Maintain a stack of the dotted names of the running modules, the innermost last."""
    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(partial(_push, stack, name)))
        handles.append(module.register_forward_hook(partial(_pop, stack)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _push(stack: list[str], name: str, _module: nn.Module, _inputs: object) -> None:
    stack.append(name)


def _pop(stack: list[str], _module: nn.Module, _inputs: object, _output: object) -> None:
    stack.pop()
