"""Describe a network to the rest of the software: how to build it, and how to recognise its weights.

A network reads the few sizes that can vary from the shapes in a state dict. It is then built on the meta device, and
matches only if every key and every shape agree. A file is therefore never taken for a network that cannot load it.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fmen_core.errors import ModelError

StateDict = Mapping[str, Tensor]
"""Tensors by parameter name, as ``nn.Module.state_dict`` returns them."""

Form = Literal["training", "inference"]

Network = TypeVar("Network", bound=nn.Module)


@runtime_checkable
class SRModel(Protocol):
    """A super-resolution network.

    It maps RGB ``(N, 3, H, W)`` in ``[0, data_range]`` to ``(N, 3, scale*H, scale*W)`` in the same range.
    """

    scale: int
    data_range: float

    def __call__(self, x: Tensor, /) -> Tensor:
        """Upscale a batch."""


@dataclass(frozen=True)
class Architecture:
    """A network: its description, its constructors, and how its weights are recognised.

    Attributes:
        name: The name that ``create_model`` takes, e.g. ``"imdn-baseline"``.
        title: The name in tables, e.g. ``"IMDN (baseline)"``.
        paper: The publication and the team.
        data_range: The value of white at the network's input and output: 1.0 or 255.0.
        scales: The scales for which the network is defined.
        inference: Constructor of the inference form, ``inference(scale=4, **sizes)``.
        read_sizes: Reads the arguments of ``build`` from the shapes in a state dict; None or 0
            stands for an absent tensor.
        training: Constructor of the training form; None if the network has a single form.
        defaults: Sizes that differ from the defaults of the constructors.
        hidden_sizes: Names of sizes that change no shape. They are read from the metadata of a weights file.
        min_size: The smallest height and width of an input.
        tileable: Whether an image can be processed in overlapping tiles: every output pixel depends on a bounded
            neighbourhood.
    """

    name: str
    title: str
    paper: str
    data_range: float
    scales: tuple[int, ...]
    inference: Callable[..., nn.Module]
    read_sizes: Callable[[StateDict], dict[str, Any]]
    training: Callable[..., nn.Module] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    hidden_sizes: tuple[str, ...] = ()
    min_size: int = 1
    tileable: bool = True

    def build(self, scale: int = 4, *, form: Form = "training", **sizes: Any) -> nn.Module:
        """Build a freshly initialised network.

        Args:
            scale: Upscaling factor.
            form: For a network with a single form, both values give that form.
            sizes: Sizes that differ from the published ones, by the names of the constructor's parameters.

        Returns:
            The network, with the attributes ``name``, ``scale``, ``data_range`` and ``sizes``. The last one is a
            dictionary of all sizes, such that ``build(scale, form=form, **sizes)`` has the same shapes.

        Raises:
            ModelError: The network is not defined for this scale or these sizes, or has no such form.
        """
        self.check(scale, form)
        constructor = self.inference if form == "inference" or self.training is None else self.training
        signature = inspect.signature(constructor)
        known = [name for name in signature.parameters if name != "scale"]
        if unknown := [name for name in sizes if name not in known]:
            raise ModelError(f"{self.name} has no size called {unknown[0]!r}; its sizes are {', '.join(known)}")
        sizes = {name: size_of(value) for name, value in sizes.items()}
        bound = signature.bind(scale=int(scale), **{**self.defaults, **sizes})
        bound.apply_defaults()
        for name, value in sizes.items():
            default = signature.parameters[name].default
            if type(default) is int and (type(value) is not int or value < 1):
                raise ModelError(f"{self.name}: {name} is {value!r}; give an integer of at least 1")
            if isinstance(default, tuple) and isinstance(value, tuple) and any(x < 0 for x in value if type(x) is int):
                raise ModelError(f"{self.name}: {name} is {value!r}; give integers of at least 0")
        try:
            model = constructor(**bound.arguments)
        except ValueError as error:
            raise ModelError(f"{self.name}: {error}") from error
        except (TypeError, RuntimeError, IndexError, OverflowError, ZeroDivisionError) as error:
            if not sizes:
                raise
            reason = str(error).partition("\n")[0]
            raise ModelError(f"{self.name} cannot be built with {sizes}: {reason}; check the sizes") from error
        setattr(model, "sizes", {name: value for name, value in bound.arguments.items() if name != "scale"})  # noqa: B010
        return model

    def check(self, scale: int, form: str) -> None:
        """Raise a ModelError if the network is not defined for this scale, or if there is no such form."""
        if not isinstance(scale, Integral) or isinstance(scale, bool) or scale not in self.scales:
            scales = ", ".join(map(str, self.scales))
            raise ModelError(f"{self.name} is not defined for scale {scale!r}; choose one of {scales}")
        if form not in ("training", "inference"):
            raise ModelError(f"there is no form {form!r}; choose training or inference")

    def detect(self, state: StateDict) -> dict[str, Any] | None:
        """Return the arguments of ``build`` that reproduce ``state``, or None if it belongs to another network."""
        arguments = self.read_sizes(state)
        if not all(arguments.values()):
            return None
        expected = self.expected_shapes(arguments)
        return arguments if expected == {key: value.shape for key, value in state.items()} else None

    def expected_shapes(self, arguments: Mapping[str, Any]) -> dict[str, torch.Size]:
        """Return the shapes in the state dict of ``build(**arguments)``; empty if there is no such network.

        The network is built on the meta device, without memory for its tensors.
        """
        try:
            with torch.device("meta"):
                return {key: value.shape for key, value in self.build(**arguments).state_dict().items()}
        except (ModelError, RuntimeError):
            return {}


def size_of(value: Any) -> Any:
    """Return a size as ``build`` records it: lists and arrays as tuples, NumPy's integers as ``int``."""
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(map(size_of, value))
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def out_channels(state: StateDict, key: str) -> int | None:
    """Return the output channels of the convolution weight ``key``, or None if there is no such weight."""
    weight = state.get(key)
    return weight.shape[0] if weight is not None and weight.dim() == 4 else None


def shuffle_scale(state: StateDict, key: str) -> int | None:
    """Return the scale of the sub-pixel convolution ``key``, which has ``3 * scale**2`` outputs; otherwise None."""
    channels = out_channels(state, key) or 0
    scale = math.isqrt(channels // 3)
    return scale if scale and channels == 3 * scale**2 else None


def count(state: StateDict, pattern: str) -> int:
    """Return the number of keys that match the whole regular expression ``pattern``."""
    return sum(re.fullmatch(pattern, key) is not None for key in state)


def copy_of(model: Network) -> Network:
    """Return a deep copy, also of a network that holds results of its last forward pass.

    Old-style weight normalization and networks that store their features do. ``copy.deepcopy`` refuses such tensors.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    tensors = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in tensors})


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside PyTorch's wrappers, in any order.

    They are ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and ``AveragedModel``.
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def sr_model(model: nn.Module) -> SRModel:
    """Return ``model``, without wrappers, as an :class:`SRModel`.

    Raises:
        ModelError: It lacks ``scale`` or ``data_range``, or one of them has another type.
    """
    network = unwrap(model)
    scale, data_range = getattr(network, "scale", None), getattr(network, "data_range", None)
    if not isinstance(scale, int) or not isinstance(data_range, float):
        raise ModelError(f"{type(network).__name__} needs the attributes scale (an int) and data_range (1.0 or 255.0)")
    return cast(SRModel, network)
