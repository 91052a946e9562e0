"""The benchmark of the re-parameterizable blocks, on small batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fmen_core.blocks.reparameterizable import ACB

Load = Callable[[str], ModuleType]


def test_the_benchmark_checks_both_sides_and_writes_time_and_memory(bench: Load, tmp_path: Path) -> None:
    report = bench("reparam_blocks").run(1, batch=1, patch=8, rounds=1, blocks=("acb", "plain"), precisions=("bf16",))
    found = json.loads(report.write(tmp_path / "blocks.json").read_text())
    assert len(found["checks"]) == 4 and max(found["checks"].values()) < 1e-11
    assert [row["what"] for row in found["comparisons"]] == [
        "training step, 1 patches of 8x8, acb, bf16",
        "peak memory of that step, acb, bf16",
    ]
    facts = found["facts"]["block"]
    assert set(facts) == {"acb, bf16", "plain, bf16"} and min(min(row.values()) for row in facts.values()) > 0
    assert facts["acb, bf16"]["collapsed, ms"] == pytest.approx(1000 * found["comparisons"][0]["ours"][0])
    assert facts["acb, bf16"]["expanded, MiB"] == pytest.approx(found["comparisons"][1]["theirs"][0] / 2**20)


def test_sides_that_differ_end_the_benchmark(bench: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("reparam_blocks")
    merge = ACB.kernel_and_bias
    monkeypatch.setattr(
        ACB, "kernel_and_bias", lambda self, dtype=None: (1.001 * merge(self, dtype)[0], merge(self, dtype)[1])
    )
    with pytest.raises(SystemExit, match=r"acb: the sides differ by .* in a gradient"):
        script.check(script.Report("blocks"), "acb", patch=6)
