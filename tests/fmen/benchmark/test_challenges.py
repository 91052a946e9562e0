"""Each year's networks, baseline, FLOPs rule and score, as the organisers state them."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

from fmen.benchmark.challenges import CHALLENGES, Challenge, Figures
from fmen.benchmark.models import BenchModel
from fmen.benchmark.run import Row, count_flops, remarks
from fmen.cli.bench import bench
from fmen.errors import UserError
from fmen.submission.metrics import fvcore_flops
from fmen.submission.rules import SubmissionError
from fmen_core import create_model, model_names, reparameterize
from fmen_eval import PeakMemory, Runtime

needs_fvcore = pytest.mark.skipif(
    find_spec("fvcore") is None, reason="fvcore is missing: pip install 'fmen[ntire2026]'"
)

app = typer.Typer()
app.command()(bench)


def figures(runtime: float, flops: float, params: float, activations: float = 1, memory: float = 1) -> Figures:
    return Figures(runtime, flops, params, activations, memory)


@pytest.mark.parametrize("challenge", CHALLENGES.values(), ids=lambda challenge: str(challenge.year))
def test_every_network_of_a_year_exists_and_the_baseline_is_the_first(challenge: Challenge) -> None:
    assert set(challenge.networks) <= set(model_names())
    assert challenge.networks[0] == challenge.baseline


@pytest.mark.parametrize(
    ("year", "runtime", "flops", "params", "weights"),
    [
        (2024, 13.54, 19.67, 0.317, (0.7, 0.15, 0.15)),
        (2025, 16.69, 16.70, 0.276, (0.7, 0.15, 0.15)),
        (2026, 7.74, 9.83, 0.151, (0.8, 0.1, 0.1)),
    ],
)
def test_the_score_is_the_organisers(
    year: int, runtime: float, flops: float, params: float, weights: tuple[float, float, float]
) -> None:
    challenge = CHALLENGES[year]
    given = {challenge.baseline: figures(runtime, flops, params), "mine": figures(runtime / 2, 2 * flops, 1.5 * params)}
    scores = challenge.scores(given)
    assert scores[challenge.baseline] == pytest.approx(7.3891, abs=5e-5)
    expected = weights[0] * math.exp(1) + weights[1] * math.exp(4) + weights[2] * math.exp(3)
    assert scores["mine"] == pytest.approx(expected)
    assert f"{runtime:.2f} ms" in challenge.published


@needs_fvcore
@pytest.mark.parametrize(("year", "gflops", "params"), [(2024, 19.67, 317), (2025, 16.70, 276), (2026, 9.83, 151)])
def test_the_baseline_has_the_organisers_flops_and_parameters(year: int, gflops: float, params: int) -> None:
    network = reparameterize(create_model(CHALLENGES[year].baseline))
    assert round(fvcore_flops(network) / 1e9, 2) == gflops
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e3) == params


def test_the_score_of_2022_is_the_sum_of_five_ranks() -> None:
    given = {
        "imdn-baseline": figures(50.86, 58.53, 0.894, 154.14, 471.76),
        "rfdn": figures(41.97, 27.10, 0.433, 112.03, 788.13),
        "fmen-s": figures(28.07, 22.28, 0.341, 72.09, 204.60),
        "twin": figures(28.07, 22.28, 0.341, 72.09, 204.60),
    }
    scores = CHALLENGES[2022].scores(given)
    assert scores == {"imdn-baseline": 4 * 4 + 3, "rfdn": 4 * 3 + 4, "fmen-s": 5, "twin": 5}


@needs_fvcore
def test_the_table_of_2026_states_its_rules_and_what_the_organisers_count_hides(tmp_path: Path) -> None:
    arguments = ["--year", "2026", "--models", "spanv2", "--runs", "1", "--lr-size", "16x16", "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "b.json")], catch_exceptions=False)
    rows = {entry["model"]: entry for entry in json.loads((tmp_path / "b.json").read_text())}
    assert list(rows) == ["spanv2", "span"]
    assert rows["spanv2"]["flops"] == 9_107_931_136 and rows["span"]["score"] == pytest.approx(math.exp(2))
    assert f"baseline span: {rows['span']['runtime_ms']:.2f} ms in this run, 7.74 ms on an RTX A6000" in result.stdout
    assert "score = 0.8 e^(2 runtime) + 0.1 e^(2 FLOPs) + 0.1 e^(2 params)" in result.stdout
    assert "spanv2: 1.59 G FLOPs in the organisers' table" in result.stdout and "9.11 G" in result.stdout
    assert "2026: score = " in rows["span"]["conditions"] and "spanv2" not in rows["span"]["conditions"]
    assert " +0%" in next(line for line in result.stdout.splitlines() if line.startswith("span "))


class Negate(torch.autograd.Function):
    """An operator that no counter sees into."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return -x

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return -gradient


class Hidden(nn.Module):
    """A convolution, and an operator of the user's own."""

    def __init__(self, function: type[torch.autograd.Function] | None) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 1, bias=False), function

    def forward(self, x: Tensor) -> Tensor:
        if self.function is None:
            raise RuntimeError("no operator\nand more")
        out: Tensor = self.function.apply(self.conv(x))  # type: ignore[no-untyped-call]
        return out


@needs_fvcore
def test_an_operator_that_fvcore_does_not_see_is_named() -> None:
    model = BenchModel("mine", "Mine", Hidden(Negate), custom=True)
    assert count_flops(model, 7, CHALLENGES[2022]) == (7, ())
    assert count_flops(model, 7, CHALLENGES[2025]) == (12 * 256 * 256, ("prim::PythonOp.Negate",))
    unit = Runtime((1.0,), PeakMemory(1))
    rows = [
        Row(BenchModel("span", "", nn.Identity()), 1, 1, 1, 1, 1, unit),
        Row(model, 1, 1, 1, 1, 1, unit, hidden=("a::b",)),
    ]
    assert remarks(rows, CHALLENGES[2026])[1:] == ("mine: FLOPs are too low, fvcore does not see into a::b",)
    plain = BenchModel("plain", "Plain", nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Sigmoid()), custom=True)
    assert count_flops(plain, 7, CHALLENGES[2025]) == (12 * 256 * 256, ())


@needs_fvcore
def test_a_network_that_fvcore_cannot_trace_is_one_line() -> None:
    model = BenchModel("mine", "Mine", Hidden(None), custom=True)
    with pytest.raises(UserError, match=r"^mine: fvcore cannot count its FLOPs: RuntimeError: no operator$"):
        count_flops(model, 7, CHALLENGES[2024])


def test_a_year_that_needs_fvcore_is_refused_before_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen.submission.metrics.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["--year", "2024"])
    assert isinstance(result.exception, SubmissionError)
    assert "count FLOPs with fvcore, which is not installed: pip install 'fmen[ntire2026]'" in str(result.exception)


def test_the_score_of_a_year_is_not_asked_for_twice() -> None:
    result = CliRunner().invoke(app, ["--year", "2025", "--score"])
    assert isinstance(result.exception, UserError)
    assert (
        str(result.exception)
        == "--score adds the score of 2026, and --year that of its own year; leave one of them out"
    )
