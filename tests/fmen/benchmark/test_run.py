"""The challenge table: choice of networks, ranks, scores, and files."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from fmen.benchmark.challenges import CHALLENGES, Challenge
from fmen.benchmark.models import SLOW, BenchModel, choose_models
from fmen.benchmark.run import SCORE, Accuracy, Benchmark, Row, run_bench, with_scores
from fmen.benchmark.table import COLUMNS, markdown_table, memory_table, rank, sort_rows, text_table
from fmen.charts.networks import check_plot, save_networks
from fmen.cli.bench import bench, named
from fmen.errors import UserError
from fmen.json_file import dump_json
from fmen_core import create_model, model_names, reparameterize, save
from fmen_core.pretrained import find_weights, published
from fmen_eval import EvaluationError, PeakMemory, Runtime

SIZE = (32, 24)

app = typer.Typer()
app.command()(bench)


def row(model: str, milliseconds: float, params: int = 100_000, psnr: float | None = None) -> Row:
    accuracy = None if psnr is None else Accuracy("Set5", psnr, milliseconds, 2**20)
    runtime = Runtime((milliseconds,), PeakMemory(params * 100))
    return Row(
        BenchModel(model, model.upper(), nn.Identity()),
        params,
        2 * params,
        2 * params,
        10,
        3,
        runtime,
        accuracy=accuracy,
    )


@pytest.fixture(scope="module")
def measured() -> Benchmark:
    models = choose_models(["fmen-s", "imdn-baseline"])
    return run_bench(models, lr_size=SIZE, device="cpu", runs=2, rules=SCORE, memory=True, progress=False)


def test_json_has_a_row_per_network_with_the_contracts_keys(measured: Benchmark) -> None:
    rows: list[dict[str, Any]] = json.loads(json.dumps(measured.to_dicts()))
    assert [entry["model"] for entry in rows] == ["fmen-s", "imdn-baseline", "span"]
    keys = ["model", "params", "flops", "macs", "activations", "convs", "runtime_ms"]
    assert list(rows[0])[: len(keys)] == keys
    assert (rows[0]["params"], rows[0]["flops"], rows[0]["convs"]) == (341_066, 22_280_011_776, 34)
    assert rows[0]["peak_memory_bytes"] > rows[0]["params"] * 4


def test_the_score_adds_span_which_scores_e_squared(measured: Benchmark) -> None:
    scores = {entry.model.name: entry.score for entry in measured.rows}
    assert scores["span"] == pytest.approx(math.exp(2))


def test_the_score_weighs_time_flops_and_parameters() -> None:
    scored = with_scores([row("span", 10, 100_000), row("mine", 5, 200_000)], SCORE)
    assert scored[1].score == pytest.approx(0.8 * math.exp(1) + 0.2 * math.exp(4))


def test_a_score_that_exceeds_a_float_is_infinite_in_the_table_and_null_in_json() -> None:
    slow, span = with_scores([row("slow", 4000), row("span", 10)], SCORE)
    assert slow.score == math.inf
    assert span.score == pytest.approx(math.exp(2))
    assert next(line for line in text_table([slow, span]).splitlines() if "slow" in line).endswith("inf (2)")
    written = json.loads(dump_json(Benchmark((slow, span), "").to_dicts()), parse_constant=pytest.fail)
    assert [entry["score"] for entry in written] == [None, span.score]


def test_score_psnr_and_convolutions_have_no_percentage() -> None:
    rows = with_scores([row("span", 10, psnr=28), row("imdn-baseline", 40, psnr=29)], SCORE)
    line = next(line for line in text_table(rows).splitlines() if line.startswith("imdn"))
    assert line.count("%") == 5
    assert re.match(r"imdn-baseline +29\.00 \(1\) +0\.100 ", line) and " 3 (1)  " in line and line.endswith(" (2)")


def test_the_predicted_memory_is_at_most_the_measured_one(measured: Benchmark) -> None:
    for entry in measured.rows:
        assert entry.prediction is not None
        assert entry.prediction.peak_held.total_held <= 1.01 * entry.runtime.memory.allocated_bytes
    table = memory_table(measured.rows)
    assert "HFABs.3.excitate: convolution" in table
    assert "model.1.sub.7: cat" in table
    head, _, first, *_ = table.splitlines()
    assert measured.rows[0].prediction is not None
    needed, held = str(measured.rows[0].prediction.peak), str(measured.rows[0].prediction.peak_held)
    assert (first.index(needed), first.rindex(held)) == (
        head.index(" at ") + 1,
        head.rindex(" at ") + 1,
    )  # aligned left


def test_all_networks_but_the_slow_ones_are_measured_by_default() -> None:
    assert [model.name for model in choose_models()] == [name for name in model_names() if name not in SLOW]


def test_a_weights_file_replaces_the_network_with_random_weights(tmp_path: Path) -> None:
    save(reparameterize(create_model("fmen-s")), tmp_path / "one.safetensors")
    save(reparameterize(create_model("fmen-s")), tmp_path / "two.safetensors")
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    models = choose_models(["fmen-s", "span"], files)
    assert [(model.name, model.weights) for model in models] == [
        ("fmen-s", files[0]),
        ("span", None),
        ("fmen-s (two)", files[1]),
    ]


def test_a_size_that_a_network_cannot_take_is_refused() -> None:
    with pytest.raises(EvaluationError, match="RFDN cannot run on a 8x8 RGB image"):
        run_bench(choose_models(["rfdn"]), lr_size=(8, 8), runs=1, progress=False)


def test_a_network_of_another_scale_is_noted() -> None:
    notes: list[str] = []
    choose_models(["span"], [find_weights("fmen-s_x2")], note=notes.append)
    assert notes == ["note: fmen-s is x2, and the table's other networks are x4"]


MODULE = """
import torch
from neighbour import CHANNELS

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.basic_blocks = torch.nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.shuffle = torch.nn.PixelShuffle(4)

    def forward(self, x):
        return self.shuffle(self.basic_blocks(x))

"""


@pytest.fixture
def module_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "neighbour.py").write_text("CHANNELS = 48\n")
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path / "mine.py"


def test_a_module_file_adds_a_network(module_file: Path) -> None:
    weight = torch.full((48, 3, 3, 3), 0.5)
    torch.save({"module.basic_blocks.weight": weight, "module.basic_blocks.bias": torch.zeros(48)}, "weights.pth")
    models = choose_models(["span"], modules=[f"{module_file}:Mine,weights.pth"])
    assert [model.name for model in models] == ["span", "Mine"]
    assert torch.equal(next(models[1].network.parameters()), weight)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("Mine", "Mine: expected FILE.py:CLASS, such as mine.py:Mine; name other networks with --models"),
        ("{}:Mine,nowhere.pth", "nowhere.pth: no such weights file"),
        ("{}:Mine,other.pth", "other.pth: does not fit .*:Mine: basic_blocks.weight is missing"),
    ],
)
def test_an_unusable_module_is_named_in_one_line(module_file: Path, argument: str, message: str) -> None:
    torch.save({"other": torch.zeros(1), "others": torch.zeros(1)}, "other.pth")
    with pytest.raises(ValueError, match=message):
        choose_models(["span"], modules=[argument.format(module_file)])


NET = """
import torch
from part import CHANNELS

class {name}(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from late import FACTOR
        self.conv = torch.nn.Conv2d(3, FACTOR * CHANNELS, 3)

    def forward(self, x):
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)
"""


def test_modules_of_one_file_name_and_their_neighbours_are_separate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    arguments = []
    for name, channels, factor in (("A", 5, 2), ("B", 7, 3)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "net.py").write_text(NET.format(name=name))
        (folder / "part.py").write_text(f"CHANNELS = {channels}")
        (folder / "late.py").write_text(f"FACTOR = {factor}")
        arguments.append(f"{folder / 'net.py'}:{name}")
    a, b = (model.network for model in choose_models([], modules=arguments))
    assert [len(network.conv.weight) for network in (a, b)] == [10, 21]  # type: ignore[arg-type]
    assert type(a).__module__ != type(b).__module__
    assert all(
        type(network) is getattr(sys.modules[type(network).__module__], name) for network, name in ((a, "A"), (b, "B"))
    )


def test_a_third_file_of_the_same_weights_name_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        save(create_model("span"), tmp_path / folder / "w.safetensors")
    with pytest.raises(UserError, match=r"c/w\.safetensors: the table already has a network called span \(w\)"):
        choose_models([], [tmp_path / folder / "w.safetensors" for folder in ("a", "b", "c")])


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_ranks_are_per_column_and_equal_figures_share_one() -> None:
    rows = [row("a", 3, psnr=30), row("b", 1, psnr=29), row("c", 3, psnr=31), row("d", 4)]
    columns = {column.key: column for column in COLUMNS}
    assert [rank(columns["runtime"], rows, entry) for entry in rows] == [2, 1, 2, 4]
    assert [rank(columns["psnr"], rows, entry) for entry in rows] == [2, 3, 1, 4]


def test_rows_are_sorted_best_first_and_missing_figures_last() -> None:
    rows = [row("a", 3, psnr=30), row("d", 4), row("b", 1, psnr=31)]
    assert [entry.model.name for entry in sort_rows(rows, "runtime")] == ["b", "a", "d"]
    assert [entry.model.name for entry in sort_rows(rows, "psnr")] == ["b", "a", "d"]
    assert [entry.model.name for entry in sort_rows(rows, "model")] == ["a", "b", "d"]
    assert sort_rows(rows, "time") == sort_rows(rows, "runtime")
    with pytest.raises(ValueError, match="--sort beauty: no such column; choose one of model, psnr, params"):
        sort_rows([], "beauty")
    with pytest.raises(UserError, match=r"--sort tme: no such column; did you mean time\?"):
        sort_rows([], "tme")


def test_tables_compare_with_the_baseline() -> None:
    rows = [row("mine", 5, 50_000), row("imdn-baseline", 10)]
    mine = next(line for line in text_table(rows).splitlines() if line.startswith("mine"))
    assert "5.00 (1)  -50%" in mine
    assert "| mine | 0.050<sub>(1)</sub> -50% |" in markdown_table(rows)
    assert "%" not in text_table(rows[:1])
    assert "PSNR" not in text_table(rows)


def test_cells_are_in_the_units_of_their_headings() -> None:
    head, _, line = markdown_table([row("mine", 5, 2_000_000_000, psnr=28.126)]).splitlines()
    headings = ["PSNR [dB]", "Params [M]", "FLOPs [G]", "Acts [M]", "Convs", "Time [ms]", "Memory [MiB]"]
    assert [cell.strip() for cell in head.split("|")[2:-1]] == headings
    cells = [cell.split("<sub>")[0].strip() for cell in line.split("|")[2:-1]]
    assert cells == ["28.13", "2000.000", "4.00", "0.00", "3", "5.00", "190734.86"]


def test_the_command_writes_json_markdown_and_the_table(tmp_path: Path) -> None:
    arguments = ["--models", "neesr,rlfn-cut", "--runs", "1", "--lr-size", "32x24", "--sort", "params"]
    files = ["--json", "new/bench.json", "--markdown", "bench.md"]
    result = CliRunner().invoke(app, [*arguments, *files], catch_exceptions=False)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[2:4]] == ["neesr", "rlfn-cut"]
    assert "LR image 24x32; median of 1" in result.stdout
    assert {entry["model"] for entry in json.loads((tmp_path / "new/bench.json").read_text())} == {"neesr", "rlfn-cut"}
    assert (tmp_path / "bench.md").read_text().startswith("| model | Params [M] |")


def test_the_command_measures_20_runs_on_256x256_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = create_autospec(run_bench, return_value=Benchmark((row("span", 1),), "somewhere"))
    monkeypatch.setattr("fmen.benchmark.run.run_bench", measure)
    result = CliRunner().invoke(app, ["--models", "span"], catch_exceptions=False)
    assert result.stdout.endswith("\n\nsomewhere\n")
    asked = measure.call_args.kwargs
    assert asked["rules"] is None
    assert (asked["lr_size"], asked["runs"], asked["device"], asked["data"]) == ((256, 256), 20, "auto", None)


@pytest.mark.parametrize(
    ("arguments", "names", "rules"),
    [
        ([], [name for name in model_names() if name not in SLOW], None),
        (["--models", "all"], list(model_names()), None),
        (["--score", "--models", "fmen-s"], ["fmen-s"], SCORE),
        (["--year", "2026"], ["span", "pds", "haesr", "pkdsr", "disp", "spanv2"], CHALLENGES[2026]),
        (["--year", "2025", "--models", "fmen-s"], ["fmen-s"], CHALLENGES[2025]),
    ],
)
def test_the_command_measures_the_networks_of_the_year_or_those_named(
    arguments: list[str], names: list[str], rules: Challenge | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = create_autospec(run_bench, return_value=Benchmark((row("span", 1),), "somewhere"))
    monkeypatch.setattr("fmen.benchmark.run.run_bench", measure)
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert [model.name for model in measure.call_args.args[0]] == names
    assert measure.call_args.kwargs["rules"] == rules
    assert ("--models all measures them, too" in result.stdout) == (not arguments)


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["--year", "2026"], "small"),
        (["--year", "2022"], "fast"),
        ([], "fast"),
        (["--year", "2026", "--sort", "time"], "fast"),
    ],
)
def test_a_table_with_a_year_is_sorted_by_its_score_where_it_has_weights(
    arguments: list[str], first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = with_scores([row("span", 10), row("fast", 9, 900_000), row("small", 9.5, 1000)], SCORE)
    monkeypatch.setattr(
        "fmen.benchmark.run.run_bench", create_autospec(run_bench, return_value=Benchmark(tuple(rows), "somewhere"))
    )
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.stdout.splitlines()[2].split()[0] == first


def test_a_year_without_a_challenge_is_refused() -> None:
    result = CliRunner().invoke(app, ["--year", "2023"])
    assert str(result.exception) == "--year 2023: choose one of 2022, 2024, 2025, 2026"


@pytest.mark.parametrize("data", [None, "sample"])
def test_a_baseline_that_is_added_has_its_weights_where_psnr_is_measured(
    data: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(
        "fmen.benchmark.run.choose_models", lambda names, trained: asked.append(trained) or choose_models(["rfdn"])
    )
    save(create_model("rfdn"), "rfdn.safetensors")
    models = choose_models([], [Path("rfdn.safetensors")])
    with pytest.raises(EvaluationError):
        run_bench(models, lr_size=(8, 8), runs=1, rules=SCORE, data=data, progress=False)
    assert asked == [data is not None]


def test_psnr_requires_weights() -> None:
    with pytest.raises(ValueError, match="name their files with --weights"):
        run_bench(choose_models(["span"]), lr_size=SIZE, runs=1, data="sample", progress=False)


def test_psnr_is_measured_for_networks_with_weights() -> None:
    save(create_model("span"), "span.safetensors")
    result = run_bench(
        choose_models(["imdn-plus"], [Path("span.safetensors")]), lr_size=SIZE, runs=1, data="sample", progress=False
    )
    without, with_weights = result.rows
    assert without.accuracy is None
    assert with_weights.accuracy is not None
    assert 0 < with_weights.accuracy.psnr < 40
    assert result.to_dicts()[1]["psnr"] == with_weights.accuracy.psnr


def test_psnr_is_measured_with_the_weights_that_are_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMEN_CACHE", "cache")
    torch.save(create_model("span").state_dict(), "given.pth")
    for name in ("span", "imdn-x4"):
        published(name).file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(create_model(name.removesuffix("-x4")).state_dict(), published(name).file)
    models = choose_models(["span", "imdn", "pds", "fmen-s"], [Path("given.pth")], trained=True)
    files = {model.name: None if model.weights is None else model.weights.name for model in models}
    assert files == {"span": "given.pth", "imdn": "imdn-x4.pth", "pds": None, "fmen-s": "fmen-s_x4.safetensors"}
    assert choose_models(["imdn"])[0].weights is None
    published("imdn-x4").file.unlink()
    arguments = ["--models", "fmen-s,pds,imdn,ecbsr", "--data", "sample", "--runs", "1", "--lr-size", "16x16"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    missing = next(line for line in result.stdout.splitlines() if line.startswith("no PSNR"))
    assert {*missing.split(": ")[1].split(";")[0].split(", ")} == {"pds", "imdn", "ecbsr"}
    assert {*missing.split("weights get ")[1].split()} == {"pds", "imdn-x4"}  # ECBSR's are not published
    psnr = re.search(r"^fmen-s +(\d+\.\d\d) \(1\)", result.stdout, re.MULTILINE)
    assert psnr is not None and 28.5 < float(psnr.group(1)) < 31, result.stdout


def test_models_takes_patterns() -> None:
    assert named(None, ("span",)) == ("span",)
    assert named("rfdn, span*", None) == ["rfdn", "spanf", "span", "spanv2"]
    assert named("all", None) == list(model_names())
    with pytest.raises(UserError, match=r"no match for 'spam\*'; did you mean span\?"):
        named("spam*", None)


@pytest.mark.parametrize("size", ["256", "0x5", "axb", "16x16x3"])
def test_an_invalid_image_size_is_refused(size: str) -> None:
    result = CliRunner().invoke(app, ["--lr-size", size])
    assert isinstance(result.exception, ValueError)
    assert f"--lr-size {size}: expected HxW" in str(result.exception)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_the_figure_names_every_network(tmp_path: Path, suffix: str) -> None:
    rows = [row("fmen-s", 60, 341_066, 29.0), row("rfdn", 120, 433_448, 29.04), row("span", 40, 150_688)]
    file = tmp_path / f"figure{suffix}"
    save_networks([row.plotted() for row in rows], "somewhere", file)
    content = file.read_bytes()
    assert content[:4] in (b"\x89PNG", b"%PDF", b"<?xm")
    if suffix == ".svg":
        names = ["FMEN-S", "RFDN"]
        assert [content.count(f">{name}<".encode()) for name in [*names, "SPAN"]] == [2, 2, 1]
        assert content.count(b">Accuracy on Set5<") == 1


def test_an_unknown_plot_format_is_refused_before_measuring() -> None:
    with pytest.raises(ValueError, match=r"end the name in one of \.png, \.pdf, \.svg"):
        check_plot(Path("figure.bmp"))
