"""The nine rows of the challenge table, counted for the published weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmen_core import load
from fmen_eval import analyse, complexity


@pytest.mark.parametrize(
    ("weights", "params", "gflops", "mactivations", "convs"),
    [
        ("team03_fmen.pth", 341_066, 22.2800, 72.0896, 34),
        ("imdn_baseline.pth", 893_936, 58.5315, 154.1407, 43),
        ("rfdn_baseline.pth", 433_448, 27.1026, 112.0342, 64),
        ("team04_rlfn.pth", 317_218, 19.6953, 80.0452, 39),
        ("team05_efdn.pt", 272_038, 16.8596, 79.5852, 59),
        ("team10_repafdn.pth", 326_040, 20.0617, 93.8152, 59),
        ("team40_rfdn_pruned.pth", 289_888, 17.7008, 91.7181, 64),
        ("team39_imdn_plus.pth", 275_844, 17.9849, 92.7990, 59),
        ("ntire2026_span.pth", 150_688, 9.8338, 41.6809, 22),
    ],
)
def test_the_row_is_the_published_one(
    reference: Path, weights: str, params: int, gflops: float, mactivations: float, convs: int
) -> None:
    counted = complexity(load(reference / "weights" / weights))
    assert counted.params == params
    assert round(counted.flops / 1e9, 4) == gflops
    assert round(counted.activations / 1e6, 4) == mactivations
    assert counted.convs == convs


def test_thop_counts_what_the_challenge_counts_for_fmen_s(reference: Path) -> None:
    counted = complexity(load(reference / "weights" / "team03_fmen.pth"))
    assert counted.macs == counted.flops


def test_fmen_requires_4chw_at_the_attention_product_and_3chw_in_place(reference: Path) -> None:
    network = load(reference / "weights" / "team03_fmen.pth")
    report = analyse(network, (64, 48))
    feature = 4 * 50 * 64 * 48
    product = report.peak_out_of_place
    assert str(product) == "HFABs.3: mul_"
    assert product.total_out_of_place - product.parameter_bytes == 4 * feature
    assert product.total - product.parameter_bytes == 3 * feature


def test_e_rfdn_peaks_at_the_fusion_of_its_blocks(reference: Path) -> None:
    peak = analyse(load(reference / "weights" / "rfdn_baseline.pth"), (64, 48)).peak
    feature = 4 * 50 * 64 * 48
    assert peak.op == "cat"
    assert peak.input_bytes + peak.output_bytes == 2 * 4 * feature
    assert peak.kept_bytes == feature  # the head's output, for the last sum
