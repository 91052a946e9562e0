"""Exported files give the images of the weights that they were made of, at any size, under the published names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

import fmen_core
from fmen.cli.main import app
from fmen.export import run as exporting
from fmen.export.run import ExportError, export_weights

SIZES = ((1, 3, 17, 40), (3, 3, 33, 21))


def needs_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'fmen[onnx]'")


def photo_like(size: tuple[int, ...], data_range: float) -> Tensor:
    """A smooth batch of images: in noise, untrained networks amplify every rounding."""
    coarse = torch.rand((*size[:2], 4, 4), generator=torch.Generator().manual_seed(0))
    return data_range * F.interpolate(coarse, size[2:], mode="bilinear")


def session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def onnx_file(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FMEN-S as ONNX, of weights in the training form."""
    needs_onnx()
    return export_weights(weights, tmp_path_factory.mktemp("onnx") / "new" / "fmen.onnx", "onnx").path


@pytest.mark.parametrize("size", SIZES)
def test_onnx_gives_the_images_of_the_training_form_at_any_size(
    onnx_file: Path, weights: Path, size: tuple[int, ...]
) -> None:
    x = photo_like(size, 255)
    (found,) = session(onnx_file).run(None, {"lr": x.numpy()})
    with torch.inference_mode():
        expected = fmen_core.load(weights)(x).numpy()
    assert np.abs(found - expected).max() < 0.05


def test_the_onnx_file_says_what_it_takes_and_gives(onnx_file: Path) -> None:
    opened = session(onnx_file)
    (lr,), (sr,) = opened.get_inputs(), opened.get_outputs()
    assert (lr.name, lr.shape, lr.type) == ("lr", ["batch", 3, "height", "width"], "tensor(float)")
    assert (sr.name, sr.shape) == ("sr", ["batch", 3, "4*height", "4*width"])
    assert opened.get_modelmeta().custom_metadata_map == {
        "name": "fmen-s",
        "scale": "4",
        "data_range": "255",
        "channels": "RGB",
    }


def test_the_onnx_file_is_old_enough_for_old_readers_and_holds_no_paths(onnx_file: Path) -> None:
    import onnx

    proto = onnx.load(onnx_file)
    assert ([opset.version for opset in proto.opset_import], proto.ir_version) == ([18], 8)
    assert b".py" not in onnx_file.read_bytes()


@pytest.mark.parametrize("name", ["imdn", "rfdn"])
def test_networks_that_look_at_the_whole_image_export_for_any_size(name: str, tmp_path: Path) -> None:
    needs_onnx()
    torch.manual_seed(0)
    model = fmen_core.create_model(name, n_feats=16).eval()
    fmen_core.save(model, tmp_path / "weights.safetensors")
    export_weights(tmp_path / "weights.safetensors", tmp_path / "out.onnx", "onnx")
    for size in SIZES:
        x = photo_like(size, float(model.data_range))  # type: ignore[arg-type]
        with torch.inference_mode():
            expected = model(x).numpy()
        (found,) = session(tmp_path / "out.onnx").run(None, {"lr": x.numpy()})
        assert np.abs(found - expected).max() < 2e-4 * float(model.data_range)  # type: ignore[arg-type]


def test_torchscript_gives_the_images_of_pytorch_at_any_size(weights: Path, tmp_path: Path) -> None:
    exported = export_weights(weights, tmp_path / "fmen.ts", "torchscript")
    assert exported.difference.largest == 0
    extra = {"fmen.json": ""}
    loaded = torch.jit.load(exported.path, _extra_files=extra)
    assert json.loads(extra["fmen.json"])["data_range"] == "255"
    network = fmen_core.reparameterize(fmen_core.load(weights))
    for size in SIZES:
        x = photo_like(size, 255)
        with torch.inference_mode():
            assert torch.equal(loaded(x), network(x))


def test_a_data_range_of_one_takes_and_gives_numbers_from_0_to_1(weights: Path, tmp_path: Path) -> None:
    exported = export_weights(weights, tmp_path / "fmen.ts", "torchscript", data_range=1)
    x = photo_like(SIZES[0], 1)
    with torch.inference_mode():
        expected = fmen_core.reparameterize(fmen_core.load(weights))(255 * x) / 255
        torch.testing.assert_close(torch.jit.load(exported.path)(x), expected)
    assert "from 0 to 1" in exported.content


@pytest.mark.parametrize(
    ("file_format", "published"), [("pth", "fmen_test_weights.pt"), ("pth-challenge", "team03_fmen.pth")]
)
def test_pth_has_the_names_and_shapes_of_the_published_file(
    weights: Path, reference: Path, tmp_path: Path, file_format: Any, published: str
) -> None:
    export_weights(weights, tmp_path / "fmen.pth", file_format)
    ours = torch.load(tmp_path / "fmen.pth", weights_only=True)
    theirs = torch.load(reference / "weights" / published, "cpu", weights_only=True)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


@pytest.mark.parametrize("file_format", ["safetensors", "pth", "pth-challenge"])
def test_weights_in_every_layout_load_as_the_same_network(weights: Path, tmp_path: Path, file_format: Any) -> None:
    exported = export_weights(weights, tmp_path / "out", file_format)
    assert (exported.difference.largest, exported.difference.changed) == (0, 0)
    expected = fmen_core.reparameterize(fmen_core.load(weights)).state_dict()
    found = fmen_core.load(exported.path).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_safetensors_keeps_the_recipe(weights: Path, tmp_path: Path) -> None:
    fmen_core.save(fmen_core.load(weights), tmp_path / "trained.safetensors", recipe="paper")
    export_weights(tmp_path / "trained.safetensors", tmp_path / "out.safetensors", "safetensors")
    metadata = fmen_core.read_metadata(tmp_path / "out.safetensors")
    assert (metadata["recipe"], metadata["form"]) == ("paper", "inference")


class Stubborn(nn.Module):
    """A network for one size alone, in the way that the exporters cannot see past."""

    name, scale, data_range = "stubborn", 2, 1.0

    def __init__(self, *, branches: bool) -> None:
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[2]), int(x.shape[3])
        if self.branches and float(x.sum()) > 1e9:
            return x
        return F.interpolate(x, (2 * height, 2 * width))


@pytest.mark.parametrize(("file_format", "branches"), [("torchscript", False), ("onnx", True)])
def test_a_network_for_one_size_alone_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file_format: Any, branches: bool
) -> None:
    if file_format == "onnx":
        needs_onnx()
    monkeypatch.setattr(exporting, "load", lambda path: Stubborn(branches=branches))
    source, out = tmp_path / "weights.pth", tmp_path / "out"
    source.touch()
    out.write_text("older")
    with pytest.raises(ExportError, match=r"other sizes|every size") as caught:
        export_weights(source, out, file_format)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [out, source]
    assert out.read_text() == "older"


def test_a_file_that_gives_other_images_is_not_written(
    monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path
) -> None:
    def corrupted(model: nn.Module, path: Path, *rest: Any) -> Any:
        written = original(model, path, *rest)
        with torch.no_grad():
            written.run.tail[0].bias += 0.5
        return written

    original = exporting.write
    monkeypatch.setattr(exporting, "write", corrupted)
    with pytest.raises(ExportError, match=r"not give the same images: largest difference 0\.5 of 255"):
        export_weights(weights, tmp_path / "out.pth", "pth")
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_refused_before_any_work(weights: Path, tmp_path: Path) -> None:
    fmen_core.save(fmen_core.create_model("rfdn", n_feats=16), tmp_path / "rfdn.safetensors")
    out = tmp_path / "out"
    for match, source, target, file_format, data_range in (
        ("use --format pth", tmp_path / "rfdn.safetensors", out, "pth-challenge", None),
        ("use it with --format onnx or torchscript", weights, out, "pth", 1),
        ("choose 1 or 255", weights, out, "torchscript", 7),
        ("is a folder", weights, tmp_path, "pth", None),
        ("is the weights file itself", weights, weights, "safetensors", None),
        ("no such weights file", tmp_path / "none.pth", out, "pth", None),
    ):
        with pytest.raises(ValueError, match=match):
            export_weights(source, target, file_format, data_range=data_range)  # type: ignore[arg-type]
    assert not out.exists()


def test_missing_packages_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    find = importlib.util.find_spec
    absent = ("onnxscript", "onnxruntime")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    result = CliRunner().invoke(app, ["export", str(weights), "--format", "onnx", "--out", "x.onnx"])
    assert result.exit_code == 2
    assert "needs onnxscript and onnxruntime: pip install 'fmen[onnx]'" in result.stderr


def test_the_command_prints_what_it_wrote_and_how_it_was_checked(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "fmen.pth"
    result = CliRunner().invoke(app, ["export", str(weights), "--format", "pth", "--out", str(out)])
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first == f"{out}: fmen-s x4 as a bare state dict"
    assert second.startswith("checked with fmen_core.load against PyTorch: largest difference 0 of 255, 0 of 533088")
