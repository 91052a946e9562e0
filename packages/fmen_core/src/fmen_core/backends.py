"""Run networks with OpenVINO or ONNX Runtime instead of PyTorch, on the CPU.

Both compile a network once for images of all sizes. OpenVINO converts a traced network itself; for ONNX Runtime,
PyTorch's exporter writes ONNX.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from fmen_core.architecture import sr_model
from fmen_core.errors import ModelError

if TYPE_CHECKING:
    import openvino

Backend = Literal["auto", "torch", "openvino", "onnxruntime"]
Forward: TypeAlias = Callable[[Tensor], Tensor]

PRECISIONS = {"openvino": ("bf16", "fp32"), "onnxruntime": ("fp32",)}
"""The precisions of each backend beside PyTorch, the fastest first."""

REQUIRED_PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnx", "onnxscript", "onnxruntime")}
"""Packages that a backend requires; its extra installs them."""

TRACED_SIZE = (2, 3, 32, 40)
"""Shape of the input that a network is traced with. Exporters treat a dimension of 1 as fixed."""

CHECKED_SIZE = (1, 3, 43, 35)
"""Shape of the input that a converted network is checked with."""

TOLERANCE = 1e-3
"""Largest difference of a converted network in fp32, relative to the largest output."""

OPSET = 18
"""The oldest version of ONNX's operators that PyTorch's exporter writes without a conversion."""


def check_installed(backend: str) -> None:
    """Raise a ModelError if a package that a backend requires is not installed."""
    missing = [name for name in REQUIRED_PACKAGES.get(backend, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"the backend {backend} needs {' and '.join(missing)}: pip install 'fmen[{backend}]'")


def check_backend(backend: str, device: torch.device, precision: str) -> None:
    """Check what an ``Upscaler`` is asked for.

    Raises:
        ModelError: The backend is unknown, not installed, or does not support the device or the precision.
    """
    if backend in ("auto", "torch"):
        return
    if backend not in PRECISIONS:
        raise ModelError(f"backend {backend!r} is unknown; choose one of auto, torch, {', '.join(PRECISIONS)}")
    if device.type != "cpu":
        raise ModelError(f"the backend {backend} runs on the CPU; choose device cpu, or the backend torch")
    if precision not in ("auto", *PRECISIONS[backend]):
        choices = " or ".join(PRECISIONS[backend])
        raise ModelError(f"the backend {backend} does not compute in {precision}; choose {choices}, or another backend")
    check_installed(backend)


class Compiled:
    """A network that another library runs, called as the network itself. It may be called by several threads.

    Each thread has a compiled network of its own: small images are upscaled side by side, in threads that may use one
    core each, and a compiled network has a fixed number of threads.

    Args:
        start: Compiles the network; takes the number of threads, as ``torch.get_num_threads`` returns it.
    """

    def __init__(self, start: Callable[[int], Forward]) -> None:
        self._start = start
        self._of_thread = threading.local()

    def __call__(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)``, float32, to ``(N, 3, scale*H, scale*W)``.

        Raises:
            MemoryError: The memory runs out.
        """
        threads, own = torch.get_num_threads(), self._of_thread
        if getattr(own, "threads", None) != threads:
            own.run, own.threads = self._start(threads), threads
        try:
            out: Tensor = own.run(x.contiguous())
        except Exception as error:  # each library has types of its own
            if any(sign in str(error) for sign in ("bad_alloc", "allocate")):
                del own.run, own.threads  # with what the library has allocated so far
                raise MemoryError(str(error)) from error
            raise
        return out


def compiled(model: nn.Module, backend: str, precision: str) -> Compiled:
    """Return a network for a backend beside PyTorch, after comparing it with PyTorch on one image.

    Args:
        model: A network in its inference form, in float32 and on the CPU.
        backend: ``"openvino"`` or ``"onnxruntime"``.
        precision: One that the backend supports.

    Raises:
        ModelError: The library cannot run the network.
    """
    try:
        start = start_openvino(to_openvino(model)) if backend == "openvino" else start_onnxruntime(to_onnx(model))
        difference = _difference(model, start("fp32", torch.get_num_threads()))
    except Exception as error:  # A network may be any user's code, and each library has errors of its own.
        if isinstance(error, ModelError):
            raise
        reason = str(error.__cause__ or error).strip().split("\n", maxsplit=1)[0][:200]
        raise ModelError(f"{backend} cannot run this network: {reason}; choose the backend torch") from error
    if not difference <= TOLERANCE:
        raise ModelError(f"{backend} gives a different result from PyTorch for this network; choose the backend torch")
    return Compiled(partial(start, precision))


@torch.inference_mode()
def _difference(model: nn.Module, run: Forward) -> float:
    """Return the largest difference of a network and its conversion, relative to the largest output."""
    x = torch.rand(CHECKED_SIZE, generator=torch.Generator().manual_seed(0)) * sr_model(model).data_range
    expected = model(x)
    return float((run(x) - expected).abs().max() / expected.abs().max())


# --- OpenVINO ---------------------------------------------------------------------------------------------------------


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


def start_openvino(model: openvino.Model) -> Callable[[str, int], Forward]:
    """Return a function that compiles an OpenVINO model; it takes the precision and the number of threads."""
    import openvino

    core = openvino.Core()

    def start(precision: str, threads: int) -> Forward:
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # otherwise, all compiled models with one thread share the first core
        }
        network = core.compile_model(model, "CPU", settings)

        def run(x: Tensor) -> Tensor:
            # A request of its own: after a failed allocation, OpenVINO raises nothing and leaves the output as it was.
            out = network.create_infer_request().infer({"lr": x.numpy()}, share_inputs=True)["sr"]
            if not out.size:
                raise MemoryError("OpenVINO: a failed allocation")
            return torch.from_numpy(out)

        return run

    return start


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------


def to_onnx(model: nn.Module) -> Any:
    """Convert a network to an ONNX ``ModelProto`` with input ``lr``, ``(batch, 3, height, width)``, and output ``sr``.

    Args:
        model: A network in its inference form, in float32 and on the CPU.

    Raises:
        torch.onnx.OnnxExporterError: The network cannot be exported for every image size.
    """
    with messages_suppressed():
        program = torch.onnx.export(
            model,
            (torch.zeros(TRACED_SIZE),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def start_onnxruntime(proto: Any) -> Callable[[str, int], Forward]:
    """Return a function that opens an ONNX model; it takes the precision, fp32, and the number of threads."""
    import onnxruntime

    content = proto.SerializeToString()

    def start(precision: str, threads: int) -> Forward:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = threads
        # Threads that wait actively would take the cores from whatever else runs between two images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(["sr"], {"lr": x.numpy()})[0])

    return start


@contextmanager
def messages_suppressed() -> Iterator[None]:
    """Suppress a converter's messages for developers: deprecations, missing operators, numbers traced as constants."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
