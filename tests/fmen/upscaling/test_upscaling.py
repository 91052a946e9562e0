"""The command ``fmen upscale``: what is done again, what is skipped, options, errors, interruptions."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.upscaling import batch as upscaling
from fmen.upscaling.cluster import silent_stderr
from fmen.upscaling.manifest import read_records
from fmen.upscaling.photo import Photo
from fmen_core import FMENTraining, ModelError, Upscaler, pretrained, save

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


@pytest.fixture
def work(network: FMENTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a weights file, where no weights are bundled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FMEN_DEBUG", raising=False)
    save(network, tmp_path / "w.safetensors")
    return tmp_path


@pytest.fixture
def tree(work: Path) -> Path:
    """Pictures in a folder and in one below it."""
    (work / "in" / "sub" / ".hidden").mkdir(parents=True)
    for name in ("one.png", "sub/two.jpg", "sub/.hidden/three.png"):
        Image.fromarray(PICTURE).save(work / "in" / name)
    (work / "in" / "note.txt").write_text("no picture")
    return work


def fmen(*arguments: str | Path, status: int = 0, stdin: bytes | None = None) -> tuple[bytes, str]:
    result = CliRunner().invoke(app, ["upscale", *map(str, arguments)], input=stdin)
    assert result.exit_code == status, result.output
    return result.stdout_bytes, result.stderr


def test_what_is_done_is_skipped_until_the_source_changes(tree: Path) -> None:
    options = ["-o", "out", "--weights", "w.safetensors", "--precision", "fp32"]
    stdout, _ = fmen("in", *options)
    assert b"w.safetensors: fmen x2, fp32 on cpu" in stdout
    assert b"in/one.png (20x12) -> out/one.png (40x24)" in stdout
    assert fmen("in", *options)[0] == b"2 of 2 exist already (--overwrite makes them again)\n"
    os.utime(tree / "in" / "one.png", (0, 0))
    stdout, _ = fmen("in", *options)
    assert b"1 of 2 exist already" in stdout and b"two.jpg" not in stdout
    assert b"in/sub/two.jpg" in fmen("in", *options, "--overwrite")[0]
    fmen("in/one.png", "-o", "big.png", *options[2:])
    said = fmen("in/one.png", "-o", "big.png", *options[2:])[0]
    assert said == b"big.png exists already (--overwrite makes it again)\n"


def test_standard_input_and_output_carry_nothing_but_the_image(work: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG")
    stdout, stderr = fmen("-", "-o", "-", "--weights", "w.safetensors", stdin=buffer.getvalue())
    assert Image.open(io.BytesIO(stdout)).size == (40, 24)
    assert "standard input (20x12) -> standard output (40x24)" in stderr
    fmen("-", "-o", "big.png", "--weights", "w.safetensors", stdin=buffer.getvalue())
    assert np.array_equal(Image.open("big.png"), Image.open(io.BytesIO(stdout)))
    origin = read_records(work)["big.png"]
    assert origin is not None and origin["quality"] == 95 and not {"size", "mtime_ns"} & origin.keys()


def test_a_file_is_not_replaced_by_the_result_of_standard_input_or_of_another_image(tree: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "PNG")
    Image.fromarray(PICTURE).save("own.png")
    before = Path("own.png").read_bytes()
    options = ("--weights", "w.safetensors")
    _, stderr = fmen("-", "-o", "own.png", *options, stdin=buffer.getvalue(), status=2)
    assert stderr == "error: own.png: exists already; name another file, or add --overwrite\n"
    (tree / "other/sub").mkdir(parents=True)
    Image.fromarray(PICTURE).save(tree / "other/sub/two.png")
    _, stderr = fmen("in", "other/sub", "-o", "other", *options, "--overwrite", status=2)
    assert stderr == "error: other/sub/two.png would be written over; choose another name with --output\n"
    assert Path("own.png").read_bytes() == before == (tree / "other/sub/two.png").read_bytes()
    fmen("-", "-o", "own.png", *options, "--overwrite", stdin=buffer.getvalue())
    assert Image.open("own.png").size == (40, 24)


def test_options_that_do_nothing_are_refused(tree: Path) -> None:
    _, stderr = fmen("in", "-o", "out", "--workers", "2", status=2)
    assert stderr == "error: --workers is for --engine ray; for this engine use --threads\n"
    _, stderr = fmen("", "-o", "out", status=2)
    assert stderr == "error: an input has an empty name; name an image or a folder\n"


def test_one_bad_image_does_not_stop_the_others(tree: Path) -> None:
    (tree / "in" / "bad.png").write_bytes(b"no picture")
    stdout, stderr = fmen("in", "-o", "out", "--weights", "w.safetensors", status=2)
    assert b"one.png" in stdout and b"bad.png" not in stdout
    first, second = stderr.splitlines()
    assert first.startswith("error: in/bad.png is not a readable image")
    assert second == "error: 1 of 3 images could not be upscaled, for the reasons above"
    assert (tree / "out" / "one.png").is_file() and (tree / "out" / "sub" / "two.png").is_file()


def test_one_folder_that_cannot_be_written_does_not_stop_the_others(tree: Path) -> None:
    (tree / "out").mkdir()
    (tree / "out/sub").write_text("a file where a folder is needed")
    stdout, stderr = fmen("in", "-o", "out", "--weights", "w.safetensors", status=2)
    assert b"one.png" in stdout and Image.open(tree / "out/one.png").size == (40, 24)
    assert stderr.splitlines() == [
        "error: cannot write out/sub/.fmen-upscale.jsonl: Not a directory; free some space or choose another place",
        "error: 1 of 2 images could not be upscaled, for the reasons above",
    ]


def test_tiles_precision_and_ensemble_reach_the_upscaler(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []

    class Recorder(Upscaler):
        def __init__(self, model: torch.nn.Module, **options: object) -> None:
            made.append(options)
            super().__init__(model, **options)

    monkeypatch.setattr("fmen.sources.openvino_file.Upscaler", Recorder)
    weights = ["--weights", "w.safetensors", "--overwrite"]
    options = ["--tile", "16", "--precision", "bf16", "--ensemble", "--device", "cpu"]
    stdout, _ = fmen("in/one.png", "-o", "big.png", *weights, *options)
    assert b"bf16 on cpu" in stdout and Image.open("big.png").size == (40, 24)
    fmen("in/one.png", "-o", "big.png", *weights, "--tile", "none")
    fmen("in/one.png", "-o", "big.png", *weights)
    expected = [("cpu", "bf16", 16, True), ("auto", "auto", None, False), ("auto", "auto", "auto", False)]
    assert [
        tuple(given[name] for name in ("device", "precision", "tile", "self_ensemble")) for given in made
    ] == expected
    _, stderr = fmen("in/one.png", "-o", "big.png", *weights, "--tile", "big", status=2)
    assert stderr == "error: --tile big: give a number of pixels, or auto, or none\n"


def test_ctrl_c_leaves_whole_files_only(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: io.BytesIO, *_: object, **__: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("fmen.upscaling.photo.encode_photo", interrupted)
    _, stderr = fmen("in", "-o", "out", "--weights", "w.safetensors", status=130)
    assert stderr == "error: interrupted\n"
    assert {path.name for path in (tree / "out").rglob("*") if path.is_file()} <= {".fmen-upscale.jsonl"}


def test_weights_come_from_the_newest_run_or_else_from_the_package(tree: Path, network: FMENTraining) -> None:
    _, stderr = fmen("in/one.png", "-o", "big.png", status=2)
    assert "no trained weights for fmen-s x4: bundled are none, and there is no run under runs/" in stderr
    (tree / "runs" / "r").mkdir(parents=True)
    save(network, tree / "runs" / "r" / "best.safetensors")
    assert b"weights runs/r/best.safetensors" in fmen("in/one.png", "-o", "big.png")[0]
    (tree / "bundled").mkdir()
    (tree / "runs" / "r" / "best.safetensors").rename(tree / "bundled" / "fmen-s_x2.safetensors")
    bundled = fmen("in/one.png", "-o", "big.png", "--scale", "2", "--overwrite")[0]
    assert b"weights fmen-s_x2 (bundled): fmen x2" in bundled
    assert b"fmen-s_x2" in fmen("in/one.png", "-o", "big.png", "--weights", "fmen-s_x2", "--overwrite")[0]


def test_out_of_memory_is_a_line_with_a_remedy(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(upscaling, "run_network", exhausted)
    _, stderr = fmen("in/one.png", "-o", "big.png", "--weights", "w.safetensors", status=2)
    assert stderr == "error: in/one.png: out of memory; upscale a part of the image, or free some memory\n"


@pytest.mark.parametrize("error", [MemoryError(), ModelError("out of memory on 20x12 pixels")])
def test_one_image_that_is_out_of_memory_does_not_stop_the_others(
    tree: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original = upscaling.run_network
    Image.fromarray(PICTURE[:, :-1]).save(tree / "in" / "one.png")

    def exhausted(upscaler: Upscaler, photo: Photo, on_tile: object = None) -> Photo:
        if photo.pixels.shape[1] == PICTURE.shape[1] - 1:
            raise error
        return original(upscaler, photo)

    monkeypatch.setattr(upscaling, "run_network", exhausted)
    _, stderr = fmen("in", "-o", "out", "--weights", "w.safetensors", status=2)
    first, second = stderr.splitlines()
    assert first.startswith("error: in/one.png: out of memory")
    assert second == "error: 1 of 2 images could not be upscaled, for the reasons above"
    assert (tree / "out" / "sub" / "two.png").is_file() and not (tree / "out" / "one.png").exists()


@pytest.mark.parametrize(
    "changed",
    [
        ["--weights", "x3.safetensors"],
        ["--ensemble"],
        ["--precision", "bf16"],
        ["--quality", "50"],
    ],
)
def test_results_made_with_other_settings_are_made_again(tree: Path, changed: list[str]) -> None:
    torch.manual_seed(0)
    save(FMENTraining(scale=3, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1)), tree / "x3.safetensors")
    options = ["in", "-o", "out", "--weights", "w.safetensors", "--precision", "fp32"]
    fmen(*options)
    assert b"2 of 2 exist already" in fmen(*options)[0]
    stdout, _ = fmen(*options, *changed)
    assert b"one.png" in stdout and b"two.jpg" in stdout and b"already" not in stdout
    assert b"2 of 2 exist already" in fmen(*options, *changed)[0]
    assert b"already" not in fmen(*options)[0]


def test_a_record_that_was_cut_off_is_ignored(tree: Path) -> None:
    options = ["in", "-o", "out", "--weights", "w.safetensors"]
    fmen(*options)
    records = tree / "out" / ".fmen-upscale.jsonl"
    with records.open("a") as file:
        file.write('5\n[{}, null]\n["one.png", 5]\n["two.jpg.png", "x"]\n["one.png", {"si')
    assert b"2 of 2 exist already" in fmen(*options)[0]


def test_a_file_that_fmen_did_not_write_is_not_overwritten(tree: Path) -> None:
    Image.fromarray(PICTURE).save("big.png")
    assert b"big.png exists already" in fmen("in/one.png", "-o", "big.png", "--weights", "w.safetensors")[0]
    assert Image.open("big.png").size == (20, 12)


def test_standard_error_is_discarded_for_a_while_and_then_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    with silent_stderr():
        os.write(2, b"discarded")
    os.write(2, b"shown")
    assert capfd.readouterr().err == "shown"
