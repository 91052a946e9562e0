"""``fmen data``: output and exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import fmen_core
from fmen.cli.data import data_app
from fmen.cli.main import Commands
from fmen_data import image_size, open_dataset, write_image

app = typer.Typer(cls=Commands)
app.add_typer(data_app, name="data")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_image(tmp_path / f"set/HR/{name}.png", np.zeros((16, 24, 3), np.uint8))
        write_image(tmp_path / f"set/LR_bicubic/X4/{name}x4.png", np.zeros((4, 6, 3), np.uint8))
    return tmp_path / "set"


def test_prepare_writes_a_cache_and_says_where(benchmark: Path, tmp_path: Path) -> None:
    status, output = run("prepare", "--data", benchmark, "--out", tmp_path / "c.h5")
    assert status == 0 and (tmp_path / "c.h5").is_file()
    assert "2 images of set at scale 4" in output


def test_prepare_leaves_bad_images_out_on_request(tmp_path: Path) -> None:
    write_image(tmp_path / "set/good.png", np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "set/bad.png").write_bytes(b"")
    given = ("prepare", "--data", tmp_path / "set", "--out", tmp_path / "c.h5")
    assert run(*given)[0] == 2
    status, output = run(*given, "--skip-bad")
    assert status == 0
    assert f"left out: {tmp_path}/set/bad.png is empty" in output and "1 images of set" in output


def test_prepare_refuses_a_file_that_is_not_a_cache(benchmark: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    status, output = run("prepare", "--data", benchmark, "--out", tmp_path / "notes.txt")
    assert status == 2
    assert output.startswith("error: ") and "notes.txt is not an image cache" in output and output.count("\n") == 1


def test_verify_exits_with_zero_one_or_two(benchmark: Path, tmp_path: Path) -> None:
    status, output = run("verify", "--data", benchmark)
    assert status == 0 and "4 images checked, no problems" in output
    (benchmark / "HR/a.png").write_bytes(b"")
    status, output = run("verify", "--data", benchmark)
    assert status == 1 and "a.png is " in output and "1 problem\n" in output
    status, output = run("verify", "--data", tmp_path / "absent")
    assert status == 2 and "absent" in output


def test_a_damaged_cache_is_reported_and_rebuilt(tmp_path: Path) -> None:
    for i in range(20):
        write_image(tmp_path / f"set/{i:02d}.png", np.full((16, 24, 3), 10 + i, np.uint8))
    cache = tmp_path / "c.h5"
    run("prepare", "--data", tmp_path / "set", "--out", cache)
    assert run("verify", "--cache", cache) == (0, "20 images of set checked, no problems\n")
    content = cache.read_bytes()
    cache.write_bytes(content.replace(bytes([29]) * 99, bytes([28]) * 99, 1))  # the last image
    status, output = run("verify", "--cache", cache)
    assert status == 1 and "c.h5 is damaged: the pixels of hr/19 do not match their checksum" in output
    assert run("prepare", "--data", tmp_path / "set", "--out", cache)[0] == 0
    assert run("verify", "--cache", cache)[0] == 0
    status, output = run("verify", "--cache", tmp_path / "none.h5")
    assert status == 2 and "none.h5" in output
    status, output = run("verify", tmp_path / "set", "--cache", cache)
    assert (status, output) == (2, "error: --cache FILE is checked alone; leave the dataset and --deep out\n")


def test_the_messages_of_decoders_do_not_reach_the_terminal(tmp_path: Path) -> None:
    for name in ("a.tif", "b.bmp"):
        write_image(tmp_path / "set" / name, np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
        data = (tmp_path / "set" / name).read_bytes()
        (tmp_path / "set" / name).write_bytes(data[: len(data) // 2])
    command = [sys.executable, "-m", "fmen", "data", "verify", "--deep", "--data", str(tmp_path / "set")]
    environment = {key: value for key, value in os.environ.items() if key not in ("OPENCV_LOG_LEVEL", "FMEN_DEBUG")}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 1 and found.stderr == ""
    assert [line.split("/")[-1].split()[0] for line in found.stdout.splitlines()[:2]] == ["a.tif", "b.bmp"]


def test_verify_takes_every_source_that_validate_takes(benchmark: Path, tmp_path: Path) -> None:
    for folder, images in (("DIV2K_LSDIR_valid_HR", "HR"), ("DIV2K_LSDIR_valid_LR", "LR_bicubic/X4")):
        shutil.copytree(benchmark / images, tmp_path / "challenge" / folder)
    two = f"{benchmark}/HR,{benchmark}/LR_bicubic/X4"
    for source, images in ((tmp_path / "challenge", "4"), (two, "4"), ("sample", "11")):
        assert run("verify", "--data", source) == (0, f"{images} images checked, no problems\n")
    status, output = run("info", "--data", tmp_path / "challenge")
    assert status == 0 and "DIV2K_LSDIR_valid_LR: 2 images, 6x4" in output


def test_info_shows_the_folders(benchmark: Path) -> None:
    status, output = run("info", "--data", benchmark)
    assert status == 0
    assert f"{benchmark / 'HR'}: 2 images, 24x16, 0.0 MB" in output


def test_info_and_verify_take_the_folder_as_an_argument(benchmark: Path, tmp_path: Path) -> None:
    assert run("verify", benchmark) == (0, "4 images checked, no problems\n")
    assert run("info", benchmark) == run("info", "--data", benchmark)
    status, output = run("verify", benchmark, "--data", tmp_path)
    assert status == 2 and output == f"error: {benchmark} and --data {tmp_path} name two datasets; name one\n"


@pytest.mark.parametrize(("name", "archive"), [((), "DIV2K_train_HR.zip"), (("Flickr2K",), "Flickr2K.tar")])
def test_a_download_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: tuple[str, ...], archive: str
) -> None:
    monkeypatch.setattr("fmen_data.download._PAUSE", 0.0)
    status, output = run("download", *name, "--data", tmp_path / "data", "--url", "http://127.0.0.1:9")
    assert status == 2 and output.count("\n") == 1
    assert output.startswith(f"error: cannot download http://127.0.0.1:9/{archive}: ")


def test_label_writes_pairs_of_the_teachers_scale(benchmark: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ("label", "--data", benchmark / "HR", "--out", tmp_path / "out", "--factor", "1", "--device", "cpu")
    assert run(*arguments, "--weights", weights) == (0, f"{tmp_path}/out: 2 new pairs, x4\n")
    assert [image_size(tmp_path / "out/HR" / f"{name}_100.png") for name in "ab"] == [(64, 96)] * 2
    assert run(*arguments, "--weights", weights) == (0, f"{tmp_path}/out: 0 new pairs, x4\n")


def test_pairs_of_other_teachers_are_not_mixed(benchmark: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ("label", "--data", benchmark / "HR", "--out", tmp_path / "out", "--factor", "1", "--device", "cpu")
    assert run(*arguments, "--weights", weights)[0] == 0
    fmen_core.save(fmen_core.create_model("span", n_feats=4), tmp_path / "other.safetensors")
    status, output = run(*arguments, "--weights", tmp_path / "other.safetensors")
    assert status == 2
    assert f"out has pairs from other teachers ({weights.name}); name another folder with --out" in output


def test_a_refused_run_does_not_bind_the_folder_to_its_teachers(weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photos/a.png", np.zeros((4, 6, 3), np.uint8))
    arguments = ("label", "--data", tmp_path / "photos", "--out", tmp_path / "out", "--device", "cpu")
    assert run(*arguments, "--weights", weights, "--factor", "2")[0] == 2
    fmen_core.save(fmen_core.create_model("span", n_feats=4), tmp_path / "other.safetensors")
    status, output = run(*arguments, "--weights", tmp_path / "other.safetensors", "--factor", "1")
    assert (status, output) == (0, f"{tmp_path}/out: 1 new pairs, x4\n")
    assert list(json.loads((tmp_path / "out/teachers.json").read_text()).values()) == ["other.safetensors"]


def test_teachers_with_self_ensemble_are_averaged_over_flips_and_rotations(weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photos/a.png", np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8))
    arguments = ("label", "--data", tmp_path / "photos", "--factor", "1", "--device", "cpu", "--weights", weights)
    assert run(*arguments, "--out", tmp_path / "out", "--ensemble")[0] == 0
    lr, hr = open_dataset(tmp_path / "out", scale=4).read(0)
    teacher = fmen_core.load(weights)
    assert np.array_equal(hr, fmen_core.Upscaler(teacher, device="cpu", self_ensemble=True)(lr))
    assert not np.array_equal(hr, fmen_core.Upscaler(teacher, device="cpu")(lr))
    status, output = run(*arguments, "--out", tmp_path / "out")
    assert status == 2
    assert f"out has pairs from other teachers ({weights.name} (ensemble)); name another folder" in output


def test_teachers_of_different_scales_are_refused(benchmark: Path, weights: Path, tmp_path: Path) -> None:
    fmen_core.save(fmen_core.create_model("fmen-s", scale=2), tmp_path / "x2.safetensors")
    status, output = run(
        "label", "--data", benchmark, "--out", tmp_path, "--weights", weights, "--weights", tmp_path / "x2.safetensors"
    )
    assert (status, output) == (2, "error: the teachers have the scales 2, 4; give teachers of one scale\n")


def test_synthesize_says_how_many_images_exist_already(tmp_path: Path) -> None:
    given = ("synthesize", tmp_path / "drawn", "--kind", "leaves", "--side", 64)
    assert run(*given, "--count", 1) == (0, f"{tmp_path}/drawn: 1 new images, 0 exist already\n")
    assert run(*given, "--count", 2, "--seed", 1) == (0, f"{tmp_path}/drawn: 1 new images, 1 exist already\n")
    assert run(*given, "--side", 96)[0] == 2
