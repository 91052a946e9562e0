"""The benchmark of the time to a quality, from logs that are invented and from a program that writes one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]

CURVE = [
    {"step": step, "seconds": 6.0 * step, "psnr": psnr}
    for step, psnr in ((100, 30.5), (200, 31.02), (300, 31.5), (400, 31.4))
]


def test_the_minutes_are_those_of_the_first_validation_at_a_level(bench: Load) -> None:
    row = bench("time_to_quality").row_of(CURVE)
    assert row["31.0 dB"] == "20 min" and row["31.5 dB"] == "30 min" and row["31.8 dB"] == "not reached"
    assert row["best"] == "31.50 dB after 30 min, 300 steps"


def test_the_published_code_takes_the_same_steps_and_its_own_time(bench: Load) -> None:
    curve = [{"step": 2**n, "seconds": 1.0, "psnr": 24.0 + n} for n in range(8)]  # 31 dB after 128 steps
    row = bench("time_to_quality").published_row(curve, seconds=60)
    assert row["31.0 dB"] == "128 min"
    assert row["31.5 dB"] == f"{2**7.5:.0f} min (extrapolated)"
    assert math.isclose(float(row["31.8 dB"].split()[0]), 2**7.8, abs_tol=1)


def test_an_incomplete_last_line_is_not_read(bench: Load, tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 2}\n' + json.dumps(CURVE[0]) + "\n" + '{"step": 200, "ps')
    assert bench("time_to_quality").read_curve(log) == CURVE[:1]
    assert bench("time_to_quality").read_curve(tmp_path / "none") == []


def test_without_training_the_table_has_the_run_of_the_bundled_weights(bench: Load) -> None:
    script = bench("time_to_quality")
    table = script.run(1, limit=0).facts["minutes to a PSNR on Set5"]
    assert list(table) == [script.SHOWN]
    assert table[script.SHOWN]["31.0 dB"] == "3 min" and table[script.SHOWN]["31.8 dB"].endswith(" min")


FAKE = """
import json, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
assert "val_every=100" in sys.argv and "feed=device" in sys.argv
for step in range(100, 100_000, 100):
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "seconds": step / 100, "psnr": step / 10}) + "\\n")
    time.sleep(0.02)
"""


def test_a_run_is_stopped_at_the_last_level(bench: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("time_to_quality")
    monkeypatch.setattr(script, "FMEN", (sys.executable, "-c", FAKE))
    curve = script.train(("cpu", "feed=device"), "photos", "Set5", 5, levels=(20.0, 30.0))
    assert curve[0]["psnr"] == 10 and 3 <= len(curve) < 999


def test_a_run_that_fails_is_named(bench: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("time_to_quality")
    monkeypatch.setattr(script, "FMEN", (sys.executable, "-c", "raise SystemExit(2)"))
    with pytest.raises(SystemExit, match=r"fmen train --recipe cpu .* ended with status 2 before a validation"):
        script.train(("cpu",), "photos", "Set5", 1)
