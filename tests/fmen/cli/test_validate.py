"""``fmen validate``: thresholds and the JSON file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.validation import Report, describe_network
from fmen_core import create_model, save
from fmen_data import imresize, list_images, write_image
from fmen_eval import ImageResult, ValidationResult


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two HR images under ``photos/`` and weights ``w.safetensors``; upscaling is bicubic."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FMEN_DEBUG", raising=False)
    monkeypatch.setattr("fmen.sources.openvino_file.Upscaler", lambda *_, **__: lambda lr: imresize(lr, 4))
    torch.manual_seed(0)
    save(create_model("fmen-s"), tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        write_image(tmp_path / "photos" / f"{name}.png", imresize(rng.integers(0, 256, (6, 8, 3), np.uint8), 8))
    return tmp_path


def validate(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["validate", "--weights", "w.safetensors", *arguments])
    assert result.exit_code == status, result.output
    return result.stdout


def report(psnr: float, first: int = 1, protocol: str = "ntire", scale: int = 4) -> Report:
    """A validation of 100 images named after DIV2K's, from ``first`` on, each with this PSNR."""
    images = tuple(ImageResult(f"{number:04d}", psnr, None, 0.0) for number in range(first, first + 100))
    return Report(ValidationResult(protocol, scale, images), "fmen-s", Path("w"), "d")  # type: ignore[arg-type]


def test_the_precision_reaches_the_upscaler_which_has_the_memory_format_of_the_published_code(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def upscaler(*_: object, precision: str, channels_last: bool, **__: object) -> object:
        given.append((precision, channels_last))
        return lambda lr: imresize(lr, 4)

    monkeypatch.setattr("fmen.sources.openvino_file.Upscaler", upscaler)
    validate("--data", "photos")
    validate("--data", "photos", "--precision", "bf16")
    assert given == [("fp32", False), ("bf16", False)]


@pytest.mark.parametrize(
    ("psnr", "first", "protocol", "scale", "passes"),
    [
        (28.9951, 801, "ntire", 4, True),
        (28.9949, 801, "ntire", 4, False),
        (20.0, 801, "paper", 4, None),
        (20.0, 801, "ntire", 2, None),
        (20.0, 1, "ntire", 4, None),
    ],
)
def test_the_challenge_threshold_is_29_db_rounded_on_div2k_x4_alone(
    psnr: float, first: int, protocol: str, scale: int, passes: bool | None
) -> None:
    assert report(psnr, first, protocol, scale).verdict(None)[0] is passes


@pytest.mark.parametrize("first", [1, 801])
@pytest.mark.parametrize(("psnr", "passes"), [(28.9951, False), (28.99999, False), (29.0, True), (29.0001, True)])
def test_a_given_threshold_is_compared_without_rounding(psnr: float, passes: bool, first: int) -> None:
    passed, line = report(psnr, first).verdict(29)
    assert passed is passes
    assert line.endswith("the threshold of 29 dB")


def test_validate_exits_with_1_below_the_threshold(work: Path) -> None:
    validate("--data", "photos", "--json", "r.json")
    psnr = json.loads((work / "r.json").read_text())["mean"]["psnr"]
    assert "reaches the threshold" in validate("--data", "photos", "--threshold", repr(psnr))
    above = repr(math.nextafter(psnr, math.inf))
    assert "is below the threshold" in validate("--data", "photos", "--threshold", above, status=1)


def test_equal_images_give_infinite_psnr_and_null_in_the_json_file(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fmen.sources.openvino_file.Upscaler", lambda *_, **__: lambda lr: np.repeat(np.repeat(lr, 4, 0), 4, 1)
    )
    write_image(work / "flat" / "gray.png", np.full((64, 64, 3), 128, np.uint8))
    stdout = validate("--data", "flat", "--json", "new/r.json", "--threshold", "100")
    assert "mean PSNR inf dB (ntire) reaches the threshold of 100 dB" in stdout
    written = json.loads((work / "new/r.json").read_text(), parse_constant=pytest.fail)
    assert written["mean"] == {"psnr": None, "ssim": 1.0}
    assert written["images"][0]["psnr"] is None


@pytest.mark.parametrize(("name", "form"), [("fmen-s", "training"), ("fmen-s", "inference"), ("span", "inference")])
def test_validate_prints_name_scale_and_form_of_the_network(name: str, form: str) -> None:
    model = create_model(name, form=form)  # type: ignore[arg-type]
    described = "training form, re-parameterized to the inference form" if form == "training" else "inference form"
    assert describe_network(model) == f"{name} x4, {described}"


@pytest.mark.usefixtures("work")
def test_validate_measures_the_sample_without_data_and_says_so(tmp_path: Path) -> None:
    assert "data sample-val: 2 images, x4" in validate("--save-images", "sr")
    assert [path.stem for path in list_images(tmp_path / "sr")] == ["chelsea", "coffee"]


def test_a_full_disk_is_one_line_with_a_remedy(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    arguments = ["validate", "--weights", "w.safetensors", "--data", "photos", "--json", "result.json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr == "error: result.json: No space left on device; free some space or write elsewhere\n"
    assert not (work / "result.json").exists()


@pytest.mark.parametrize("threshold", ["nan", "inf"])
def test_a_threshold_is_a_number_of_db(threshold: str) -> None:
    result = CliRunner().invoke(app, ["validate", "--threshold", threshold])
    assert result.exit_code == 2 and result.stderr == f"error: --threshold {threshold}: give a number of dB\n"
