"""Section 3.1's memory analysis of the networks."""

from __future__ import annotations

import pytest

from fmen.reproduction import memory
from fmen.reproduction.result import Options


def test_fmen_has_four_feature_maps_at_its_peak_and_predictions_stand_beside_measurements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "model_names", lambda: ("fmen-s", "rfdn"))
    result = memory.run(Options(device="cpu"))
    quantities = ["peak memory, the paper's sum", "peak memory, predicted", "peak memory, measured"]
    assert [row.key for row in result.rows] == [
        ("fmen-s", "features at the peak"),
        *(("fmen-s", quantity) for quantity in quantities),
        *(("rfdn", quantity) for quantity in quantities),
    ]
    features, *fmen, paper, predicted, measured = result.rows
    assert (features.published, features.difference) == (4, 0) and features.ours == pytest.approx(4, abs=1e-6)
    assert measured.ours == pytest.approx(predicted.ours, rel=0.01) and not measured.note
    assert paper.ours < 0.9 * predicted.ours
    assert fmen[0].ours <= fmen[1].ours <= fmen[2].ours
    assert "more than predicted" in fmen[2].note
    assert "agree to 1 % for 1 of 2 networks" in result.remarks[0]
