"""FMEN through the real spandrel: every layout of its weights, and the same images as the upscaler's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import fmen_core
from fmen.export.run import export_weights
from fmen_data import open_dataset, read_image

Image = np.ndarray[Any, np.dtype[np.uint8]]


def torchvision_stand_in() -> dict[str, ModuleType]:
    """The three names that spandrel imports from torchvision, for LaMa and RestoreFormer, of which nothing runs here.

    PyTorch's own packages come without torchvision, and a torchvision for another build of PyTorch cannot be imported.
    """
    functional = ModuleType("torchvision.transforms.functional")
    vars(functional).update(InterpolationMode=SimpleNamespace(BILINEAR=None), rotate=None, normalize=None)
    names = ("torchvision", "torchvision.transforms")
    return {**{name: ModuleType(name) for name in names}, functional.__name__: functional}


@pytest.fixture(scope="module")
def spandrel() -> ModuleType:
    """The real spandrel."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.MonkeyPatch.context() as patch:
            for name, module in torchvision_stand_in().items():
                patch.setitem(sys.modules, name, module)
            return pytest.importorskip(
                "spandrel", reason="spandrel is not installed: pip install --no-deps spandrel einops"
            )
    return pytest.importorskip("spandrel", reason="spandrel is not installed: pip install spandrel")


@pytest.fixture
def load(spandrel: ModuleType) -> Callable[[Path], Any]:
    """What loads a file through a registry of spandrel's and our architectures."""
    from fmen.integrations.spandrel import register

    registry = spandrel.MAIN_REGISTRY.copy()
    register(registry)
    return lambda path: spandrel.ModelLoader(registry=registry).load_from_file(path)


def upscale(descriptor: Any, lr: Image) -> Image:
    """What ComfyUI does with an image, in short: numbers from 0 to 1 in and out."""
    x = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
    out: Image = (descriptor(x)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return out


def assert_same_image(descriptor: Any, weights: Path) -> None:
    lr, _ = open_dataset("sample", scale=4).read(0)
    expected = fmen_core.Upscaler(fmen_core.load(weights), device="cpu")(lr)
    difference = np.abs(upscale(descriptor, lr).astype(int) - expected)
    # Dividing by 255 and multiplying again moves a value by 1e-5, which now and then rounds the other way.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


@pytest.mark.parametrize("file_format", ["safetensors", "pth", "pth-challenge", "torchscript"])
def test_spandrel_loads_every_layout_that_is_exported(
    load: Callable[[Path], Any], weights: Path, file_format: Any, tmp_path: Path
) -> None:
    suffix = {"safetensors": "safetensors", "torchscript": "pt"}.get(file_format, "pth")
    exported = export_weights(weights, tmp_path / f"fmen.{suffix}", file_format)
    descriptor = load(exported.path)
    assert (descriptor.architecture.id, descriptor.tags, descriptor.scale) == ("FMEN", ["fmen-s"], 4)
    assert_same_image(descriptor, weights)


def test_spandrel_loads_the_training_form(load: Callable[[Path], Any], weights: Path) -> None:
    assert_same_image(load(weights), weights)


@pytest.mark.parametrize("file", ["team03_fmen.pth", "fmen_test_weights.pt"])
def test_spandrel_loads_both_published_files(load: Callable[[Path], Any], reference: Path, file: str) -> None:
    path = reference / "weights" / file
    assert_same_image(load(path), path)


def test_spandrel_finds_the_scale_and_the_sizes(load: Callable[[Path], Any], tmp_path: Path) -> None:
    model = fmen_core.create_model("fmen", scale=3)
    fmen_core.save(fmen_core.reparameterize(model), tmp_path / "full.safetensors")
    descriptor = load(tmp_path / "full.safetensors")
    assert (descriptor.scale, descriptor.tags, descriptor.purpose) == (3, ["fmen"], "SR")
    assert descriptor(torch.rand(1, 3, 5, 7)).shape == (1, 3, 15, 21)


def test_half_precision_stays_close(load: Callable[[Path], Any], weights: Path) -> None:
    lr, _ = open_dataset("sample", scale=4).read(0)
    x = torch.from_numpy(lr[:24, :24]).permute(2, 0, 1)[None].float() / 255
    exact = load(weights)(x)
    half = load(weights).half()(x.half()).float()
    assert (half - exact).abs().mean() < 1 / 255


@pytest.mark.parametrize("file", ["team03_fmen.pth", "fmen_test_weights.pt"])
def test_released_weights_stay_finite_in_half_precision_on_set5(
    load: Callable[[Path], Any], reference: Path, file: str
) -> None:
    descriptor = load(reference / "weights" / file)
    assert descriptor.supports_half
    bird = read_image(reference / "data/Set5/LR_bicubic/X4/birdx4.png")
    x = torch.from_numpy(bird[:36, :36]).permute(2, 0, 1)[None].float() / 255
    exact = descriptor(x)
    half = descriptor.half()(x.half()).float()
    assert half.isfinite().all()
    assert (half - exact).abs().max() < 3 / 255


def test_half_precision_is_not_offered_for_a_network_that_leaves_its_range(
    load: Callable[[Path], Any], tmp_path: Path
) -> None:
    network = fmen_core.reparameterize(fmen_core.create_model("fmen-s"))
    with torch.no_grad():
        network.tail[0].bias.add_(1e6)
    fmen_core.save(network, tmp_path / "large.safetensors")
    assert not load(tmp_path / "large.safetensors").supports_half


def test_no_architecture_of_spandrels_own_takes_fmen_for_its_own(spandrel: ModuleType, weights: Path) -> None:
    network = fmen_core.reparameterize(fmen_core.load(weights))
    for state in (network.state_dict(), fmen_core.load(weights).state_dict()):
        assert not [support.architecture.id for support in spandrel.MAIN_REGISTRY if support.detect(dict(state))]


def test_weights_of_other_networks_are_left_to_spandrel(spandrel: ModuleType) -> None:
    from fmen.integrations.spandrel import FMENArchitecture

    architecture = FMENArchitecture()
    assert not architecture.detect({})
    assert not architecture.detect({"head.weight": 1, "lr_conv.weight": "two", "tail.0.weight": None})
    assert not architecture.detect(fmen_core.create_model("rfdn").state_dict())


def test_registering_twice_has_no_effect(spandrel: ModuleType) -> None:
    from fmen.integrations.spandrel import register

    registry = spandrel.ArchRegistry()
    register(registry)
    register(registry)
    assert len(registry) == 1
