"""Exported files give the SR images of PyTorch at any image size, and carry the published names."""

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
from fmen.errors import UserError
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
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small FMEN in its training form, with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = fmen_core.create_model("fmen", n_feats=16, mid_feats=8, down_blocks=1, up_blocks=(1, 1)).train()
    with torch.no_grad():
        for _ in range(3):
            model(255 * torch.rand(2, 3, 16, 16))
    path = tmp_path_factory.mktemp("weights") / "training.safetensors"
    fmen_core.save(model.eval(), path)
    return path


@pytest.fixture(scope="module")
def onnx_file(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small FMEN as ONNX."""
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


def test_the_onnx_file_describes_its_input_and_output(onnx_file: Path, weights: Path) -> None:
    opened = session(onnx_file)
    (lr,), (sr,) = opened.get_inputs(), opened.get_outputs()
    assert (lr.name, lr.shape, lr.type) == ("lr", ["batch", 3, "height", "width"], "tensor(float)")
    assert (sr.name, sr.shape) == ("sr", ["batch", 3, "4*height", "4*width"])
    assert opened.get_modelmeta().custom_metadata_map == {
        "name": fmen_core.load(weights).name,
        "scale": "4",
        "data_range": "255",
        "channels": "RGB",
    }


def test_the_onnx_file_is_old_enough_for_old_readers_and_holds_no_paths(onnx_file: Path) -> None:
    import onnx

    proto = onnx.load(onnx_file)
    assert ([opset.version for opset in proto.opset_import], proto.ir_version) == ([18], 8)
    assert b".py" not in onnx_file.read_bytes()


class WholeImage(nn.Module):
    """A block of IMDN and one of RFDN: both have an attention that depends on the whole image."""

    name, scale, data_range = "whole-image", 4, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.imdn, self.rfdn = (
            fmen_core.create_model("imdn", n_feats=16).IMDB1,
            fmen_core.create_model("rfdn", n_feats=16).B1,
        )
        self.tail = nn.Sequential(nn.Conv2d(16, 48, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.tail(self.rfdn(self.imdn(self.head(x))))
        return out


def test_networks_that_look_at_the_whole_image_export_for_any_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs_onnx()
    torch.manual_seed(0)
    model = WholeImage().eval()
    monkeypatch.setattr(exporting, "load_network", lambda *_, **__: model)
    (tmp_path / "weights.pth").touch()
    export_weights(tmp_path / "weights.pth", tmp_path / "out.onnx", "onnx")
    for size in SIZES:
        x = photo_like(size, 1.0)
        with torch.inference_mode():
            expected = model(x).numpy()
        (found,) = session(tmp_path / "out.onnx").run(None, {"lr": x.numpy()})
        assert np.abs(found - expected).max() < 2e-4


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
def test_the_published_file_exports_to_itself(
    reference: Path, tmp_path: Path, file_format: Any, published: str
) -> None:
    export_weights(reference / "weights" / published, tmp_path / "fmen.pth", file_format)
    exported = torch.load(tmp_path / "fmen.pth", weights_only=True)
    original = torch.load(reference / "weights" / published, "cpu", weights_only=True)
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[name], value) for name, value in original.items())


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


class FixedSize(nn.Module):
    """A network whose traced form works for one image size only."""

    name, scale, data_range = "fixed-size", 2, 1.0

    def __init__(self, *, branches: bool) -> None:
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[2]), int(x.shape[3])
        if self.branches and float(x.sum()) > 1e9:
            return x
        return F.interpolate(x, (2 * height, 2 * width))


@pytest.mark.parametrize(("file_format", "branches"), [("torchscript", False), ("onnx", True)])
def test_a_network_that_works_for_one_size_only_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file_format: Any, branches: bool
) -> None:
    if file_format == "onnx":
        needs_onnx()
    monkeypatch.setattr(exporting, "load_network", lambda *_, **__: FixedSize(branches=branches))
    source, out = tmp_path / "weights.pth", tmp_path / "out"
    source.touch()
    out.write_text("older")
    with pytest.raises(ExportError, match=r"other sizes|every size") as caught:
        export_weights(source, out, file_format)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [out, source]
    assert out.read_text() == "older"


def test_a_file_with_other_images_than_pytorch_is_not_written(
    monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path
) -> None:
    def corrupted(model: nn.Module, path: Path, *rest: Any) -> Any:
        written = original(model, path, *rest)
        with torch.no_grad():
            written.run.tail[0].bias += 0.5
        return written

    original = exporting.write_format
    monkeypatch.setattr(exporting, "write_format", corrupted)
    with pytest.raises(ExportError, match=r"images differ from PyTorch's: largest difference 0\.5 of 255"):
        export_weights(weights, tmp_path / "out.pth", "pth")
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_refused_before_any_work(weights: Path, tmp_path: Path) -> None:
    fmen_core.save(fmen_core.create_model("rfdn", n_feats=16), tmp_path / "rfdn.safetensors")
    out = tmp_path / "out"
    for match, source, target, file_format, data_range in (
        ("use --format pth", tmp_path / "rfdn.safetensors", out, "pth-challenge", None),
        ("use --format onnx or torchscript", weights, out, "pth", 1),
        ("choose 1 or 255", weights, out, "torchscript", 7),
        ("is a folder; name a file", weights, tmp_path, "pth", None),
        ("is read by this command", weights, weights, "safetensors", None),
        ("in .safetensors files; choose --format safetensors", weights, tmp_path / "a.safetensors", "pth", None),
        ("in .pth files; choose --format pth", weights, tmp_path / "a.pth", "onnx", None),
        ("no such weights file", tmp_path / "none.pth", out, "pth", None),
    ):
        with pytest.raises(ValueError, match=match):
            export_weights(source, target, file_format, data_range=data_range)  # type: ignore[arg-type]
    assert not out.exists()


def test_the_second_file_of_an_openvino_network_does_not_replace_its_weights(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'fmen[openvino]'")
    source = tmp_path / "model.bin"
    torch.save(fmen_core.load(weights).state_dict(), source)
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"model\.bin: is read by this command"):
        export_weights(source, tmp_path / "model.xml", "openvino")
    other = tmp_path / "other.bin"
    other.write_bytes(b"weights of another program")
    with pytest.raises(ExportError, match=r"other\.bin: exists without other\.xml, whose weights it would be"):
        export_weights(weights, tmp_path / "other.xml", "openvino")
    assert source.read_bytes() == before and other.read_bytes() == b"weights of another program"
    assert not list(tmp_path.glob("*.xml"))


def test_missing_packages_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "onnx" or None)
    result = CliRunner().invoke(app, ["export", str(weights), "--format", "onnx", "--out", "x.onnx"])
    assert result.exit_code == 2
    assert "needs onnxscript and onnxruntime: pip install 'fmen[onnx]'" in result.stderr


def test_the_command_prints_the_file_and_the_comparison(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "fmen.pth"
    result = CliRunner().invoke(app, ["export", str(weights), "--format", "pth", "--out", str(out)])
    assert result.exit_code == 0
    named, first, second = result.stdout.splitlines()
    assert named.startswith(f"weights {weights}")
    assert first == f"{out}: {fmen_core.load(weights).name} x4 as a bare state dict"
    assert second.startswith("checked with fmen_core.load against PyTorch: largest difference 0 of 255, 0 of")


def test_the_data_range_of_fmen_can_be_given(weights: Path, tmp_path: Path) -> None:
    exported = export_weights(weights, tmp_path / "fmen.ts", "torchscript", data_range=255)
    assert "from 0 to 255" in exported.content
    with pytest.raises(ExportError, match="256: choose 1 or 255"):
        export_weights(weights, tmp_path / "fmen.ts", "torchscript", data_range=256)
