"""Convert networks for other libraries that run them."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from fmen_core.errors import ModelError

if TYPE_CHECKING:
    import openvino

REQUIRED_PACKAGES = {"openvino": ("openvino",)}
"""Packages that a backend requires; they are those of its extra."""

TRACED_SIZE = (2, 3, 32, 40)
"""Shape of the input that a network is traced with; its batch, height and width become variable."""


def check_installed(backend: str) -> None:
    """Raise a ModelError if a package that a backend requires is not installed."""
    missing = [name for name in REQUIRED_PACKAGES.get(backend, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"the backend {backend} needs {' and '.join(missing)}: pip install 'fmen[{backend}]'")


def to_openvino(model: nn.Module) -> openvino.Model:
    """Convert a network to an OpenVINO model with the input ``lr``, ``(batch, 3, height, width)``, and output ``sr``.

    Args:
        model: A network in its inference form, in float32 and on the CPU. Its weights are shared, not copied.

    Raises:
        ModelError: OpenVINO is not installed.
    """
    check_installed("openvino")
    import openvino

    with torch.no_grad(), messages_suppressed():
        traced = torch.jit.trace(model, torch.zeros(TRACED_SIZE), check_trace=False)  # type: ignore[no-untyped-call]
        converted = openvino.convert_model(traced, input=[-1, 3, -1, -1])
    converted.inputs[0].get_tensor().set_names({"lr"})
    converted.outputs[0].get_tensor().set_names({"sr"})
    return converted


@contextmanager
def messages_suppressed() -> Iterator[None]:
    """Suppress messages for developers of converters: deprecations, and Python numbers that are traced as constants."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
