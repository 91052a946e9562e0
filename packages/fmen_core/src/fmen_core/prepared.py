"""Prepare a network for a precision and a backend."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fmen_core.backends import Forward, compiled
from fmen_core.channels import pad_for_gpu
from fmen_core.cuda_graph import GraphBySize
from fmen_core.errors import ModelError
from fmen_core.precision import convert


@dataclass(frozen=True)
class Prepared:
    """A network in one precision.

    Attributes:
        model: The network in PyTorch. It takes and returns float32 images; in fp32 if another backend runs it.
        run: What is called for an image: the model, or its conversion for another backend.
        graphs: The same as CUDA graphs, which are captured when it is called.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``.
        fallbacks: The precisions that are tried next if an output is not finite.
    """

    model: nn.Module
    run: Forward
    graphs: GraphBySize
    precision: str
    fallbacks: tuple[str, ...]


def prepare(
    network: nn.Module,
    device: torch.device,
    precisions: Sequence[str],
    backend: str,
    memory_format: torch.memory_format,
) -> Prepared:
    """Convert a copy of a network to the first precision that it can be computed in.

    Args:
        network: The network in its inference form, in float32, on ``device``.
        device: The device.
        precisions: The precisions, of which the remaining ones are the fallbacks.
        backend: ``"torch"``, or another backend that supports the precisions.
        memory_format: Of the weights in PyTorch.

    Raises:
        ModelError: It cannot be computed in any of them, or the backend cannot run it.
    """
    precision, *others = precisions
    if backend != "torch":
        run = compiled(network, backend, precision)
        return Prepared(network, run, GraphBySize(run), precision, tuple(others))
    model = copy.deepcopy(network)
    pad_for_gpu(model, device, precision)
    try:
        convert(model, precision)
    except ModelError:
        if not others:
            raise
        return prepare(network, device, others, backend, memory_format)
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
    return Prepared(model, model, GraphBySize(model), precision, tuple(others))
