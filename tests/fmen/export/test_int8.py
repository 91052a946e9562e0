"""Networks in int8 are close to fp32, and their files for OpenVINO run as other weights do."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import CliRunner

import fmen_core
from fmen.cli.main import app
from fmen.export import int8, run
from fmen.export.int8 import QuantizedConv2d, choose_scales, quantize
from fmen.export.run import ExportError, Int8, export_weights
from fmen.sources.openvino_file import OpenVINONetwork, upscaler_for
from fmen_core import ModelError, Upscaler, WeightsError
from fmen_core.pretrained import bundled
from fmen_data import imresize, open_dataset, write_image
from fmen_eval import psnr


def needs_openvino() -> None:
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'fmen[openvino]'")


def small_fmen() -> nn.Module:
    """A small FMEN with random weights; its output is of the size of an image's values."""
    torch.manual_seed(0)
    network = fmen_core.create_model("fmen", n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
    return fmen_core.reparameterize(network).requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return [open_dataset("sample", scale=4).read(index)[0] for index in range(2)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    fmen_core.save(small_fmen(), path)
    return path


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small FMEN in int8 for OpenVINO."""
    needs_openvino()
    out = tmp_path_factory.mktemp("int8") / "new" / "small.xml"
    return export_weights(weights, out, "openvino", int8=Int8("sample", steps=2)).path


def levels(network: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Upscaler(network, device="cpu", tile=None)(image), np.uint8)


def test_each_input_channel_is_rounded_to_steps_of_its_own() -> None:
    torch.manual_seed(0)
    conv, sizes = nn.Conv2d(2, 3, 3, padding=1), torch.tensor([1e6, 1.0])[:, None, None]
    with torch.no_grad():
        conv.weight /= sizes
    x = torch.randn(4, 2, 16, 16) * sizes
    (choice,) = choose_scales(Scaled(nn.Sequential(conv)), x)
    with torch.no_grad():
        for channel in range(2):
            one = x * (torch.arange(2) == channel).float()[:, None, None]
            exact, found = conv(one), choice.quantized(one)
            assert float((found - exact).abs().mean()) < 0.02 * float(exact.std())


class Scaled(nn.Module):
    """A module with the attributes of a network."""

    scale, data_range = 1, 255.0

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def test_a_convolution_that_runs_twice_stays_in_floating_point() -> None:
    convs = [nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False) for _ in range(4)]
    network = Scaled(nn.Sequential(convs[0], convs[1], convs[1], convs[2], convs[3]))
    assert [choice.name for choice in choose_scales(network, torch.rand(1, 3, 8, 8))] == [
        "layers.0",
        "layers.3",
        "layers.4",
    ]


def test_a_network_without_convolutions_for_int8_is_left_as_it_is(images: list[NDArray[np.uint8]]) -> None:
    reflecting = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect") for _ in range(3)))
    for layers in (reflecting, nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))):
        network = quantize(Scaled(layers.requires_grad_(False)), images, steps=2)
        assert int8.count_quantized(network) == 0


def test_a_convolution_that_the_result_does_not_depend_on_has_no_importance() -> None:
    class Unused(Scaled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.layers[1](x)
            return torch.as_tensor(self.layers[0](x))

    network = Unused(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)).requires_grad_(False))
    found = int8.importance(network, torch.rand(1, 3, 8, 8))
    assert found["layers.0"].min() > 0 and found["layers.1"].max() == 0


def test_zero_is_exact_so_that_zero_padding_is() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
    (choice,) = choose_scales(Scaled(nn.Sequential(conv)), torch.rand(2, 3, 8, 8) * 100 - 30)
    assert 0 < choice.quantized.zero < 255
    torch.testing.assert_close(choice.quantized(torch.zeros(1, 3, 8, 8)), conv(torch.zeros(1, 3, 8, 8)))


def test_most_convolutions_become_int8_and_the_network_is_left_as_it_is(images: list[NDArray[np.uint8]]) -> None:
    network = small_fmen()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    notes: list[str] = []
    quantized = quantize(network, images, steps=1, note=notes.append)
    convs = [module for module in quantized.modules() if isinstance(module, nn.Conv2d)]
    exact = sum(module.weight.numel() for module in convs if not isinstance(module, QuantizedConv2d))
    fixed = network.get_submodule("head"), network.get_submodule("tail.0")
    most = max(int8.FLOAT_SHARE * sum(module.weight.numel() for module in convs), sum(m.weight.numel() for m in fixed))
    assert exact <= most
    assert not isinstance(quantized.get_submodule("head"), QuantizedConv2d)
    assert not isinstance(quantized.get_submodule("tail.0"), QuantizedConv2d)
    assert notes[0].startswith("in floating point: head")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_training_brings_int8_closer_to_fp32(images: list[NDArray[np.uint8]]) -> None:
    network = small_fmen()
    x = torch.from_numpy(images[1]).permute(2, 0, 1)[None].float()
    before, after = (float((quantize(network, images, steps=steps)(x) - network(x)).abs().mean()) for steps in (0, 20))
    assert 0 < after < 0.9 * before


def test_a_file_for_openvino_gives_the_images_of_pytorch(weights: Path, tmp_path: Path) -> None:
    needs_openvino()
    found = export_weights(weights, tmp_path / "fp32.xml", "openvino", data_range=1)
    assert "OpenVINO" in found.reader
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32.bin", "fp32.xml"]
    network = OpenVINONetwork(found.path, precision="fp32")
    x = torch.rand(2, 3, 17, 24)
    with torch.inference_mode():
        expected = fmen_core.load(weights)(255 * x) / 255
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_an_int8_file_computes_in_int8(exported: Path, images: list[NDArray[np.uint8]], weights: Path) -> None:
    assert '"i8"' in exported.read_text()
    difference = levels(OpenVINONetwork(exported), images[0]).astype(int) - levels(fmen_core.load(weights), images[0])
    assert 0 < np.abs(difference).mean() < 3


def test_scales_are_constants_in_the_file_so_that_rounding_is_a_part_of_the_convolutions(exported: Path) -> None:
    assert 'type="FakeQuantize"' in exported.read_text()
    assert 'type="Exp"' not in exported.read_text()


def test_an_int8_file_is_tiled_without_a_seam(exported: Path, images: list[NDArray[np.uint8]]) -> None:
    network = OpenVINONetwork(exported, precision="fp32")
    assert network.tiling.radius == fmen_core.Upscaler(small_fmen(), device="cpu").radius
    tiled = Upscaler(network, device="cpu", tile=32)(images[0]).astype(int)
    assert np.abs(tiled - levels(network, images[0])).max() <= 1


def test_int8_files_are_validated_and_upscaled_with_as_other_weights(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[NDArray[np.uint8]]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(Path("lr.png"), images[0][:24, :32])
    write_image(Path("data/hr.png"), imresize(images[0][:24, :32], 4))
    upscale = ["upscale", "lr.png", "-o", "sr.png", "--overwrite"]
    for arguments in (
        upscale,
        [*upscale, "--precision", "fp16"],
        [*upscale, "--backend", "openvino"],
        ["validate", "--data", "data"],
    ):
        result = CliRunner().invoke(app, [*arguments, "--weights", str(exported), "--device", "cpu"])
        assert result.exit_code == 0, result.output
        assert arguments[0] == "validate" or (
            ", int8 and " in result.output and "on cpu with openvino" in result.output
        )
    assert Path("sr.png").is_file()


def test_a_pickled_network_for_openvino_gives_the_same_images(exported: Path, images: list[NDArray[np.uint8]]) -> None:
    network = OpenVINONetwork(exported, precision="fp32")
    copy = pickle.loads(pickle.dumps(network))
    assert copy.arithmetic == network.arithmetic
    assert np.array_equal(levels(copy, images[0][:24, :32]), levels(network, images[0][:24, :32]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "openvino", "--int8"], "--int8 and --calibrate DIR belong together"),
        (["--format", "openvino", "--calibrate", "sample"], "--int8 and --calibrate DIR belong together"),
        (["--format", "torchscript", "--int8", "--calibrate", "sample"], "--int8 is for --format openvino"),
        (["--format", "openvino", "--int8", "--calibrate", "nowhere"], "nowhere"),
    ],
)
def test_wrong_requests_are_one_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr(run, "REQUIRED_PACKAGES", {})
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["export", str(weights), *options, "--out", "out.xml"])
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_openvino_is_asked_for_where_it_is_missing_and_names_end_in_xml(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "REQUIRED_PACKAGES", {})
    with pytest.raises(ExportError, match=r"end the name in \.xml"):
        export_weights(weights, tmp_path / "out.onnx", "openvino")
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"needs openvino: pip install 'fmen\[openvino\]'"):
        export_weights(weights, tmp_path / "out.xml", "openvino")
    with pytest.raises(WeightsError, match=r"needs openvino: pip install 'fmen\[openvino\]'"):
        OpenVINONetwork(tmp_path / "out.xml")


def test_int8_that_loses_too_much_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_openvino()
    monkeypatch.setattr(run, "LARGEST_LOSS", -1.0)
    monkeypatch.setattr(run, "MOST_IMAGES", 2)
    for suffix in (".bin", ".xml"):
        (tmp_path / f"out{suffix}").write_text("older")
    with pytest.raises(ExportError, match="int8 is too coarse for this network: PSNR on 2 calibration images"):
        export_weights(weights, tmp_path / "out.xml", "openvino", int8=Int8("sample", steps=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.bin", "out.xml"]
    assert all(path.read_text() == "older" for path in tmp_path.iterdir())


def test_the_bundled_int8_network_is_within_a_twentieth_of_a_decibel_of_fp32() -> None:
    needs_openvino()
    lr, hr = open_dataset("sample", scale=4).read(0)
    exact = fmen_core.load(bundled()["fmen-s_x4"])
    found, expected = (
        psnr(levels(network, lr), hr, border=4, protocol="paper")
        for network in (OpenVINONetwork(bundled()["fmen-s_x4_int8"]), exact)
    )
    assert abs(found - expected) < 0.05 and found != expected


def test_the_bundled_int8_network_asks_for_openvino_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image("a.png", np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for command in (["validate", "--data", "sample"], ["upscale", "a.png", "--output", "b.png"]):
        result = CliRunner().invoke(app, [*command, "--weights", "fmen-s_x4_int8"])
        assert result.exit_code == 2
        (line,) = (line for line in result.output.splitlines() if line.startswith("error"))
        assert line.endswith("fmen-s_x4_int8.xml: this format needs openvino: pip install 'fmen[openvino]'")


def test_damaged_files_for_openvino_are_one_line(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.xml"
    path.write_bytes(exported.read_bytes())
    with pytest.raises(WeightsError, match=r"copy\.bin: no such file"):
        OpenVINONetwork(path)
    path.with_suffix(".bin").write_bytes(exported.with_suffix(".bin").read_bytes())
    OpenVINONetwork(path)
    path.write_text("<net")
    with pytest.raises(WeightsError, match="not an OpenVINO file of fmen export"):
        OpenVINONetwork(path)


@pytest.mark.parametrize(
    ("option", "fitting"), [({"device": "cuda"}, "cpu"), ({"backend": "torch"}, "openvino"), ({}, "")]
)
def test_options_that_contradict_an_openvino_file_are_refused(option: dict[str, str], fitting: str) -> None:
    needs_openvino()
    network = OpenVINONetwork(bundled()["fmen-s_x4_int8"])
    if option:
        with pytest.raises(ModelError, match=f"a network for OpenVINO runs with {fitting} alone; leave it out"):
            upscaler_for(network, **option)
    else:
        assert upscaler_for(network, device="auto", precision="auto", backend="openvino").scale == 4


def test_steps_without_int8_are_refused(tmp_path: Path) -> None:
    options = ["--format", "pth", "--int8-steps", "7", "--out", str(tmp_path / "a.pth")]
    result = CliRunner().invoke(app, ["export", "fmen-s_x4", *options])
    assert result.exit_code == 2 and result.stderr == "error: --int8-steps is for --int8; leave it out\n"
