"""Figures 6 to 8: the figures are those of the blocks, for any network, image and layers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.reproduction.experiments import read_result
from fmen.reproduction.spectra import verdict
from fmen.spectrum import BlockFeatures, block_features, high_share
from fmen_core import create_model, load, save
from fmen_data import write_image
from fmen_data.images import read_image


def fmen(*arguments: str | Path, status: int = 0) -> str:
    """Run ``fmen reproduce``, check its exit status, and return what it wrote."""
    result = CliRunner().invoke(app, ["reproduce", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of a small FMEN and of a small RFDN, and two images."""
    folder = tmp_path_factory.mktemp("spectra")
    torch.manual_seed(0)
    sizes = {"n_feats": 8, "mid_feats": 8, "down_blocks": 2, "up_blocks": (1, 1, 1)}
    save(create_model("fmen", scale=2, **sizes), folder / "small.safetensors")
    save(create_model("rfdn"), folder / "other.safetensors")
    rng = np.random.default_rng(0)
    for name, size in (("a", (20, 16)), ("b", (17, 25))):
        write_image(folder / "images" / f"{name}.png", rng.integers(0, 256, (*size, 3), np.uint8))
    return folder


def measured(work: Path, kind: str) -> list[tuple[BlockFeatures, ...]]:
    """The blocks of a class of the small FMEN, on both images."""
    network = load(work / "small.safetensors")
    images = [read_image(work / "images" / f"{name}.png") for name in "ab"]
    return list(zip(*([b for b in block_features(network, image) if b.kind == kind] for image in images), strict=True))


@pytest.mark.parametrize(("name", "kind", "count"), [("figure6", "HFAB", 3), ("figure7", "ERB", 2)])
def test_the_shares_are_means_over_the_images_and_the_curves_are_of_the_first(
    work: Path, name: str, kind: str, count: int
) -> None:
    weights, out, blocks = work / "small.safetensors", work / name, measured(work, kind)
    fmen(name, "--weights", weights, "--image", work / "images", "--out", out)
    result = read_result(out / f"{name}.json")
    assert len(blocks) == count and len(result.rows) == 3 * count
    for index, block in enumerate(blocks):
        before, after, risen = result.rows[3 * index : 3 * index + 3]
        assert before.subject == f"small: {kind}{index + 1}" and before.unit == "%"
        assert before.ours == pytest.approx(50 * sum(high_share(features.before) for features in block), rel=1e-4)
        assert after.ours == pytest.approx(50 * sum(high_share(features.after) for features in block), rel=1e-4)
        assert risen.ours == sum(features.raised > 1 for features in block)
        assert before.command == f"fmen reproduce {name} --weights {weights} --image {work / 'images'}"
    assert list(result.images.values()) == [f"{name}_small.svg"]
    assert "<svg" in (out / f"{name}_small.svg").read_text()
    spectra = json.loads((out / f"{name}_small_spectra.json").read_text())
    assert [record["block"] for record in spectra] == [block[0].name for block in blocks]
    assert spectra[0]["before"]["size"] == [20, 16]


def test_the_maps_have_their_largest_values_beside_them(work: Path) -> None:
    out = work / "maps"
    fmen("figure8", "--weights", work / "small.safetensors", "--image", work / "images", "--out", out)
    result = read_result(out / "figure8.json")
    expected = [
        max(float(np.abs(getattr(features, side)).max()) for features in block)
        for block in measured(work, "HFAB")
        for side in ("before", "after")
    ]
    assert [row.ours for row in result.rows] == pytest.approx(expected, rel=1e-4)
    assert list(result.images.values()) == ["figure8_small.png"] and (out / "figure8_small.png").stat().st_size


def test_several_networks_are_in_one_table_and_other_networks_show_all_their_blocks(work: Path) -> None:
    image = work / "images" / "b.png"
    output = fmen(
        "figure6", "--weights", work / "small.safetensors", "--weights", work / "other.safetensors", "--image", image
    )
    assert "| small: HFAB3 |" in output and "| small: ERB" not in output
    assert "| other: FeatureDistillation4 |" in output
    assert re.search(r"small: .* of 3 blocks", output) and re.search(r"other: .* of 4 blocks", output)


def test_layers_choose_the_modules(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--weights", work / "small.safetensors", "--image", work / "images" / "b.png")
    output = fmen("figure6", *options, "--layers", "ERBs.*", "--layers", "warmup.0", "--out", "spectra")
    assert "--layers ERBs.* --layers warmup.0" in Path("spectra/figure6.json").read_text()
    assert [word for word in ("Conv2d1", "ERB1", "ERB2", "HFAB1") if f"small: {word} |" in output] == [
        "Conv2d1",
        "ERB1",
        "ERB2",
    ]
    assert "--layers Missing: no module has this name or class" in fmen(
        "figure6", *options, "--layers", "Missing", status=2
    )


def test_the_bundled_weights_and_the_sample_are_the_default() -> None:
    output = fmen("figure7")
    assert "| fmen-s_x4: ERB4 |" in output and re.search(r"fmen-s_x4: .* of 4 blocks", output)


def test_the_verdict_names_blocks_that_agree_on_every_image() -> None:
    low, high = (np.tile(np.cos(np.pi * periods * np.arange(16) / 8), (16, 1)) for periods in (1, 6))

    def block(kind: str, before: float, after: float) -> BlockFeatures:
        """A block with these shares of high frequencies before and after it."""
        mixed = [np.sqrt(1 - share) * low + np.sqrt(share) * high for share in (before, after)]
        return BlockFeatures("name", kind, 1, *mixed)

    blocks = [
        (block("Raises", 0.1, 0.4), block("Raises", 0.2, 0.3)),
        (block("Mixed", 0.1, 0.4), block("Mixed", 0.4, 0.3)),
        (block("Lowers", 0.5, 0.4), block("Lowers", 0.4, 0.3)),
    ]
    assert verdict("net", blocks) == (
        "net: on each of 2 images, the share of high frequencies rises in 1 of 3 blocks (Raises1), "
        "and falls in 1 (Lowers1)."
    )
