"""The published weights of the compared networks give their published figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmen_core import Upscaler, load
from fmen_data import open_dataset
from fmen_eval import ValidationResult, validate

SET5_PSNR = {
    "imdn_baseline.pth": 32.2468,
    "rfdn_baseline.pth": 32.1589,
    "team04_rlfn.pth": 32.0973,
    "team05_efdn.pt": 31.8548,
    "team10_repafdn.pth": 32.1378,
    "team39_imdn_plus.pth": 32.1327,
    "team40_rfdn_pruned.pth": 32.1452,
    "ntire2026_span.pth": 31.7390,
}
"""PSNR in dB under protocol paper at x4."""

IMDN_PAPER = {"IMDN_x2.pth": (38.00, 0.9605), "IMDN_x3.pth": (34.36, 0.9270), "IMDN_x4.pth": (32.21, 0.8948)}
"""PSNR and SSIM on Set5 from Table 5 of IMDN's paper, as published with these weights."""


def measure(reference: Path, file: str) -> ValidationResult:
    model = load(reference / "weights" / file)
    upscaler = Upscaler(model, device="cpu")
    dataset = open_dataset(reference / "data" / "Set5", scale=upscaler.scale)
    return validate(upscaler, dataset, scale=upscaler.scale, protocol="paper", progress=False)


@pytest.mark.parametrize("file", SET5_PSNR)
def test_challenge_weights_give_their_psnr_on_set5(reference: Path, file: str) -> None:
    # CPUs sum in different orders, which changes the rounding of a few pixels: at most 1e-4 dB.
    assert measure(reference, file).psnr == pytest.approx(SET5_PSNR[file], abs=1e-4)


@pytest.mark.parametrize("file", IMDN_PAPER)
def test_imdn_gives_the_figures_of_its_paper_on_set5(reference: Path, file: str) -> None:
    result = measure(reference, file)
    assert result.ssim is not None
    assert (round(result.psnr, 2), round(result.ssim, 4)) == IMDN_PAPER[file]
