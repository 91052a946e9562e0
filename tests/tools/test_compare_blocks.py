"""The comparison of the blocks, on two tiny runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_blocks_are_trained_by_one_recipe_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    import compare_blocks

    (tmp_path / "photos").mkdir()
    cv2.imwrite(
        str(tmp_path / "photos/a.png"), np.random.default_rng(0).integers(256, size=(48, 48, 3), dtype=np.uint8)
    )
    photos, out, found = str(tmp_path / "photos"), tmp_path / "runs", tmp_path / "found.json"
    small = [f"--set={setting}" for setting in ("patch=8", "batch=1", "device=cpu", "compile=false")]
    command = ["compare_blocks.py", "--data", photos, "--val-data", photos, "--out", str(out), "--json", str(found)]
    command += ["--picture", str(tmp_path / "blocks.png"), *small, "--blocks", "plain", "acb", "--minutes", "0.01"]

    monkeypatch.setattr(sys, "argv", command)
    compare_blocks.main()
    record = json.loads(found.read_text())
    for block in record["blocks"].values():
        assert block["curve"][-1] == [block["steps"], block["psnr"]]
    assert record["blocks"]["plain"]["training_params"] < record["blocks"]["acb"]["training_params"]
    assert record["minutes"] == 0.01 and record["recipe"]["name"] == "cpu"
    assert compare_blocks.Run(out / "acb").recipe().model_args == {"block": "acb"}
    assert cv2.imread(str(tmp_path / "blocks.png")).size

    # Neither steps nor finished runs are measured or trained again.
    monkeypatch.setattr(compare_blocks, "train", None)
    monkeypatch.setattr(compare_blocks, "prepare", None)
    compare_blocks.main()
    assert json.loads(found.read_text()) == record
