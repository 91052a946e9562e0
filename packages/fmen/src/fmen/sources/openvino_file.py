"""Run a network from an OpenVINO file of ``fmen export``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmen.sources.networks import Note, load_network
from fmen_core import ModelError, Upscaler, WeightsError
from fmen_core.backends import Compiled, start_openvino
from fmen_core.precision import has_bf16
from fmen_core.tiling import Tiling, needed_bytes, receptive_radius

SECTION = "fmen"
"""The section of an OpenVINO file's metadata with the entries of ``fmen export``."""


class OpenVINONetwork(nn.Module):
    """A network in an OpenVINO file, called as any other network. It runs on the CPU and has no parameters.

    Attributes:
        name: The network's name.
        scale: Upscaling factor.
        data_range: The value of white.
        arithmetic: The number formats of the convolutions, as in ``"int8 and bf16"``.
        tiling: What an ``Upscaler`` has to know, since it cannot be measured on this form of a network.

    Args:
        path: The file that ends in ``.xml``.
        weights: The file with the weights. None for the one beside ``path`` that ends in ``.bin``.
        precision: ``"fp32"`` or ``"bf16"``, for what is not in int8. None for bf16 on processors with instructions for
            it.

    Raises:
        WeightsError: OpenVINO is not installed, or the file is not one of ``fmen export``.
    """

    def __init__(self, path: Path, weights: Path | None = None, precision: str | None = None) -> None:
        super().__init__()
        if importlib.util.find_spec("openvino") is None:
            raise WeightsError(f"{path}: this format needs openvino: pip install 'fmen[openvino]'")
        weights = weights or path.with_suffix(".bin")
        for file in (path, weights):
            if not file.is_file():
                raise WeightsError(f"{file}: no such file; a network for OpenVINO is a pair of .xml and .bin")
        self._open(path, path.read_bytes(), weights.read_bytes(), precision)

    def _open(self, path: Path, xml: bytes, weights: bytes, precision: str | None) -> None:
        import openvino

        self._content = path, xml, weights, precision
        try:
            model = openvino.Core().read_model(xml, weights)
            entries: dict[str, str] = model.get_rt_info([SECTION]).value
            self.name, self.scale, self.data_range = (
                entries["name"],
                int(entries["scale"]),
                float(entries["data_range"]),
            )
            radius = entries["radius"]
            self.tiling = Tiling(int(radius) if radius else None, float(entries["bytes_per_pixel"]))
        except (RuntimeError, LookupError, ValueError):  # damage of any kind
            raise WeightsError(f"{path}: not an OpenVINO file of fmen export, or a damaged one") from None
        precision = precision or ("bf16" if has_bf16(torch.device("cpu")) else "fp32")
        quantized = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
        self.arithmetic = f"int8 and {precision}" if quantized else precision
        self._run = Compiled(partial(start_openvino(model), precision))

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
        return self._run(x.cpu()).to(x.device)

    def __reduce__(self) -> tuple[Callable[..., OpenVINONetwork], tuple[Any, ...]]:
        """Pickle the network as the content of its files."""
        return _unpickle, self._content

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINONetwork:
        """Return the network itself, which does not change."""
        return self


def _unpickle(*content: Any) -> OpenVINONetwork:
    network = OpenVINONetwork.__new__(OpenVINONetwork)
    nn.Module.__init__(network)
    network._open(*content)
    return network


def runnable_network(weights: Path, model: str | None = None, *, note: Note = lambda line: None) -> nn.Module:
    """Return a network to run: from a file for OpenVINO, or as :func:`fmen.sources.networks.load_network` does."""
    return OpenVINONetwork(weights) if weights.suffix == ".xml" else load_network(weights, model, note=note)


def upscaler_for(network: nn.Module, **options: Any) -> Upscaler:
    """Return the upscaler of a network to run; one in an OpenVINO file has its own device and number formats.

    Args:
        network: From :func:`runnable_network`.
        options: The arguments of ``Upscaler``.

    Raises:
        ModelError: As ``Upscaler``, or an option contradicts the file.
    """
    if isinstance(network, OpenVINONetwork):
        for name, fitting in (("device", "cpu"), ("backend", "openvino")):
            if options.get(name, "auto") not in ("auto", fitting):
                raise ModelError(
                    f"--{name} {options[name]}: a network for OpenVINO runs with {fitting} alone; leave it out"
                )
        options |= {"device": "cpu", "precision": "fp32", "backend": "auto"}
    return Upscaler(network, **options)


def tiling_metadata(network: nn.Module) -> dict[str, str]:
    """Return the entries of the metadata about tiling for a network in its inference form, in PyTorch."""
    radius = receptive_radius(network)
    return {"radius": "" if radius is None else str(radius), "bytes_per_pixel": f"{needed_bytes(network):.0f}"}
