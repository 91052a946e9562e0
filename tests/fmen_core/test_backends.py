"""Networks that other libraries run."""

from __future__ import annotations

import pytest
import torch

from fmen_core import create_model, model_names, reparameterize
from fmen_core.backends import to_openvino

SIZES = ((1, 24, 20), (2, 37, 52))


@pytest.mark.parametrize("name", model_names())
@torch.inference_mode()
def test_openvino_computes_what_pytorch_computes_at_any_size(name: str) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    torch.manual_seed(0)
    model = reparameterize(create_model(name, scale=4))
    compiled = openvino.Core().compile_model(to_openvino(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch, height, width in SIZES:
        x = torch.rand(batch, 3, height, width) * model.data_range
        expected = model(x)
        found = torch.from_numpy(compiled({"lr": x.numpy()})["sr"])
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
