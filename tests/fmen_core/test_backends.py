"""Networks that OpenVINO and ONNX Runtime run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmen_core import FMEN, ModelError, Upscaler, backends, create_model, fmen_s, model_names, reparameterize
from fmen_core.backends import PRECISIONS, REQUIRED_PACKAGES, to_onnx, to_openvino

SIZES = ((1, 24, 20), (2, 29, 36))

LITTLE_MEMORY = """
import resource
import numpy as np
import torch
from fmen_core import FMEN, Upscaler

torch.manual_seed(0)
network = FMEN(scale=2, n_feats=32, mid_feats=6, down_blocks=1, up_blocks=(1, 1)).eval()
lr = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
expected = Upscaler(network, device="cpu")(lr)
upscaler = Upscaler(network, device="cpu", backend="openvino", tile=None)
upscaler(lr[:32, :32])
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, most))
sr = upscaler(lr)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print("less memory" if upscaler.tile_for(700, 700) else "enough memory")
print("equal" if np.abs(sr.astype(int) - expected).max() <= 1 else "different")
"""


def needs(backend: str) -> Any:
    missing = [name for name in REQUIRED_PACKAGES[backend] if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


EACH = [pytest.param(backend, marks=needs(backend)) for backend in PRECISIONS]


@pytest.fixture(scope="module")
def network() -> FMEN:
    torch.manual_seed(0)
    return FMEN(scale=2, n_feats=10, mid_feats=6, down_blocks=1, up_blocks=(1, 1)).eval()


def photograph(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    levels = 128 + 100 * np.sin(rows / 9 + columns / 5)[..., None] + noise
    return np.clip(levels, 0, 255).astype(np.uint8)


def assert_equal_at_any_size(model: nn.Module, run: Callable[[np.ndarray], np.ndarray]) -> None:
    for batch, height, width in SIZES:
        x = torch.rand(batch, 3, height, width) * model.data_range
        expected = model(x)
        # Untrained, SAFMNv3 amplifies rounding to 1e-4; the others are below 1e-5.
        assert (torch.from_numpy(run(x.numpy())) - expected).abs().max() <= 5e-4 * expected.abs().max()


@needs("openvino")
@pytest.mark.parametrize("name", model_names())
@torch.inference_mode()
def test_openvino_computes_what_pytorch_computes_at_any_size(name: str, small: Callable[[str], dict[str, int]]) -> None:
    import openvino

    torch.manual_seed(0)
    model = reparameterize(create_model(name, scale=4, **small(name)))
    compiled = openvino.Core().compile_model(to_openvino(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert_equal_at_any_size(model, lambda x: compiled({"lr": x})["sr"])


@needs("onnxruntime")
@pytest.mark.parametrize("name", ["fmen-s", "safmnv3", "spanv2"])  # exporting each takes PyTorch seconds
def test_onnx_runtime_computes_what_pytorch_computes_at_any_size(name: str) -> None:
    import onnxruntime

    torch.manual_seed(0)
    model = reparameterize(create_model(name, scale=4)).requires_grad_(False)
    content = to_onnx(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert_equal_at_any_size(model, lambda x: session.run(["sr"], {"lr": x})[0])


@pytest.mark.parametrize("backend", EACH)
def test_the_image_is_that_of_pytorch_whole_in_tiles_and_as_an_ensemble(backend: Any, network: FMEN) -> None:
    lr, reference = photograph(61, 47), Upscaler(network, device="cpu")
    upscaler = Upscaler(network, device="cpu", backend=backend)
    for tile, ensemble in ((None, False), (24, False), (None, True)):
        for each in (reference, upscaler):
            each.tile, each.self_ensemble = tile, ensemble
        expected, sr = reference(lr), upscaler(lr)
        assert np.abs(sr.astype(int) - expected).max() <= 1
        assert (sr != expected).mean() < 1e-3


@needs("openvino")
def test_openvino_in_bf16_is_near_fp32_and_not_equal() -> None:
    lr, model = photograph(40, 56), fmen_s(scale=4, pretrained=True)
    fp32 = Upscaler(model, device="cpu", backend="openvino")
    bf16 = Upscaler(model, device="cpu", backend="openvino", precision="bf16")
    difference = bf16(lr).astype(int) - fp32(lr)
    assert 0 < (difference**2).mean() < 0.5


@pytest.mark.parametrize("backend", EACH)
def test_threads_upscale_at_once_each_with_one_core(backend: Any, network: FMEN) -> None:
    upscaler = Upscaler(network, device="cpu", backend=backend)
    images = [photograph(16 + i, 20) for i in range(12)]
    expected = [upscaler(image) for image in images]
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = list(pool.map(upscaler, images))
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(found, expected, strict=True))


def test_each_thread_compiles_for_its_own_number_of_threads() -> None:
    started: list[tuple[int, int]] = []

    def start(threads: int) -> Callable[[Tensor], Tensor]:
        started.append((threading.get_ident(), threads))
        return lambda x: x

    run, x = backends.Compiled(start), torch.zeros(1, 3, 4, 4)
    before = torch.get_num_threads()
    try:
        for threads in (1, 1, 2, 2):
            torch.set_num_threads(threads)
            run(x)
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pool.submit(run, x).result()
        run(x)
    finally:
        torch.set_num_threads(before)
    assert [threads for _, threads in started] == [1, 2, 1]
    assert len({thread for thread, _ in started}) == 2


def test_an_allocation_that_fails_in_a_library_halves_the_tiles(network: FMEN, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[int] = []
    started: list[int] = []

    def start(threads: int) -> Callable[[Tensor], Tensor]:
        started.append(threads)

        def run(x: Tensor) -> Tensor:
            sides.append(x.shape[2])
            if x.shape[2] > 60:
                raise ValueError("Failed to allocate memory for requested buffer of size 1234")
            out: Tensor = network(x)
            return out

        return run

    monkeypatch.setattr("fmen_core.prepared.compiled", lambda *_: backends.Compiled(start))
    monkeypatch.setitem(REQUIRED_PACKAGES, "openvino", ())
    lr = photograph(80, 70)
    sr = Upscaler(network, device="cpu", backend="openvino")(lr)
    assert sides[0] == 80 and 0 < sides[-1] <= 60
    assert len(started) > 1  # the network whose memory ran out is given up, with what it had allocated
    assert np.abs(sr.astype(int) - Upscaler(network, device="cpu")(lr)).max() <= 1


@needs("openvino")
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_an_image_is_cut_into_tiles_when_openvino_has_no_memory() -> None:
    threads = {"OMP_NUM_THREADS": "2"}  # what OpenVINO allocates depends on them
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY], env=os.environ | threads, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["less", "memory", "equal"], done.stdout + done.stderr


@needs("openvino")
def test_an_output_that_is_not_finite_in_bf16_is_computed_in_fp32(
    network: FMEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_openvino = backends.start_openvino

    def start(model: Any) -> Callable[[str, int], Callable[[Tensor], Tensor]]:
        compile_ = start_openvino(model)
        broken = lambda x: network(x) * torch.nan  # noqa: E731
        return lambda precision, threads: broken if precision == "bf16" else compile_(precision, threads)

    monkeypatch.setattr(backends, "start_openvino", start)
    monkeypatch.setattr("fmen_core.upscaler.automatic_precisions", lambda device: ("bf16", "fp32"))
    upscaler = Upscaler(network, device="cpu", backend="openvino", precision="auto")
    assert upscaler.precision == "bf16"
    upscaler(photograph(20, 20))
    assert upscaler.precision == "fp32"


@pytest.mark.parametrize("backend", EACH)
def test_a_network_that_is_converted_for_one_size_is_refused(backend: Any) -> None:
    class Fixed(nn.Module):
        scale = 1
        data_range = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return x * len(x.flatten()) / 1000  # a number that a trace has as a constant

    with pytest.raises(ModelError, match=f"{backend} (cannot run|gives a different).*; choose the backend torch"):
        Upscaler(Fixed(), device="cpu", backend=backend)


def test_a_missing_package_is_named_with_its_installation(network: FMEN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"^the backend openvino needs openvino: pip install 'fmen\[openvino\]'$"):
        Upscaler(network, device="cpu", backend="openvino")
    with pytest.raises(
        ModelError, match=r"needs onnx and onnxscript and onnxruntime: pip install 'fmen\[onnxruntime\]'"
    ):
        Upscaler(network, device="cpu", backend="onnxruntime")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorrt"}, "backend 'tensorrt' is unknown; choose one of auto, torch, openvino, onnxruntime"),
        ({"backend": "openvino", "precision": "fp16"}, "openvino does not compute in fp16; choose bf16 or fp32"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "onnxruntime does not compute in bf16; choose fp32"),
        ({"backend": "openvino", "device": "cuda"}, "openvino runs on the CPU; choose device cpu"),
    ],
)
def test_what_a_backend_does_not_support_is_refused(
    network: FMEN, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ModelError, match=message):
        Upscaler(network, **{"device": "cpu", **options})


def test_auto_is_pytorch(network: FMEN) -> None:
    upscaler = Upscaler(network, device="cpu", backend="auto")
    assert upscaler.backend == "torch" and upscaler._prepared.run is upscaler.model
