"""The formats of ``fmen export``: write each, and open the file again for the comparison with PyTorch.

ONNX files use opset 18 and IR version 8: every ONNX Runtime since 1.14 reads them, including 1.17, which chaiNNer
installs.
"""

from __future__ import annotations

import copy
import importlib.metadata
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from fmen.sources.networks import load_strictly, save_network, user_module
from fmen.sources.openvino_file import SECTION, OpenVINONetwork
from fmen_core import load
from fmen_core.backends import OPSET, TRACED_SIZE, Forward, messages_suppressed, to_onnx, to_openvino
from fmen_core.checkpoint import CHALLENGE_NAMES, read_tensors

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "torchscript", "openvino", "safetensors", "pth", "pth-challenge"]

NETWORK_FORMATS = ("onnx", "torchscript", "openvino")
"""The formats that contain the network, not only its weights."""

FORMATS_BY_SUFFIX: dict[str, tuple[Format, ...]] = {
    ".onnx": ("onnx",),
    ".xml": ("openvino",),
    ".safetensors": ("safetensors",),
    ".pth": ("pth", "pth-challenge", "torchscript"),
    ".pt": ("pth", "pth-challenge", "torchscript"),
}
"""The formats that readers expect in files of a suffix."""

REQUIRED_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
"""Optional packages that a format requires; the extra of its name installs them."""

IR_VERSION = 8

METADATA_FILE = "fmen.json"
"""The extra file in a TorchScript archive with the properties that ONNX stores as metadata."""


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        content: Its content, in a few words.
        reader: The software that opened it again.
        run: The network as read from the file.
    """

    content: str
    reader: str
    run: Forward


def write_format(
    model: nn.Module, path: Path, file_format: Format, properties: Mapping[str, str], second: Path | None = None
) -> Written:
    """Write a network in inference form.

    Args:
        model: The network; one of ``fmen_core`` for formats that store weights only.
        path: File to write.
        file_format: The format.
        properties: Metadata, for the formats that store any.
        second: File for the constants, which ``"openvino"`` stores apart.

    Raises:
        torch.onnx.OnnxExporterError: The network cannot be exported to ONNX for every image size.
    """
    if file_format == "onnx":
        return write_onnx(model, path, properties)
    if file_format == "torchscript":
        return write_torchscript(model, path, properties)
    if file_format == "openvino":
        assert second is not None
        return write_openvino(model, path, second, properties)
    if file_format == "safetensors":
        save_network(model, path, recipe=properties.get("recipe", ""))
        return Written("safetensors", "fmen_core.load", read_again(model, path))
    names = CHALLENGE_NAMES if file_format == "pth-challenge" else {}
    buffer = io.BytesIO()
    torch.save({published_name(key, names): value for key, value in model.state_dict().items()}, buffer)
    path.write_bytes(buffer.getvalue())
    return Written("a bare state dict", "fmen_core.load", read_again(model, path))


def read_again(model: nn.Module, path: Path) -> nn.Module:
    """Return the network with the weights in ``path``; a user's network is copied instead of recognised."""
    if user_module(model) is None:
        return load(path)
    return load_strictly(copy.deepcopy(model), read_tensors(path), f"{path}: does not fit {user_module(model)}")


def published_name(key: str, challenge_names: Mapping[str, str]) -> str:
    """Return a parameter's name in the layout whose prefixes ``challenge_names`` maps to this project's."""
    for published, own in challenge_names.items():
        if key.startswith(own):
            return published + key.removeprefix(own)
    return key


def write_onnx(model: nn.Module, path: Path, properties: Mapping[str, str]) -> Written:
    """Write ONNX with input ``lr``, ``(batch, 3, height, width)``, and output ``sr``; both are float32."""
    import onnx

    proto: ModelProto = to_onnx(model)
    drop_traces(proto)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "fmen", importlib.metadata.version("fmen")
    onnx.helper.set_model_props(proto, dict(properties))
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return Written(f"ONNX (opset {OPSET}), lr to sr{interface(properties)}", *open_onnx(path))


def drop_traces(proto: ModelProto) -> None:
    """Remove the exporter's stack traces: a tenth of the file, with paths of this machine."""
    graph = proto.graph
    graph.ClearField("value_info")  # readers infer it
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")


def open_onnx(path: Path) -> tuple[str, Forward]:
    """Open a file with ONNX Runtime on the CPU; returns the name with version, and the network."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["sr"], {"lr": x.numpy()})[0])

    return f"ONNX Runtime {onnxruntime.__version__}", run


def write_torchscript(model: nn.Module, path: Path, properties: Mapping[str, str]) -> Written:
    """Write TorchScript, by tracing."""
    buffer = io.BytesIO()
    with messages_suppressed(), torch.no_grad():
        traced = torch.jit.trace(model, torch.zeros(TRACED_SIZE), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={METADATA_FILE: json.dumps(dict(properties))})
        path.write_bytes(buffer.getvalue())
        run: Forward = torch.jit.load(path, "cpu")  # type: ignore[no-untyped-call]
    return Written(f"TorchScript{interface(properties)}", "torch.jit.load", run)


def write_openvino(model: nn.Module, path: Path, weights: Path, properties: Mapping[str, str]) -> Written:
    """Write OpenVINO's format: the operations to ``path`` and the constants to ``weights``."""
    import openvino

    converted = to_openvino(model)
    for name, value in properties.items():
        converted.set_rt_info(value, [SECTION, name])
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.xml"
        openvino.save_model(converted, saved, compress_to_fp16=False)
        path.write_bytes(saved.read_bytes())
        weights.write_bytes(saved.with_suffix(".bin").read_bytes())
    reader = f"OpenVINO {openvino.__version__.partition('-')[0]}"
    return Written(f"OpenVINO IR, lr to sr{interface(properties)}", reader, OpenVINONetwork(path, weights, "fp32"))


def interface(properties: Mapping[str, str]) -> str:
    """Describe input and output in a few words."""
    return f": any batch, height and width, {properties['channels']} from 0 to {properties['data_range']}"
