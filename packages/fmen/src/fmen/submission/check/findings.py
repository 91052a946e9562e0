"""The findings of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fmen.submission.images import SplitImages
from fmen.submission.metrics import meets_threshold
from fmen.submission.rules import Layout, Split

Severity = Literal["fatal", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        severity: ``"fatal"``: the organisers cannot use the file, or it declares a wrong figure; ``"warning"``: it may
            cause trouble; ``"info"``: a figure or a remark.
        where: The file that it concerns.
        message: One line.
    """

    severity: Severity
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.message}"


def abbreviate(names: list[str], shown: int = 3) -> str:
    """Join names, the first few if there are many."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def psnr_findings(
    mean: float, count: int, layout: Layout, split: Split, images: SplitImages, where: str
) -> list[Finding]:
    """Report a mean PSNR in dB over ``count`` images, and whether it misses the threshold on the official images."""
    findings = [Finding("info", where, f"PSNR {mean:.4f} dB on {images.name} ({count} images)")]
    if images.official and meets_threshold(mean, layout, split) is False:
        fault = f"the challenge requires {layout.thresholds[split]:.2f} dB, measured {mean:.2f} dB"
        findings.append(Finding("fatal", where, fault))
    return findings
