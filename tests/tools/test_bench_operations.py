"""The account of the most expensive operations, on small inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F

Load = Callable[[str], ModuleType]


def test_the_benchmark_checks_its_count_and_writes_a_sentence_per_operation(bench: Load, tmp_path: Path) -> None:
    script = bench("operations")
    report = script.run(1, size=64, side=16, batch=2, patch=8, image=32, large=2**22)
    found = json.loads(report.write(tmp_path / "operations.json").read_text())
    assert found["checks"]["multiply-accumulates of a forward pass, counted and known, in G"] == 0.3481
    for what in ("a training step", "a forward pass"):
        for precision in ("fp32", "bf16"):
            entries = found["facts"][f"most expensive in {what}, {precision}"]
            assert len(entries) == 5
            assert all(f"bound by {entry['bound by']}" in entry["sentence"] for entry in entries)
    assert set(found["facts"]["GFLOP/s"]) == {"fp32", "bf16"}


def test_an_account_knows_the_bytes_and_the_arithmetic_of_a_convolution(bench: Load) -> None:
    script = bench("roofs")
    x, weight = torch.rand(2, 4, 8, 8), torch.rand(6, 4, 3, 3)
    entries = script.account(lambda: F.conv2d(x, weight, padding=1).relu_(), repeats=1)
    conv, relu = entries["4 -> 6 3x3 convolution"], entries["relu_, 6 channels"]
    assert (conv.calls, conv.flops) == (1, 2 * 2 * 6 * 4 * 9 * 64)
    assert conv.bytes == 4 * (x.numel() + weight.numel() + 2 * 6 * 64)
    assert relu.bytes == 2 * 4 * 2 * 6 * 64


def test_an_operation_is_bound_by_the_roof_that_it_comes_closest_to(bench: Load) -> None:
    script = bench("operations")
    roofs = {"fp32": 100.0, "cached copy": 100.0, "large copy": 10.0, "call": 0.001}
    judge = script.judge
    assert judge("a", script.Entry(1, 1.0, 80.0, 50.0), 2.0, roofs, "fp32")["bound by"] == "arithmetic"
    assert judge("b", script.Entry(1, 1.0, 20.0, 50.0), 2.0, roofs, "fp32")["bound by"] == "memory bandwidth"
    assert judge("c", script.Entry(900, 1.0, 20.0, 50.0), 2.0, roofs, "fp32")["bound by"] == "call overhead"
