"""The formats of ``fmen export``: how each is written, and how it is read again for the comparison.

ONNX files follow opset 18, the oldest that PyTorch's exporter writes without a conversion, and IR version 8, which is
of the same age: every ONNX Runtime since 1.14 reads them, the 1.17 that chaiNNer brings along included.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn

from fmen_core import load, save
from fmen_core.checkpoint import CHALLENGE_NAMES

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "torchscript", "safetensors", "pth", "pth-challenge"]
Run: TypeAlias = Callable[[Tensor], Tensor]

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages beyond the application's own that a format needs."""

OPSET, IR_VERSION = 18, 8
TRACED_SIZE = (2, 3, 32, 40)
"""The input that a network is recorded with: no dimension is 1, which exporters take for fixed."""

METADATA_FILE = "fmen.json"
"""The extra file inside a TorchScript archive that holds what in ONNX is the model's metadata."""


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        content: What it holds, in a few words.
        reader: What reads it here.
        run: The function that it holds, as read from the file.
    """

    content: str
    reader: str
    run: Run


def write(model: nn.Module, path: Path, file_format: Format, properties: Mapping[str, str]) -> Written:
    """Write a network in inference form.

    Args:
        model: The network; for the formats of weights alone, one of ``fmen_core`` as it is.
        path: Where to.
        file_format: How.
        properties: What the file says about itself, where the format has a place for that.

    Raises:
        torch.onnx.OnnxExporterError: The network cannot be expressed in ONNX for every size.
    """
    if file_format == "onnx":
        return write_onnx(model, path, properties)
    if file_format == "torchscript":
        return write_torchscript(model, path, properties)
    if file_format == "safetensors":
        save(model, path, recipe=properties.get("recipe", ""))
        return Written("safetensors", "fmen_core.load", load(path))
    names = CHALLENGE_NAMES if file_format == "pth-challenge" else {}
    buffer = io.BytesIO()
    torch.save({published_name(key, names): value for key, value in model.state_dict().items()}, buffer)
    path.write_bytes(buffer.getvalue())
    return Written("a bare state dict", "fmen_core.load", load(path))


def published_name(key: str, challenge_names: Mapping[str, str]) -> str:
    """A parameter's name in the layout whose prefixes are mapped to ours."""
    for theirs, ours in challenge_names.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def write_onnx(model: nn.Module, path: Path, properties: Mapping[str, str]) -> Written:
    """Write ONNX: input ``lr`` (batch, 3, height, width), output ``sr``, float32."""
    import onnx

    size = {0: "batch", 2: "height", 3: "width"}
    with quiet():
        program = torch.onnx.export(
            model,
            (torch.zeros(TRACED_SIZE),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_shapes=(size,),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    drop_traces(proto)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "fmen", importlib.metadata.version("fmen")
    onnx.helper.set_model_props(proto, dict(properties))
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return Written(f"ONNX (opset {OPSET}), lr to sr{interface(properties)}", *open_onnx(path))


def drop_traces(proto: ModelProto) -> None:
    """Remove the exporter's notes: a tenth of the file, with the source files' paths on this machine in them."""
    graph = proto.graph
    graph.ClearField("value_info")  # which every reader infers again
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")


def open_onnx(path: Path) -> tuple[str, Run]:
    """ONNX Runtime's name and version, and the function in the file, on the CPU."""
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
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(model, torch.zeros(TRACED_SIZE), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={METADATA_FILE: json.dumps(dict(properties))})
        path.write_bytes(buffer.getvalue())
        run: Run = torch.jit.load(path, "cpu")  # type: ignore[no-untyped-call]
    return Written(f"TorchScript{interface(properties)}", "torch.jit.load", run)


def interface(properties: Mapping[str, str]) -> str:
    """What goes in and comes out, in a few words."""
    return f": any batch, height and width, {properties['channels']} from 0 to {properties['data_range']}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's notes to developers off the terminal: deprecations, absent operators, graphs that it gave up."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
