"""Weights files: what is read and recognised, and what is refused with one line."""

from __future__ import annotations

import errno
import inspect
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fmen_core import (
    FMEN,
    FMENTraining,
    WeightsError,
    create_model,
    load,
    read_metadata,
    read_weights,
    reparameterize,
    save,
)
from fmen_core.checkpoint import differences, write_file
from fmen_core.models import ARCHITECTURES, recognise

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
@pytest.mark.parametrize("prefix", ["", "module.", "module.module._orig_mod."])
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


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no known network has these weights; its first keys are weight, bias"):
        load(tmp_path / "w.pth")


class Exploit:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploited",)


def write_pickle_with_code(path: Path) -> None:
    torch.save({"weight": Exploit()}, path)


def write_torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/constants.pkl", b"")


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
        (write_torchscript, "a TorchScript file; name the weights that it was exported from"),
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


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r": is a folder; name a weights file"):
        load(tmp_path)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
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


# --- weights that cannot be used --------------------------------------------------------------------------------------


def refused(state: object, tmp_path: Path) -> str:
    """The message with which a file is refused."""
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "w.pth")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'w.pth'}: ") and "\n" not in message
    return message.removeprefix(f"{tmp_path / 'w.pth'}: ")


@pytest.mark.parametrize("key", ["head.weight", "tail.0.weight", "lr_conv.bias"])
def test_a_scalar_weight_is_reported_with_its_shape(model: FMENTraining, key: str, tmp_path: Path) -> None:
    state = reparameterize(model).state_dict()
    state[key] = torch.tensor(1.0)
    assert f"nearest match FMEN, but {key} is (), expected (" in refused(state, tmp_path)


def test_a_dictionary_that_contains_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, object] = {"epoch": 1}
    state["model"] = state
    assert "contains no tensors by name" in refused(state, tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("key", ["lr_conv.weight", "warmup.1.bn1.running_var"])
def test_weights_that_are_not_finite_are_refused_by_name(
    model: FMENTraining, key: str, value: float, tmp_path: Path
) -> None:
    state = model.state_dict()
    state[key].view(-1)[-1] = value
    assert refused(state, tmp_path) == f"{key} contains NaN or infinity; use an earlier checkpoint of the run"


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_weights_that_are_not_floating_point_numbers_are_refused_by_name(
    model: FMENTraining, dtype: torch.dtype, tmp_path: Path
) -> None:
    state = model.state_dict() | {"lr_conv.weight": model.lr_conv.weight.detach().to(dtype)}
    name = str(dtype).removeprefix("torch.")
    assert refused(state, tmp_path).startswith(f"lr_conv.weight is {name}; expected float32, float16, bfloat16")


def test_sparse_weights_are_refused_by_name(model: FMENTraining, tmp_path: Path) -> None:
    state = model.state_dict() | {"lr_conv.bias": model.lr_conv.bias.detach().to_sparse()}
    assert refused(state, tmp_path).startswith("lr_conv.bias is sparse_coo; expected float32")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_load_as_float32(model: FMENTraining, dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth").state_dict()
    for key, value in state.items():
        expected = value.float() if value.is_floating_point() else value
        assert loaded[key].dtype == expected.dtype and torch.equal(loaded[key], expected), key


def test_a_network_with_sizes_of_its_own_is_compared_with_those_sizes(model: FMENTraining, tmp_path: Path) -> None:
    state = model.state_dict()
    state["lr_conv.weight"] = torch.zeros(12, 12, 1, 1)
    message = refused(state, tmp_path)
    assert message.endswith("nearest match FMEN, but lr_conv.weight is (12, 12, 1, 1), expected (12, 12, 3, 3)")


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["training", "inference"])
def test_metadata_describes_the_network(form: str, tmp_path: Path) -> None:
    save(create_model("fmen", form=form, **SIZES), tmp_path / "w.safetensors")
    metadata = read_metadata(tmp_path / "w.safetensors")
    sizes = {**{key: value for key, value in SIZES.items() if key != "scale"}, "up_blocks": [2, 1, 3, 1]}
    assert json.loads(metadata.pop("sizes")) == (sizes | {"ratio": 2, "block": "rrrb"} if form == "training" else sizes)
    assert metadata.pop("fmen_core") and len(metadata.pop("fmen_core_checksum")) == 32
    assert metadata == {
        "format": "pt",
        "name": "fmen",
        "form": form,
        "scale": "2",
        "data_range": "255.0",
        "recipe": "",
    }


def test_a_network_that_is_not_in_the_package_is_saved_with_its_attributes(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    network.name, network.scale, network.data_range, network.sizes = "own", 2, 1.0, {"depth": 3}
    save(network, tmp_path / "w.safetensors", metadata={"recipe": "mine"})
    metadata = read_metadata(tmp_path / "w.safetensors")
    assert (metadata["name"], metadata["form"], metadata["scale"], metadata["sizes"]) == (
        "own",
        "inference",
        "2",
        '{"depth": 3}',
    )
    assert metadata["recipe"] == "mine"
    network.sizes = [1, 3]
    save(network, tmp_path / "w.safetensors")
    assert read_metadata(tmp_path / "w.safetensors")["sizes"] == "{}"
    torch.save({}, tmp_path / "w.pth")
    assert read_metadata(tmp_path / "w.pth") == {}


def test_an_error_of_a_read_only_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError) as error:
        write_file(tmp_path / "w.safetensors", b"")
    assert error.value.filename == str(tmp_path / "w.safetensors")


def test_saving_writes_to_the_disk_under_a_random_name_first(
    model: FMENTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, synced, sync = [], [], os.fsync

    def observe(handle: int) -> None:
        names.extend(path.name for path in tmp_path.iterdir())
        synced.append(os.fstat(handle).st_size)
        sync(handle)

    monkeypatch.setattr(os, "fsync", observe)
    for _ in range(2):
        save(model, tmp_path / "w.safetensors")
    temporary = {name for name in names if name != "w.safetensors"}
    assert len(temporary) == 2 and all(name.startswith(".w.safetensors.") for name in temporary)
    assert synced == [(tmp_path / "w.safetensors").stat().st_size] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_size_that_changes_no_shape_comes_back(tmp_path: Path) -> None:
    model = create_model("rfdn", n_feats=8, esa_feats=3, residual=False)
    save(model, tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors")
    assert loaded.sizes == {"n_feats": 8, "esa_feats": 3, "residual": False}
    x = 255 * torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(x), model.eval()(x))


@pytest.mark.parametrize("sizes", ["[1", "3", '{"residual": 1, "n_feats": 3}'])
def test_metadata_does_not_override_what_the_tensors_show(sizes: str, tmp_path: Path) -> None:
    save(create_model("rfdn", n_feats=8), tmp_path / "w.safetensors", metadata={"sizes": sizes})
    assert load(tmp_path / "w.safetensors").sizes["n_feats"] == 8


def test_every_size_of_a_network_is_read_from_its_weights_or_their_metadata() -> None:
    for architecture in ARCHITECTURES:
        for constructor in filter(None, (architecture.inference, architecture.training)):
            form = "inference" if constructor is architecture.inference else "training"
            model = architecture.build(form=form)  # type: ignore[arg-type]
            found = recognise(model.state_dict())
            assert found is not None
            sizes = inspect.signature(constructor).parameters.keys() - {"scale"}
            assert sizes <= {*found[1], *found[0].hidden_sizes}, architecture.name


def test_a_layer_that_is_used_twice_can_be_saved(tmp_path: Path) -> None:
    layer = torch.nn.Conv2d(3, 3, 1)
    save(torch.nn.Sequential(layer, layer), tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_weights_of_a_users_network_are_not_taken_for_a_known_one(tmp_path: Path) -> None:
    user = {"module_file": "mine.py", "module_class": "Mine"}
    save(create_model("span", n_feats=8), tmp_path / "w.safetensors", metadata=user)
    with pytest.raises(WeightsError, match=r"these are weights of Mine in mine\.py; .* --model mine.py:Mine"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_one_changed_bit_in_a_weight_is_noticed(model: nn.Module, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), path)
    else:
        save(model, path)
    content = bytearray(path.read_bytes())
    at = content.find(model.state_dict()["head.weight"].numpy().tobytes())
    assert at > 0
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a weights file or a damaged one"):
        load(path)


def test_an_error_of_the_reader_without_a_file_name_is_damage(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(model.state_dict(), tmp_path / "a.pth")
    for error in (OSError(errno.EINVAL, "Invalid argument"), AssertionError("saved_id must be a tuple")):
        monkeypatch.setattr(torch, "load", raising(error))
        with pytest.raises(WeightsError, match="a damaged one"):
            load(tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", raising(OSError(errno.EACCES, "denied", "a.pth")))
    with pytest.raises(PermissionError):
        load(tmp_path / "a.pth")


def raising(error: Exception) -> Callable[..., None]:
    def function(*args: object, **kwargs: object) -> None:
        raise error

    return function


def test_three_differences_are_named_and_more_are_counted() -> None:
    expected = {key: torch.Size([1]) for key in "abcd"}
    assert differences({}, {key: expected[key] for key in "abc"}) == "a is missing; b is missing; c is missing"
    assert differences({}, expected) == "a is missing; b is missing; c is missing and 1 more"
