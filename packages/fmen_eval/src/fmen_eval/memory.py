"""Where a network's memory goes: the analysis of section 3.1 of the FMEN paper, made from a trace.

While a node of the network runs, memory holds its *input*, its *output*, what was computed before and is still needed
later (*kept*), and the network's *parameters*. The fullest node sets the peak. So a plain chain of convolutions with C
channels needs 2CHW; a concatenation of N features 2NCHW; FMEN 4CHW at the product in its attention block (the shallow
features for the last sum, the block's input, the attention map, the product).

Two refinements that the formula on paper does not have:

- An operation that works in place needs no buffer for its output. ``saved_bytes`` says what it would have needed.
- Python releases a tensor when the last variable that refers to it goes away, which may be long after its last use.
  ``held_bytes`` counts those tensors; with them the prediction is what PyTorch takes, without them what it has to.

Not predicted is the scratch space inside a single operation, such as a convolution's copies in another layout.
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

from fmen_eval.meta import dry_run

MIB = 2**20


@dataclass(frozen=True)
class NodeMemory:
    """The memory while one node runs, all in bytes; views are no nodes, for they compute nothing.

    Attributes:
        name: Dotted name of the module that runs the operation; empty for the network itself.
        op: The operation as PyTorch's dispatcher calls it, e.g. ``"convolution"``, ``"sigmoid_"``; a trailing
            underscore marks in-place operations.
        input_bytes: Features that it reads.
        output_bytes: Features that it newly allocates; 0 in place.
        kept_bytes: Other features that a later node reads.
        parameter_bytes: Parameters and buffers of the whole network.
        held_bytes: Other features that nothing reads any more, but that some variable still refers to.
        saved_bytes: What an in-place operation would allocate otherwise.
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
        """The paper's sum: input, output, kept and parameters."""
        return self.input_bytes + self.output_bytes + self.kept_bytes + self.parameter_bytes

    @property
    def total_held(self) -> int:
        """With what Python still refers to."""
        return self.total + self.held_bytes

    @property
    def total_out_of_place(self) -> int:
        """The paper's sum, were the node not in place."""
        return self.total + self.saved_bytes

    def __str__(self) -> str:
        return f"{self.name}: {self.op}" if self.name else self.op


@dataclass(frozen=True)
class MemoryReport:
    """The memory at every node of a forward pass, in the order in which they run.

    Of equally full nodes the last one counts as the peak.
    """

    nodes: tuple[NodeMemory, ...]

    @property
    def peak(self) -> NodeMemory:
        """The fullest node by the paper's sum."""
        return self._fullest(lambda node: node.total)

    @property
    def peak_held(self) -> NodeMemory:
        """The fullest node as PyTorch runs the network; its ``total_held`` is to be compared with a measured peak."""
        return self._fullest(lambda node: node.total_held)

    @property
    def peak_out_of_place(self) -> NodeMemory:
        """The fullest node by the paper's sum, were no operation in place."""
        return self._fullest(lambda node: node.total_out_of_place)

    def table(self) -> str:
        """A text table in MiB; ``>`` marks the peak, ``*`` the peak with what Python holds."""
        columns = ("input", "output", "kept", "params", "total", "held", "in place saves")
        width = max(len(str(node)) for node in self.nodes)
        lines = ["  " + "  ".join([f"{'node':<{width}}", *(f"{column:>8}" for column in columns)])]
        for node in self.nodes:
            sizes = (
                node.input_bytes,
                node.output_bytes,
                node.kept_bytes,
                node.parameter_bytes,
                node.total,
                node.held_bytes,
                node.saved_bytes,
            )
            marks = (">" if node is self.peak else " ") + ("*" if node is self.peak_held else " ")
            cells = (f"{size / MIB:>{max(8, len(column))}.2f}" for size, column in zip(sizes, columns, strict=True))
            lines.append(marks + "  ".join([f"{node!s:<{width}}", *cells]))
        return "\n".join(lines)

    def _fullest(self, size: Callable[[NodeMemory], int]) -> NodeMemory:
        return max(reversed(self.nodes), key=size)


def analyse(module: nn.Module, lr_size: tuple[int, int] = (256, 256)) -> MemoryReport:
    """Predict the memory of a network's forward pass on one LR image; the network itself is left untouched.

    Args:
        module: Maps RGB ``(1, 3, H, W)`` to the SR image; analysed in eval mode, without gradients.
        lr_size: ``(H, W)`` of the LR image.

    Raises:
        ValueError: The network cannot take an image of this size.
    """
    return dry_run(module, lr_size, _trace)


@dataclass
class _Buffer:
    """One allocation; several tensors may be views of it."""

    size: int
    reference: StorageWeakRef
    last_read: int = -1

    def is_alive(self) -> bool:
        return not self.reference.expired()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Operation:
    """What the trace notes of one node: buffers by their keys."""

    name: str
    op: str
    inputs: frozenset[int]
    outputs: frozenset[int]
    alive: frozenset[int]
    saved_bytes: int


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation below the level of modules and functions, with the buffers alive at that moment."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        weights = (*network.parameters(), *network.buffers())
        # Weak references: a buffer's key is not used again as long as there is one, and keeps nothing alive.
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
        """The key of a tensor's buffer, which is noted if it is new; None for parameters."""
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
    """Keep the dotted names of the modules that are running on the stack, the innermost last."""
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
