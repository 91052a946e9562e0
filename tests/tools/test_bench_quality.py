"""The benchmark of the time to a quality, from logs that are invented and from a program that writes one."""

from __future__ import annotations

import json
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


def test_the_minutes_are_the_steps_of_the_first_validation_at_a_level_times_the_seconds_of_a_step(bench: Load) -> None:
    row = bench("time_to_quality").row_of(CURVE, 3.0)
    assert row["31.0 dB"] == "10.0 min" and row["31.5 dB"] == "15.0 min" and row["31.8 dB"] == "not reached"
    assert row["best"] == "31.50 dB after 300 steps" and row["ms per step"] == "3000"


def test_minutes_beyond_the_end_of_a_curve_are_extrapolated_over_the_logarithm_of_the_step(bench: Load) -> None:
    curve = [{"step": 2**n, "seconds": 1.0, "psnr": 24.0 + n} for n in range(8)]  # 31 dB after 128 steps
    row = bench("time_to_quality").row_of(curve, 60, extrapolate=True)
    assert row["31.0 dB"] == "128.0 min"
    assert row["31.5 dB"] == f"{2**7.5:.0f} min (extrapolated)"
    assert row["31.8 dB"] == f"{2**7.8:.0f} min (extrapolated)"


def test_the_published_code_and_the_other_feed_take_the_same_steps_and_their_own_time(bench: Load) -> None:
    script = bench("time_to_quality")
    seconds = {"cpu-muon": 0.3, "cpu-muon, feed=device": 0.6, "paper-adam": 1.2}
    table = script.tabulate({"cpu-muon": CURVE, "paper-adam": CURVE[:3]}, seconds, ratio=2.5)
    minutes = {name: row["31.0 dB"] for name, row in table.items()}
    assert minutes.pop(script.LABELLED) != minutes["cpu-muon"]
    assert float(table[script.LABELLED]["31.8 dB"].split()[0]) > 10
    assert minutes == {
        "cpu-muon": "1.0 min",
        "cpu-muon, feed=device": "2.0 min",
        "paper-adam": "4.0 min",
        script.PUBLISHED: "10.0 min",
    }
    assert table["paper-adam"]["31.8 dB"] == "not reached" and "extrapolated" in table[script.PUBLISHED]["31.8 dB"]


def test_an_incomplete_last_line_is_not_read(bench: Load, tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 2}\n' + json.dumps(CURVE[0]) + "\n" + '{"step": 200, "ps')
    assert bench("time_to_quality").read_curve(log) == CURVE[:1]
    assert bench("time_to_quality").read_curve(tmp_path / "none") == []


FAKE = """
import json, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(exist_ok=True)
assert "val_every=100" in sys.argv and "feed=device" in sys.argv and sys.argv[-2:] == ["--resume", "auto"]
for step in range(100, 100_000, 100):
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "seconds": step / 100, "psnr": step / 10}) + "\\n")
    time.sleep(0.02)
"""


def test_a_run_is_stopped_at_the_last_level_and_not_trained_again(
    bench: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = bench("time_to_quality")
    monkeypatch.setattr(script, "FMEN", (sys.executable, "-c", FAKE))
    out = tmp_path / "run"
    command = script.arguments(("cpu", "feed=device"), "photos", "Set5", out)
    curve = script.train(command, out, 99_900, levels=(20.0, 30.0))
    assert curve[0]["psnr"] == 10 and 3 <= len(curve) < 999
    monkeypatch.setattr(script, "FMEN", (sys.executable, "-c", "raise SystemExit(2)"))
    assert script.train(command, out, 99_900, levels=(20.0, 30.0)) == curve
    assert script.train(command, out, curve[-1]["step"], levels=(1e9,)) == curve


def test_a_run_that_fails_is_named(bench: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = bench("time_to_quality")
    monkeypatch.setattr(script, "FMEN", (sys.executable, "-c", "raise SystemExit(2)"))
    command = script.arguments(("cpu",), "photos", "Set5", tmp_path / "run")
    with pytest.raises(SystemExit, match=r"fmen train --recipe cpu .* ended with status 2 before step 100"):
        script.train(command, tmp_path / "run", 100)
