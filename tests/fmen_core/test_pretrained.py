"""Weights by name: what ships inside the package, what is published elsewhere, and what is missing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from fmen_core import (
    FMENTraining,
    WeightsError,
    create_model,
    find_weights,
    fmen_full,
    fmen_s,
    pretrained,
    reparameterize,
    save,
)
from fmen_core.pretrained import PUBLISHED, bundled, known_names

FILES = {
    "fmen-s-ntire2022": "team03_fmen.pth",
    "fmen-s-authors": "fmen_test_weights.pt",
    "imdn-baseline": "imdn_baseline.pth",
    "rfdn": "rfdn_baseline.pth",
    "rlfn-cut": "team04_rlfn.pth",
    "neesr": "team05_efdn.pt",
    "repafdn": "team10_repafdn.pth",
    "imdn-plus": "team39_imdn_plus.pth",
    "rfdn-pruned": "team40_rfdn_pruned.pth",
    "span": "ntire2026_span.pth",
    "imdn-x2": "IMDN_x2.pth",
    "imdn-x3": "IMDN_x3.pth",
    "imdn-x4": "IMDN_x4.pth",
}


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box that holds FMEN-S x2 alone, and an empty cache."""
    folder = tmp_path / "box"
    folder.mkdir()
    torch.manual_seed(0)
    save(reparameterize(create_model("fmen-s", 2)), folder / "fmen-s_x2.safetensors")
    monkeypatch.setattr(pretrained, "BUNDLED", folder)
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_pretrained_network_comes_out_of_the_box_ready_to_use(box: Path) -> None:
    model = fmen_s(scale=2, pretrained=True)
    assert (model.name, model.scale, model.training) == ("fmen-s", 2, False)
    torch.manual_seed(0)
    expected = reparameterize(create_model("fmen-s", 2))
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_network_that_is_not_pretrained_is_fresh_and_in_its_training_form(box: Path) -> None:
    assert isinstance(fmen_s(3), FMENTraining) and fmen_s(3).scale == 3
    assert fmen_full().name == "fmen"


def test_what_the_box_lacks_is_said_with_what_it_has(box: Path) -> None:
    with pytest.raises(WeightsError, match=r"no trained fmen x4 is in the package \(available: fmen-s_x2\)"):
        fmen_full(pretrained=True)
    with pytest.raises(ValueError, match="fmen-s is not defined for scale 5; choose one of 2, 3, 4"):
        fmen_s(5)


def test_weights_are_found_by_path_and_by_name(box: Path) -> None:
    assert find_weights("fmen-s_x2") == box / "fmen-s_x2.safetensors"
    assert find_weights(box / "fmen-s_x2.safetensors") == box / "fmen-s_x2.safetensors"
    entry = pretrained.published("rfdn")
    with pytest.raises(
        WeightsError, match="the weights rfdn are not on this machine; get them with: fmen weights get rfdn"
    ):
        find_weights("rfdn")
    entry.file.parent.mkdir(parents=True)
    entry.file.touch()
    assert find_weights("rfdn") == entry.file


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("nothing", "no weights are called 'nothing'; choose one of fmen-s_x2, fmen-s-ntire2022"),
        ("nothing.pth", "nothing.pth: no such weights file"),
        ("folder/rfdn", "folder/rfdn: no such weights file"),
    ],
)
def test_an_unknown_name_and_a_missing_file_are_told_apart(box: Path, weights: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        find_weights(weights)


def test_every_file_in_the_box_is_the_network_of_its_name() -> None:
    for name, path in bundled().items():
        network, _, scale = name.rpartition("_x")
        model = fmen_s(int(scale), pretrained=True) if network == "fmen-s" else fmen_full(int(scale), pretrained=True)
        assert (model.name, model.scale) == (network, int(scale)), path


def test_names_are_unique() -> None:
    assert len(set(known_names())) == len(known_names())


@pytest.mark.parametrize("name", FILES)
def test_published_sizes_and_checksums_are_those_of_the_files(reference: Path, name: str) -> None:
    assert FILES.keys() == {entry.name for entry in PUBLISHED}
    content = (reference / "weights" / FILES[name]).read_bytes()
    entry = pretrained.published(name)
    assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
