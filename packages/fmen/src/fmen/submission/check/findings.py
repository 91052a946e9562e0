"""What a check of a submission says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fmen.submission.images import SplitImages
from fmen.submission.metrics import meets_threshold
from fmen.submission.rules import Layout, Split

Severity = Literal["fatal", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: ``"fatal"``: the organisers cannot use the file as it is, or it claims what is not so; ``"warning"``:
            they may stumble over it; ``"info"``: a figure or a remark.
        where: The file, or the part of a file, that it is about.
        message: One line.
    """

    severity: Severity
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.message}"


def some(names: list[str], shown: int = 3) -> str:
    """The first few of many names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def judge(mean: float, count: int, layout: Layout, split: Split, images: SplitImages, where: str) -> list[Finding]:
    """A mean PSNR in dB over ``count`` images, and whether it suffices; the challenge's own images alone can tell."""
    findings = [Finding("info", where, f"PSNR {mean:.4f} dB on {images.name} ({count} images)")]
    if images.own and meets_threshold(mean, layout, split) is False:
        fault = f"the challenge asks for {layout.thresholds[split]:.2f} dB, measured {mean:.2f} dB"
        findings.append(Finding("fatal", where, fault))
    return findings
