"""Table 4 and Figure 1: exact counts, runtime and memory relative to IMDN, and their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.errors import UserError
from fmen.reproduction.experiments import chosen, read_result
from fmen.reproduction.result import Options
from fmen.reproduction.table4 import TABLE4, ranking, run


def write_bench(file: Path, runtimes: dict[str, float]) -> Path:
    """Write a file of ``fmen bench --json`` whose memory is the published one."""
    keys = {"params": 1e5, "flops": 1e9, "activations": 1e6, "convs": 9, "conditions": "a CPU; and more"}
    rows = [
        {**keys, "model": name, "runtime_ms": runtime, "peak_memory_bytes": TABLE4[name].memory * 1e6}
        for name, runtime in runtimes.items()
    ]
    file.write_text(json.dumps(rows))
    return file


def test_every_count_of_the_table_comes_out_to_the_digit() -> None:
    rows = run(Options()).rows
    assert len(rows) == 4 * 8
    assert [row.key for row in rows if row.difference] == []
    fmen = {row.quantity: row.ours for row in rows if row.subject == "FMEN-S"}
    assert fmen == {"parameters": 341.066, "FLOPs": 22.280011776, "activations": 72.0896, "convolutions": 34}


def test_runtime_and_memory_are_multiples_of_imdn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen.reproduction.table4.count_rows", lambda name, published: [])
    file = write_bench(tmp_path / "cpu.json", {"imdn-baseline": 400.0, "fmen-s": 100.0, "rfdn": 500.0})
    result = CliRunner().invoke(app, ["reproduce", "table4", "--bench", str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    stored = read_result(tmp_path / "out" / "table4.json")
    measured = {row.key: row for row in stored.rows}
    assert len(measured) == 4
    fmen = measured["FMEN-S", "runtime / IMDN's (cpu)"]
    assert (fmen.ours, fmen.published) == (0.25, 0.55)  # 28.07 ms / 50.86 ms
    assert fmen.command == f"fmen reproduce table4 --bench {file}"
    assert measured["E-RFDN", "runtime / IMDN's (cpu)"].ours == 1.25
    assert measured["E-RFDN", "memory / IMDN's (cpu)"].difference == 0
    assert "the order by memory is FMEN-S, IMDN, E-RFDN (as in the paper)" in stored.findings["cpu"]
    assert (tmp_path / "out" / stored.images["Figure 1: runtime, memory and parameters (cpu, a CPU)"]).stat().st_size


def test_a_benchmark_of_other_networks_is_refused(tmp_path: Path) -> None:
    file = write_bench(tmp_path / "cpu.json", {"fmen-s": 1.0})
    file.write_text(file.read_text().replace("fmen-s", "span"))
    with pytest.raises(UserError, match=r"cpu\.json: has none of the networks of the table, which are imdn"):
        run(Options(bench=(file,)))
    file.write_text("[]")
    with pytest.raises(UserError, match="not written by 'fmen bench --json'"):
        run(Options(bench=(file,)))


@pytest.mark.parametrize(
    ("runtimes", "said"),
    [
        ((50.9, 42.0, 28.1), "FMEN-S, E-RFDN, IMDN (as in the paper)"),
        ((50.9, 42.0, 43.0), "E-RFDN, FMEN-S, IMDN (in the paper: FMEN-S, E-RFDN, IMDN)"),
    ],
)
def test_the_order_is_compared_with_the_published_one(runtimes: tuple[float, float, float], said: str) -> None:
    named = zip(("imdn-baseline", "rfdn", "fmen-s"), runtimes, strict=True)
    table = {name: {"runtime_ms": runtime, "peak_memory_bytes": runtime} for name, runtime in named}
    assert f"the order by runtime is {said}" in ranking(table, "cpu.json")


def test_figure_1_is_another_name_of_the_table() -> None:
    assert chosen("figure1") == chosen("table4")
