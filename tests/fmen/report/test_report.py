"""The report: contents of the page, its size, and its behavior in a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.errors import UserError
from fmen.report.encoding import BUDGET, LOSSLESS, PAGE_BUDGET, PREVIEW_QUALITIES
from fmen.report.features import colorize
from fmen.report.gallery import SHOWN_SIDE, make_gallery, name_networks, read_picture, read_pictures
from fmen.report.images import CROP, ComparedImage, Quality, compare, error_map, pick_windows
from fmen.report.inputs import BenchRow, LogRow, ReportError, read_validation
from fmen.report.page import page_protocol, remarks, write_report
from fmen.report.perceptual import make_distances
from fmen.report.tables import Cell, Table, challenge_table, comparison_table, mean
from fmen.report.training import (
    compared_curves,
    duration,
    logged_series,
    of_protocol,
    training_curves,
    training_part,
)
from fmen.spectrum import block_features, high_share
from fmen.training.run_folder import Run
from fmen_core import create_model, load, save
from fmen_data import DataError, imresize, open_dataset, write_image
from fmen_data.images import read_image
from fmen_eval import psnr

EVIL = '<script>alert("x")</script>&'

BENCH = [
    {"model": "imdn-baseline", "params": 893936, "runtime_ms": 30.0, "peak_memory_bytes": 120 * 2**20, "psnr": 30.3},
    {"model": "fmen-s", "params": 341066, "runtime_ms": 15.0, "peak_memory_bytes": 60 * 2**20, "psnr": 30.1},
    {"model": EVIL, "params": 150688, "runtime_ms": 10.0, "peak_memory_bytes": 90 * 2**20},
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a run, and the JSON of the other commands; it becomes the working folder."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for name, size in (("one & <two>", (36, 48)), ("three", (15, 10))):
        write_image(folder / "photos" / f"{name}.png", imresize(rng.integers(0, 256, (*size, 3), np.uint8), 8))
    run = folder / "runs" / "fmen-s_x4_quick"
    run.mkdir(parents=True)
    torch.manual_seed(0)
    save(create_model("fmen-s"), run / "best.safetensors")
    records = [{"step": 10 * i, "seconds": 2.0 * i, "loss": 50 / i} for i in range(1, 31)]
    records += [{"step": 100 * i, "seconds": 20.0 * i, "psnr": 28.0 + i} for i in range(1, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    images = [{"name": EVIL, "psnr": 31.5, "ssim": 0.9, "seconds": 0.1}]
    images += [{"name": "same", "psnr": float("inf"), "ssim": None, "seconds": 0.1}]
    validation = {"model": "fmen-s", "weights": "w.pth", "protocol": "ntire", "scale": 4, "images": images}
    (folder / "validation.json").write_text(json.dumps({**validation, "mean": {"psnr": 31.5, "ssim": 0.9}}))
    counts = {"flops": 22_280_000_000, "macs": 1, "activations": 72_089_600, "convs": 34}
    (folder / "bench.json").write_text(json.dumps([{**counts, **row} for row in BENCH]))
    return folder


@pytest.fixture(scope="module")
def page(work: Path) -> Path:
    """A page with all sections."""
    fmen(
        work,
        *("report", "--run", "runs/fmen-s_x4_quick", "--data", "photos", "--out", "out/report.html"),
        *("--bench", "bench.json", "--validate", "validation.json", "--spectrum", "--device", "cpu"),
    )
    return work / "out" / "report.html"


def fmen(folder: Path, *arguments: str, status: int = 0) -> str:
    """Run a command in a folder, check its exit status, and return what it said."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, list(arguments))
    finally:
        os.chdir(before)
    assert result.exit_code == status, result.output
    return result.output


def bench_rows() -> list[BenchRow]:
    return [BenchRow(flops=10**9, activations=10**6, convs=3, **row) for row in BENCH]  # type: ignore[arg-type]


def blurred(lr: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An upscaler that differs slightly from bicubic everywhere."""
    return imresize(imresize(lr, 0.5), 8)


def test_the_page_has_all_sections_and_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert all(f'<section id="{part}"' in text for part in ("training", "validation", "networks", "images", "features"))
    assert "default-src 'none'" in text
    links = re.findall(r"""(?:src|href)=["']?([^"'>]*)""", text)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"https?:|url\((?!#)|@import", re.sub(r"data:[^\"]*", "", text))


def test_the_features_are_those_of_each_network_on_the_first_image(work: Path, page: Path) -> None:
    text = page.read_text(encoding="utf-8").partition('<section id="features"')[2]
    lr = imresize(read_image(work / "photos" / "one & <two>.png"), 0.25)
    blocks = block_features(load(work / "runs" / "fmen-s_x4_quick" / "best.safetensors"), lr)
    assert "on one &amp; &lt;two&gt;" in text
    assert re.findall(r"<figcaption>(\w+)</figcaption>", text) == [block.title for block in blocks]
    assert text.count('alt="Mean feature map') == 2 * len(blocks) == 18
    sources = re.findall(r'<img src="([^"]*)"[^>]*alt="(Mean feature map [^"]*)"', text)
    shown = {alt: uri for uri, alt in sources}
    for block in blocks:
        assert shown[f"Mean feature map before {block.title}"] == colorize(block.before).uri
        assert shown[f"Mean feature map after {block.title}"] == colorize(block.after).uri
        assert f'data-order="{block.raised}"' in text and f"{100 * high_share(block.before):.1f} %" in text


def test_layers_choose_what_the_features_are_measured_on(work: Path) -> None:
    layers = ("--layers", "HFABs.*", "--max-images", "1")
    weights = ("--weights", "runs/fmen-s_x4_quick/best.safetensors")
    fmen(work, "report", *weights, "--data", "photos", *layers, "--out", "layers.html")
    text = (work / "layers.html").read_text(encoding="utf-8").partition('<section id="features"')[2]
    assert re.findall(r"<figcaption>(\w+)</figcaption>", text) == ["HFAB1", "HFAB2", "HFAB3", "HFAB4"]
    output = fmen(work, "report", *weights, "--data", "photos", "--layers", "Attention", status=2)
    assert "--layers Attention: no module has this name or class; classes are" in output


def test_names_are_text_and_never_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 3  # the table, the figure, the validation
    assert "one &amp; &lt;two&gt;" in text and "<two>" not in text


def test_sections_without_input_are_left_out(work: Path) -> None:
    fmen(work, "report", "--bench", "bench.json", "--out", "bench.html")
    text = (work / "bench.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', text) == ["networks"]
    fmen(work, "report", "--run", "runs/fmen-s_x4_quick", "--max-images", "0", "--out", "run.html")
    assert re.findall(r'<section id="(\w+)"', (work / "run.html").read_text(encoding="utf-8")) == ["training"]


def test_validations_from_files_of_one_name_are_all_shown(work: Path, tmp_path: Path) -> None:
    shutil.copy(work / "validation.json", tmp_path / "validation.json")
    files = [work / "validation.json", tmp_path / "validation.json"]
    write_report(tmp_path / "r.html", validations=files)
    assert all(f">{file}<" in (tmp_path / "r.html").read_text(encoding="utf-8") for file in files)


def test_without_arguments_the_report_shows_the_newest_run_on_the_sample(work: Path) -> None:
    said = fmen(work, "report", "--max-images", "1", "--device", "cpu")
    assert "images: 1 of sample-val, weights runs/fmen-s_x4_quick/best.safetensors" in said
    text = (work / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', text) == ["training", "images"]
    assert "chelsea" in text and "<small>of 2</small>" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--validate", "bench.json"], "bench.json: not written by 'fmen validate --json'"),
        (["--bench", "validation.json"], "validation.json: not written by 'fmen bench --json'"),
        (["--bench", "photos/three.png"], "photos/three.png: not a JSON file"),
        (["--bench", "none.json"], "none.json: No such file or directory; check the path"),
        (["--run", "photos"], "photos: no run to report on"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--weights", "bench.json"], "bench.json: not a weights file"),
        (["--weights", "runs/fmen-s_x4_quick/best.safetensors", "--max-images", "0"], "nothing to report"),
        (["--bench", "bench.json", "--out", "photos"], "photos: is a folder; name a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_status_2(work: Path, arguments: list[str], said: str) -> None:
    before = sorted(work.rglob("*"))
    output = fmen(work, "report", *(["--out", "x.html"] if "--out" not in arguments else []), *arguments, status=2)
    assert said in output and output.startswith("error: ") and output.count("\n") == 1
    assert sorted(work.rglob("*")) == before


def test_an_image_of_noise_stays_within_its_budget() -> None:
    hr = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    image = compare("noise", imresize(hr, 0.25), hr, [blurred], scale=4, protocol="ntire")
    assert len(image.crops) == 3
    assert image.quality in PREVIEW_QUALITIES[2:] and image.bytes <= BUDGET
    assert image.measured["sr"].psnr == psnr(blurred(imresize(hr, 0.25)), hr)


def test_a_hundred_images_of_the_size_of_div2k_share_fifty_megabytes() -> None:
    _, photograph = open_dataset("sample", scale=4).read(1)
    hr = np.tile(photograph, (4, 4, 1))[:1352, :2040]
    image = compare("large", imresize(hr, 0.25), hr, [blurred], scale=4, protocol="ntire", budget=PAGE_BUDGET // 100)
    assert len(image.crops) == 3
    assert 0.5 * PAGE_BUDGET < 100 * image.bytes <= PAGE_BUDGET
    assert image.layers["hr"].width >= 480


def small(**other: Any) -> ComparedImage:
    hr = imresize(np.random.default_rng(1).integers(0, 256, (10, 14, 3), np.uint8), 12)
    return compare("small", imresize(hr, 0.25), hr, [blurred], scale=4, protocol="ntire", **other)


def test_the_images_of_a_page_share_its_budget(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        write_image(tmp_path / f"{number}.png", np.zeros((4, 4, 3), np.uint8))
    budgets: list[int] = []
    monkeypatch.setattr("fmen.report.gallery.compare", lambda *_, budget, **__: budgets.append(budget))
    for most in (None, 2, 0):
        make_gallery([work / RUN], pictures=tmp_path, device="cpu", most=most)
    assert budgets == [500_000] * 100 + [800_000] * 2


def test_a_small_image_is_stored_without_loss() -> None:
    image = small()
    assert image.quality.webp == LOSSLESS and image.layers["hr"].width == 168
    assert image.bytes <= BUDGET
    assert len(image.crops) == 1  # too small for another one


def test_full_stores_large_images_without_loss() -> None:
    assert small(budget=0).quality == PREVIEW_QUALITIES[-1]
    assert small(budget=0, full=True).quality.webp == LOSSLESS


def test_crops_show_the_largest_differences_and_then_the_largest_error() -> None:
    hr = np.zeros((400, 600, 3), np.uint8)
    bicubic, ours = hr.copy(), hr.copy()
    bicubic[40:60, 480:520] = 200
    bicubic[300:310, 20:60] = 100
    ours[200:240, 300:340] = bicubic[200:240, 300:340] = 90  # equally wrong
    windows = [window for window, _ in pick_windows({"bicubic": bicubic, "sr": ours}, hr, 4)]

    def covers(window: tuple[int, int, int, int], top: int, left: int, bottom: int, right: int) -> bool:
        above, before, height, width = window
        return above <= top and before <= left and bottom <= above + height and right <= before + width

    assert covers(windows[0], 40, 480, 60, 520)
    assert covers(windows[1], 300, 20, 310, 60)
    assert covers(windows[2], 200, 300, 240, 340)
    assert all(value % 4 == 0 for window in windows for value in window) and windows[0][2:] == (CROP, CROP)


def test_crops_are_apart_if_the_image_is_large_enough() -> None:
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 40, (480, 480, 3), np.uint8)
    ours = hr.copy()
    ours[120:360, 120:360] += 9  # the largest differences are all in one place
    (top, left, *_), *others = [window for window, _ in pick_windows({"bicubic": hr, "sr": ours}, hr, 4)]
    assert len(others) == 2
    assert all(abs(top - below) >= 2 * CROP or abs(left - beside) >= 2 * CROP for below, beside, *_ in others)


def test_the_error_map_is_black_where_nothing_differs_and_its_blocks_are_means() -> None:
    hr = np.zeros((8, 8, 3), np.uint8)
    sr = hr.copy()
    sr[:4, :4, 0] = 90  # 30 on the mean of the channels
    fine, coarse = error_map(sr, hr), error_map(sr, hr, 4)
    assert coarse.shape == (2, 2, 3)
    assert fine[7, 7].max() <= 4 < fine[0, 0].max()
    assert np.array_equal(coarse[0, 0], fine[0, 0]) and np.array_equal(coarse[1, 1], fine[7, 7])


def test_curves_describe_themselves_and_leave_out_what_was_not_logged() -> None:
    log = [LogRow(step=step, psnr=value, loss=30 / step) for step, value in ((1, 20.0), (2, 31.47), (3, 31.2))]
    loss, psnr_curve = training_curves(logged_series(log, "L1", "paper"))
    assert (loss.caption, psnr_curve.caption) == ("Training loss (L1)", "Validation PSNR in dB (paper)")
    assert 'aria-label="Training loss (L1): from 30 at step 1 to 10 at step 3"' in loss.svgs["wide"]
    assert "best 31.47 at step 2, last 31.20 at step 3" in psnr_curve.svgs["narrow"]
    assert ">31.47 dB<" in psnr_curve.svgs["wide"]
    assert [each.caption for each in training_curves(logged_series([LogRow(step=5, loss=3.0)], "", ""))] == [
        "Training loss"
    ]
    nothing = [LogRow(step=1, loss=float("nan"), psnr=float("inf")), LogRow(step=2, loss=0.0)]
    assert logged_series(nothing, "L1", "") == []


def test_a_table_is_saved_as_csv_with_all_digits(tmp_path: Path) -> None:
    rows = [
        {"model": "span", "params": 150688, "psnr": None, "score": 0.5},
        {"model": 'a "b", c', "params": 1234567, "psnr": 28.123456, "score": 2e6},
    ]
    common = {"flops": 10, "activations": 1, "convs": 22, "runtime_ms": 1.5, "peak_memory_bytes": 2**20}
    file = tmp_path / "b.json"
    file.write_text(json.dumps([common | row for row in rows]), encoding="utf-8")
    write_report(tmp_path / "r.html", bench=file)
    ((data, name),) = re.findall(
        r'href="data:text/csv;charset=utf-8,([^"]*)" download="([^"]*)"',
        (tmp_path / "r.html").read_text(encoding="utf-8"),
    )
    assert name == "Challenge table.csv"
    head, *lines = csv.reader(io.StringIO(unquote(data)))
    assert [line[0] for line in lines] == ["SPAN", 'a "b", c']
    table = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    assert table["SPAN"]["PSNR [dB]"] == "" and table["SPAN"]["Params [M]"] == "0.150688"
    assert table['a "b", c']["PSNR [dB]"] == "28.123456" and table['a "b", c']["Score"] == "2000000.0"


def test_the_csv_of_a_comparison_ends_with_the_means_and_names_sizes_and_identical_images() -> None:
    cells = (Cell("one", link="image-1"), Cell("∞", math.inf), Cell("−0.12", -0.1234), Cell("4 × 3", 12))
    table = Table(("Image", "PSNR", "Gain", "Size"), (cells,), (Cell("mean"), *cells[1:3], Cell("")))
    assert table.csv().splitlines() == ["Image,PSNR,Gain,Size", "one,inf,-0.1234,4 × 3", "mean,inf,-0.1234,"]


def run_of(steps: int, rate: float) -> list[LogRow]:
    return [LogRow(step=step, loss=9 / step, psnr=20 + step, lr=rate / step) for step in range(1, steps + 1)]


def test_the_learning_rate_is_drawn_below_the_other_curves() -> None:
    *_, rate = training_curves(logged_series(run_of(3, 3e-3), "L1", "paper"))
    assert rate.caption == "Learning rate"
    assert 'aria-label="Learning rate: from 0.003 at step 1 to 0.001 at step 3"' in rate.svgs["wide"]


def test_several_runs_are_drawn_in_one_chart_with_a_legend() -> None:
    series = {name: logged_series(run_of(steps, 1e-3), "L1", "paper") for name, steps in (("first", 3), ("second", 5))}
    charts = compared_curves(series)
    assert [chart.caption for chart in charts] == [
        "Training loss (L1)",
        "Validation PSNR in dB (paper)",
        "Learning rate",
    ]
    for chart in charts:
        assert ">first<" in chart.svgs["wide"] and ">second<" in chart.svgs["narrow"]
    assert "first: Validation PSNR in dB (paper): best 23.00 at step 3" in charts[1].svgs["wide"]
    assert "second: Validation PSNR in dB (paper): best 25.00 at step 5" in charts[1].svgs["wide"]


def test_runs_of_different_protocols_and_losses_share_only_the_learning_rate() -> None:
    series = {
        "first": logged_series(run_of(3, 1e-3), "L1", "paper"),
        "second": logged_series(run_of(3, 1e-3), "L2", "ntire"),
    }
    assert [chart.caption for chart in compared_curves(series)] == [
        *("Training loss (L1)", "Training loss (L2)"),
        *("Validation PSNR in dB (paper)", "Validation PSNR in dB (ntire)"),
        "Learning rate",
    ]


def test_two_runs_have_their_facts_and_are_called_by_their_paths_where_their_names_are_equal(tmp_path: Path) -> None:
    runs = [Run(tmp_path / parent / "run") for parent in ("a", "b")]
    for run in runs:
        run.folder.mkdir(parents=True)
        run.metrics.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n', encoding="utf-8")
    part = training_part(runs, "ntire")
    assert [facts[0] for facts in part["facts"]] == [("Run", str(run.folder)) for run in runs]
    assert all(str(run.folder) in part["curves"][0].svgs["wide"] for run in runs)


RUN = "runs/fmen-s_x4_quick/best.safetensors"


def options(text: str) -> list[str]:
    """The layers in the first menu of a page."""
    return re.findall(r'<option value="([^"]+)"', text.split("</select>")[0])


def test_pictures_without_hr_are_upscaled_and_not_measured(work: Path) -> None:
    said = fmen(work, *("report", "--pictures", "photos", "--weights", RUN, "--out", "own.html", "--device", "cpu"))
    assert f"images: 2 of photos, weights {RUN}" in said
    text = (work / "own.html").read_text(encoding="utf-8")
    assert options(text) == ["lr", "bicubic", "sr"]
    assert "no HR image to compare with: there is no PSNR" in text
    assert not re.search(r"\d dB|>dB<|>SSIM", text)
    assert "<dd>320 × 480</dd>" in text and "<dd>1536 × 1152</dd>" in text  # four times the pictures' size


def test_of_a_large_picture_without_hr_the_middle_is_shown(tmp_path: Path) -> None:
    pixels = np.zeros((10, SHOWN_SIDE + 6, 3), np.uint8)
    pixels[:, 3] = 255
    write_image(tmp_path / "wide.png", pixels)
    said: list[str] = []
    name, lr, hr = read_picture(tmp_path / "wide.png", said.append)
    assert (name, lr.shape, hr) == ("wide.png, the middle 1024x10 of 1030x10 pixels", (10, SHOWN_SIDE, 3), None)
    assert lr[:, 0].min() == 255 and lr[:, 1:].max() == 0
    assert said == [f"note: {tmp_path / 'wide.png'}: shows the middle 1024x10 of 1030x10 pixels"]


def test_pictures_that_cannot_be_read_are_left_out_and_transparent_areas_are_white(tmp_path: Path) -> None:
    colours = np.full((4, 6, 3), 100, np.uint8)
    alpha = np.repeat(np.array([[0, 0, 51, 51, 255, 255]], np.uint8), 4, 0)
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([colours, alpha]))
    (tmp_path / "b.png").write_bytes(b"no image")
    said: list[str] = []
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    ((name, lr, _),) = read_pictures(files, said.append)
    assert name == "a.png" and lr[0, :, 0].tolist() == [255, 255, 224, 224, 100, 100]
    assert len(said) == 1 and said[0].startswith(f"note: left out: {files[1]} is not a readable image")
    with pytest.raises(DataError, match="is not a readable image"):
        list(read_pictures(files[1:], said.append))


def test_a_picture_of_16_bits_is_rounded_to_8(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 5, 3), 100 * 257 + 200, np.uint16))
    _, lr, _ = read_picture(tmp_path / "deep.png", print)
    assert lr.dtype == np.uint8 and (lr == 101).all()


def test_pictures_without_hr_exclude_what_needs_hr(work: Path) -> None:
    assert "--data needs them" in fmen(work, "report", "--pictures", "photos", "--data", "sample", status=2)
    assert "--perceptual needs them" in fmen(work, "report", "--pictures", "photos", "--perceptual", status=2)


def test_several_networks_and_bicubic_are_in_one_menu_and_one_table(work: Path, tmp_path: Path) -> None:
    save(create_model("span", n_feats=8), tmp_path / "mine.safetensors")
    arguments = ("--weights", RUN, "--weights", str(tmp_path / "mine.safetensors"), "--data", "photos")
    fmen(work, "report", *arguments, "--max-images", "1", "--out", "two.html", "--device", "cpu")
    text = (work / "two.html").read_text(encoding="utf-8")
    errors = ["error-bicubic", "error-sr", "error-sr2"]
    assert options(text) == ["lr", "bicubic", "sr", "sr2", "hr", *errors]
    head = re.findall(r'<button type="button">([^<]*)</button>', text.split("</thead>")[0].split("<thead>")[1])
    assert head[1:4] == ["Bicubic [dB]", "FMEN-S [dB]", "SPAN [dB]"] and "Gain [dB]" not in head
    assert "FMEN-S, SPAN ×4 on photos" in text and "where the networks differ most" in text


def test_networks_of_several_scales_share_no_page(work: Path, tmp_path: Path) -> None:
    save(create_model("fmen-s", scale=2), tmp_path / "two.safetensors")
    said = fmen(work, "report", "--weights", RUN, "--weights", str(tmp_path / "two.safetensors"), status=2)
    assert "is for x2" in said and "name weights of one scale" in said


def test_networks_of_one_kind_are_told_apart_by_their_run_or_file() -> None:
    network, other = create_model("fmen-s"), create_model("span", n_feats=8)
    files = [Path("runs/a/best.safetensors"), Path("runs/b/best.safetensors"), Path("span.pth")]
    assert [each.title for each in name_networks([network, network, other], files)] == [
        *("FMEN-S (a)", "FMEN-S (b)", "SPAN")
    ]
    alike = [Path("x/a/best.safetensors"), Path("y/a/best.safetensors")]
    assert [each.title for each in name_networks([network, network], alike)] == [f"FMEN-S ({file})" for file in alike]
    with pytest.raises(ReportError, match=r"x/a/best\.safetensors: is named twice; name each network once"):
        name_networks([network, network], [alike[0], alike[0]])


def test_the_largest_difference_of_several_networks_is_between_them() -> None:
    bicubic = np.zeros((200, 600, 3), np.uint8)
    first, second = bicubic.copy(), bicubic.copy()
    first[:60, :60] = second[:60, :60] = 200  # both differ from bicubic
    first[100:140, 500:540] = 9
    ((top, left, *_), _), *_ = pick_windows({"bicubic": bicubic, "sr": first, "sr2": second}, None, 4)
    assert top <= 100 <= top + CROP and left <= 500 <= left + CROP


def test_a_page_has_one_protocol_and_names_it(work: Path, tmp_path: Path) -> None:
    images = [{"name": "a", "psnr": 30.0, "ssim": 0.9}]
    content = {"model": "m", "weights": "w", "protocol": "paper", "scale": 4, "images": images, "mean": images[0]}
    (tmp_path / "paper.json").write_text(json.dumps(content))
    assert page_protocol([], [tmp_path / "paper.json"]) == "paper" and page_protocol([], []) == "ntire"
    write_report(tmp_path / "r.html", validations=[tmp_path / "paper.json"], bench=work / "bench.json")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Protocol paper: PSNR and SSIM on luma (BT.601), not rounded" in text
    assert "PSNR is left out: &#39;fmen bench&#39; measures it by ntire." in text and "30.30" not in text
    with pytest.raises(ReportError, match="validation: measured by ntire, but this page is by paper"):
        write_report(tmp_path / "r.html", validations=[tmp_path / "paper.json", work / "validation.json"])


def test_a_run_that_measured_several_protocols_shows_the_one_of_the_page() -> None:
    log = [LogRow(step=1, psnr=30.0, **{"psnr/Set5/ntire": 28.0}), LogRow(step=2, loss=1.0)]  # type: ignore[arg-type]
    series = logged_series(log, "L1", "paper")
    assert [each.caption for each in of_protocol(series, "ntire")] == [
        *("Training loss (L1)", "Validation PSNR in dB on Set5 (ntire)")
    ]
    assert [each.protocol for each in of_protocol(series, "kair-y") if each.kind == "psnr"] == ["paper", "ntire"]


class Metric:
    """Stands in for a metric of pyiqa: the mean absolute difference of two images in [0, 1]."""

    def __call__(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        assert sr.shape == hr.shape and sr.ndim == 4 and sr.shape[1] == 3 and sr.min() >= 0 and sr.max() <= 1
        return (sr - hr).abs().mean()


def pyiqa(monkeypatch: pytest.MonkeyPatch, create: Any) -> None:
    """Install a module pyiqa whose ``create_metric`` is ``create``."""
    module = ModuleType("pyiqa")
    setattr(module, "create_metric", create)  # noqa: B010
    monkeypatch.setitem(sys.modules, "pyiqa", module)


def test_lpips_and_dists_are_measured_on_request(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    pyiqa(monkeypatch, lambda name, device: made.append(name) or Metric())
    arguments = ("--weights", RUN, "--data", "photos", "--max-images", "1", "--device", "cpu")
    fmen(work, "report", *arguments, "--perceptual", "--out", "lpips.html")
    text = (work / "lpips.html").read_text(encoding="utf-8")
    assert made == ["lpips", "dists"]
    assert all(f">{column}</button>" in text for column in ("Bicubic LPIPS", "FMEN-S LPIPS", "FMEN-S DISTS"))
    assert "lower is better" in text


def test_without_pyiqa_or_its_weights_there_is_one_line(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("report", "--weights", RUN, "--perceptual", "--out", "x.html")
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert "--perceptual needs pyiqa: pip install 'fmen[perceptual]'" in fmen(work, *arguments, status=2)

    def offline(name: str, device: torch.device) -> Metric:
        raise URLError("no network")

    pyiqa(monkeypatch, offline)
    assert "cannot download the weights of LPIPS (no network)" in fmen(work, *arguments, status=2)


def test_an_image_too_small_for_lpips_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pyiqa(monkeypatch, lambda name, device: Metric())
    hr = np.zeros((28, 40, 3), np.uint8)
    said = "tiny: LPIPS needs 32x32 pixels, the image has 40x28; leave out --perceptual"
    with pytest.raises(UserError, match=said):
        compare("tiny", hr[::4, ::4], hr, [blurred], scale=4, protocol="ntire", distances=make_distances("cpu"))


def test_means_of_lpips_are_missing_where_one_is() -> None:
    images = [small(), small()]
    titles = {"bicubic": "Bicubic", "sr": "FMEN-S"}
    assert comparison_table(images, titles).head[1:4] == ("Bicubic [dB]", "FMEN-S [dB]", "Gain [dB]")
    *figures, dists = mean([Quality(30, 0.9, 0.2, 0.1), Quality(32, 0.7, 0.4, None)])
    assert figures == pytest.approx([31, 0.8, 0.3]) and dists is None


@pytest.mark.parametrize(
    ("bicubic", "ours", "text", "order"),
    [(30.0, 31.25, "+1.25", 1.25), (31.25, 30.0, "−1.25", -1.25), (math.inf, 30.0, "–", -math.inf)],
)
def test_the_gain_is_what_the_network_adds_to_bicubic(bicubic: float, ours: float, text: str, order: float) -> None:
    image = replace(small(), measured={"bicubic": Quality(bicubic, 0.9), "sr": Quality(ours, 0.8)})
    table = comparison_table([image, image], {"bicubic": "Bicubic", "sr": "FMEN-S"})
    gains = [row[table.head.index("Gain [dB]")] for row in (*table.rows, table.foot)]
    assert gains == [Cell(text, order)] * 3


def test_a_table_is_saved_as_latex(tmp_path: Path) -> None:
    cells = (Cell("100% & a_b ×4"), Cell("0.150", 0.15, rank=1), Cell("−0.12", -0.1234))
    table = Table(("Image", "Params [M]", "Gain"), (cells,), (Cell("mean"), *cells[1:]))
    assert table.latex() == (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{tabular}{lrr}\n\\toprule\nImage & Params [M] & Gain \\\\\n\\midrule\n"
        "100\\% \\& a\\_b $\\times$4 & \\textbf{0.150} & $-$0.12 \\\\\n\\midrule\n"
        "mean & \\textbf{0.150} & $-$0.12 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_each_network_has_a_tooltip_with_its_figures(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<title>FMEN-S: 15.0 ms, 60.0 MiB, 0.341 M parameters</title>") == 3  # one per width
    assert text.count("&lt;/script&gt;&amp;: 10.0 ms, 90.0 MiB, 0.151 M parameters</title>") == 3


def test_element_ids_of_the_charts_are_unique_and_every_reference_has_its_element(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert references and {one or other for one, other in references} <= set(ids)


def test_null_is_the_psnr_of_identical_images(tmp_path: Path) -> None:
    images = [{"name": "same", "psnr": None, "ssim": 1.0}]
    content = {"model": "m", "weights": "w", "protocol": "ntire", "scale": 4, "images": images}
    (tmp_path / "v.json").write_text(json.dumps({**content, "mean": {"psnr": None, "ssim": 1.0}}))
    (row,) = read_validation(tmp_path / "v.json")
    assert row.images[0].psnr == row.mean.psnr == float("inf")
    write_report(tmp_path / "r.html", validations=[tmp_path / "v.json"])
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count(">∞<") == 3
    (tmp_path / "v.json").write_text(json.dumps({**content, "mean": {"psnr": "high", "ssim": 1.0}}))
    with pytest.raises(ReportError, match=r"v\.json: not written by 'fmen validate --json' \(mean\.psnr: "):
        read_validation(tmp_path / "v.json")


def test_a_validation_of_several_datasets_has_a_row_for_each(tmp_path: Path) -> None:
    images = [{"name": "a", "psnr": 30.0, "ssim": 0.9}]
    content = {"model": "m", "weights": "w", "protocol": "ntire", "scale": 4, "images": images, "mean": images[0]}
    (tmp_path / "v.json").write_text(json.dumps([content | {"dataset": "Set5"}, content | {"dataset": "Set14"}]))
    write_report(tmp_path / "r.html", validations=[tmp_path / "v.json"])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "v: Set5" in text and "v: Set14" in text


def test_the_challenge_table_ranks_each_column_and_compares_with_the_baseline() -> None:
    table = challenge_table(bench_rows(), {"fmen-s": "FMEN-S"})
    assert table.head[:2] == ("Network", "PSNR [dB]") and "Score" not in table.head
    assert [row[0].text for row in table.rows] == [EVIL, "FMEN-S", "imdn-baseline"]
    assert table.ours == {1}
    params = [row[table.head.index("Params [M]")] for row in table.rows]
    assert [(cell.text, cell.rank, cell.note) for cell in params[1:]] == [("0.341", 2, "−62%"), ("0.894", 3, "±0%")]
    assert [row[table.head.index("Convs")].text for row in table.rows] == ["3", "3", "3"]
    decibels = [row[1] for row in table.rows]
    assert [(cell.text, cell.rank) for cell in decibels] == [("–", 0), ("30.10", 2), ("30.30", 1)]


def test_durations_have_two_units() -> None:
    assert [duration(seconds) for seconds in (59.6, 3599, 3660, 93_600)] == [
        *("1 min 00 s", "59 min 59 s", "1 h 01 min", "26 h 00 min"),
    ]


def test_remarks_name_the_dataset_the_score_and_the_conditions() -> None:
    row = bench_rows()[0].model_copy(update={"conditions": "2 threads", "dataset": "Set5", "score": 3.0})
    said = remarks([row])
    assert "IMDN" in remarks([row.model_copy(update={"model": "imdn-baseline"})])[0]
    assert "IMDN" not in remarks([row.model_copy(update={"model": "span"})])[0]
    assert said[1:] == ["PSNR on Set5 (ntire).", "A lower score is better.", "2 threads."]
    assert len(remarks([row.model_copy(update={"conditions": "", "psnr": None, "score": None})])) == 1


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.html").write_text("old")

    def full(*_: object, **__: object) -> Iterator[str]:
        yield "half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jinja2.Template.generate", full)
    with pytest.raises(OSError, match=r"No space left on device: .*r\.html"):
        write_report(tmp_path / "r.html", runs=[Run(work / "runs" / "fmen-s_x4_quick")])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium with the page open."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no chromium and chromedriver here: install Debian's packages chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-component-update"]
    switches += ["disable-background-networking", "disable-sync", "window-size=1200,900"]
    for switch in [*switches, f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def find(browser: Any, selector: str) -> Any:
    """The first element of a CSS selector, scrolled into view."""
    element = browser.find_element("css selector", selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    return element


def border(browser: Any) -> float:
    """Where the first picture's border really is, in percent of its width."""
    script = """
        const frame = document.querySelector('.frame').getBoundingClientRect();
        const divider = document.querySelector('.divider').getBoundingClientRect();
        return 100 * (divider.x + divider.width / 2 - frame.x) / frame.width"""
    return float(browser.execute_script(script))


def test_the_divider_follows_the_mouse_and_the_keys(browser: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    frame = find(browser, ".frame")
    assert border(browser) == pytest.approx(50, abs=0.5)
    width = frame.size["width"]
    ActionChains(browser).move_to_element(frame).click_and_hold().move_by_offset(
        round(width / 4), 5
    ).release().perform()
    assert border(browser) == pytest.approx(75, abs=1)
    assert browser.switch_to.active_element.get_attribute("type") == "range"
    ActionChains(browser).move_by_offset(-50, 0).send_keys(Keys.ARROW_LEFT * 5).perform()  # released: it stays
    assert border(browser) == pytest.approx(70, abs=1)
    clip = browser.execute_script("return getComputedStyle(document.querySelector('[data-at=right]')).clipPath")
    assert re.fullmatch(r"inset\(0px 0px 0px (69|70|71)(\.\d+)?%\)", clip)


def test_layers_and_crops_can_be_chosen(browser: Any) -> None:
    find(browser, "article select[data-side=left] option[value=lr]").click()
    find(browser, "article select[data-side=right] option[value=hr]").click()
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.frame')[0].querySelectorAll('.layer')]"
        ".filter(e => getComputedStyle(e).visibility === 'visible').map(e => [e.dataset.layer, e.dataset.at])"
    )
    assert shown == [["lr", "left"], ["hr", "right"]]
    assert [tag.text for tag in browser.find_elements("css selector", "article:first-of-type .tag")] == ["LR", "HR"]
    whole = find(browser, ".layer[data-layer=hr]").get_attribute("src")
    find(browser, "article .views button[data-view='2']").click()
    crop = find(browser, "[data-crop='2'] [data-layer=hr] img").get_attribute("src")
    assert find(browser, ".layer[data-layer=hr]").get_attribute("src") == crop != whole
    find(browser, "article .views button[data-view='0']").click()
    assert find(browser, ".layer[data-layer=hr]").get_attribute("src") == whole


def test_the_crop_that_is_looked_at_is_saved_with_both_sides(browser: Any) -> None:
    find(browser, "article select[data-side=left] option[value=bicubic]").click()
    find(browser, "article select[data-side=right] option[value=hr]").click()
    find(browser, "article .views button[data-view='1']").click()
    script = """
        HTMLAnchorElement.prototype.click = function () { window.saved = [this.download, this.href]; };
        document.querySelector(".save-png").click();
        const crop = (kind) => document.querySelector(`[data-crop="1"] [data-layer="${kind}"] img`).src;
        return [...window.saved, crop("bicubic"), crop("hr")]"""
    name, saved, bicubic, hr = browser.execute_script(script)
    find(browser, "article .views button[data-view='0']").click()
    assert name == "one & <two>, crop 1, Bicubic and HR.png"
    picture, left, right = (
        cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        for uri in (saved, bicubic, hr)
    )
    side = 4 * CROP
    assert picture.shape == (side + 32, 2 * side + 8, 3)
    assert np.array_equal(picture[:side:4, :side:4], left) and np.array_equal(picture[:side:4, side + 8 :: 4], right)
    assert picture[side:, :side].min() < 100  # the name of the layer


def test_every_picture_can_be_decoded(browser: Any) -> None:
    script = """
        const done = arguments[arguments.length - 1];
        Promise.all([...document.images].map((image) => image.decode())).then(() => done(true), () => done(false))"""
    assert browser.execute_async_script(script)


def test_the_table_sorts_by_numbers_and_by_words(browser: Any) -> None:
    def names() -> list[str]:
        return [cell.text for cell in browser.find_elements("css selector", "#networks tbody th")]

    def press(column: int) -> None:
        find(browser, f"#networks thead th:nth-child({column}) button").click()

    assert names() == [EVIL, "FMEN-S", "IMDN (baseline)"]
    press(3)
    assert names() == [EVIL, "FMEN-S", "IMDN (baseline)"]
    press(3)
    assert names() == ["IMDN (baseline)", "FMEN-S", EVIL]
    assert find(browser, "#networks thead th:nth-child(3)").get_attribute("aria-sort") == "descending"
    press(2)  # a network without PSNR comes last
    assert names() == ["FMEN-S", "IMDN (baseline)", EVIL]
    press(1)
    assert names() == [EVIL, "FMEN-S", "IMDN (baseline)"]


def test_the_theme_follows_the_system_until_the_button_is_pressed(browser: Any) -> None:
    def paper() -> str:
        return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))

    feature = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{**feature["features"][0], "value": "light"}]})
    light = paper()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    dark = paper()
    assert light == "rgb(255, 255, 255)" != dark
    find(browser, "#theme").click()
    assert paper() == light
    find(browser, "#theme").click()
    assert paper() == dark


def test_a_phone_shows_the_page_without_sideways_scrolling(browser: Any) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_errors_are_below_their_images(work: Path, page: Path, browser: Any) -> None:
    weights = ["--weights", "fmen-s_x4", "--weights", "fmen-s_x4_real"]
    fmen(work, "report", *weights, "--data", "photos", "--max-images", "1", "--out", "two.html", "--device", "cpu")
    browser.get((work / "two.html").as_uri())
    script = "return document.querySelector(`.strip [data-layer='${arguments[0]}']`).getBoundingClientRect().x"
    image, error = (browser.execute_script(script, layer) for layer in ("bicubic", "error-bicubic"))
    browser.get(page.as_uri())
    assert image == error


def test_the_browser_console_is_empty(browser: Any) -> None:
    assert browser.get_log("browser") == []
