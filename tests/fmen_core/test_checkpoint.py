"""Weights files: what is read, what is recognised, and what is refused in one clear line."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fmen_core import FMEN, FMENTraining, WeightsError, load, read_metadata, reparameterize, save

SIZES = {"scale": 2, "n_feats": 12, "mid_feats": 8, "down_blocks": 3, "up_blocks": (2, 1, 3, 1)}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return FMENTraining(**SIZES)


def challenge_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("ERBs.", "basic_blocks.").replace("HFABs.", "hfabs."): value for key, value in state.items()}


@pytest.mark.parametrize("form", ["training", "inference"])
def test_own_weights_come_back_with_sizes_and_metadata(model: FMENTraining, form: str, tmp_path: Path) -> None:
    original = model if form == "training" else reparameterize(model)
    save(original, tmp_path / "w.safetensors", recipe="quick", metadata={"step": "7"})
    loaded = load(tmp_path / "w.safetensors")
    assert type(loaded) is type(original) and not loaded.training
    assert (loaded.name, loaded.scale, loaded.data_range) == ("fmen", 2, 255.0)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in original.state_dict().items())
    metadata = read_metadata(tmp_path / "w.safetensors")
    assert (metadata["form"], metadata["recipe"], metadata["step"]) == (form, "quick", "7")


@pytest.mark.parametrize("layout", [dict, challenge_layout])
@pytest.mark.parametrize("form", ["training", "inference"])
@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_layouts_load_in_every_wrapping(
    model: FMENTraining,
    layout: Callable[..., dict[str, Tensor]],
    form: str,
    wrapper: str | None,
    prefix: str,
    tmp_path: Path,
) -> None:
    original = (model if form == "training" else reparameterize(model)).eval()
    state = {prefix + key: value for key, value in layout(original.state_dict()).items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth")
    assert type(loaded) is (FMENTraining if form == "training" else FMEN)
    x = torch.rand(1, 3, 6, 5) * 255
    with torch.no_grad():
        assert torch.equal(loaded(x), original(x))


def test_averaged_weights_are_preferred(model: FMENTraining, tmp_path: Path) -> None:
    zeros = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    torch.save({"params": zeros, "params_ema": model.state_dict()}, tmp_path / "w.pth")
    assert torch.equal(load(tmp_path / "w.pth").head.weight, model.head.weight)


def test_another_network_is_named_with_the_nearest_match_and_the_keys_that_differ(
    model: FMENTraining, tmp_path: Path
) -> None:
    state = reparameterize(model).state_dict()
    state["extra.weight"] = torch.zeros(1)
    del state["lr_conv.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"nearest match FMEN, but lr_conv\.bias is missing; extra\.weight is unknown$"
    ):
        load(tmp_path / "w.pth")


def test_a_stranger_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no known network has these weights; its first keys are weight, bias"):
        load(tmp_path / "w.pth")


class Exploit:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploited",)


def write_pickle_with_code(path: Path) -> None:
    torch.save({"weight": Exploit()}, path)


def write_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Exploit()}))


def write_text(path: Path) -> None:
    path.write_text("these are not weights\n" * 100)


def write_image(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)


def write_broken_pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x02junk")


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


def write_truncated(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1500])


def write_truncated_safetensors(path: Path) -> None:
    save(FMENTraining(**SIZES), path)
    path.write_bytes(path.read_bytes()[:5000])


def write_whole_module(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def write_number(path: Path) -> None:
    torch.save(torch.zeros(3), path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_pickle_with_code, "could run code"),
        (write_plain_pickle, "could run code"),
        (write_whole_module, "could run code"),
        (write_text, "not a weights file"),
        (write_image, "not a weights file"),
        (write_broken_pickle, "not a weights file"),
        (write_empty, "not a weights file"),
        (write_truncated, "not a weights file"),
        (write_truncated_safetensors, "not a weights file"),
        (write_number, "contains no tensors by name"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    write: Callable[[Path], None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "w.pth"
    write(file)
    with pytest.raises(WeightsError, match=reason) as caught:
        load(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "exploited").exists()


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        load(tmp_path / "w.pth")


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(
    model: FMENTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.safetensors"
    save(model, file)
    before = file.read_bytes()

    def fail(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        save(model, file)
    assert caught.value.filename == str(file)
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
