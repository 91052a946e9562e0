"""Measurements of super-resolution networks by the rules of papers and challenges.

Networks are callables or ``nn.Module``s. The package depends on none of the project's other packages.
"""

from fmen_eval.complexity import Complexity, Layer, complexity
from fmen_eval.errors import EvaluationError
from fmen_eval.memory import MemoryReport, NodeMemory, analyse
from fmen_eval.metrics import PROTOCOLS, Protocol, psnr, rgb_to_y, ssim
from fmen_eval.runtime import (
    ChallengeRuntime,
    PeakMemory,
    Runtime,
    arithmetic,
    device_name,
    measure,
    measure_as_challenge,
    peak_memory,
)
from fmen_eval.validation import ImageResult, ValidationResult, validate

__version__ = "0.1.0"

__all__ = [
    "PROTOCOLS",
    "ChallengeRuntime",
    "Complexity",
    "EvaluationError",
    "ImageResult",
    "Layer",
    "MemoryReport",
    "NodeMemory",
    "PeakMemory",
    "Protocol",
    "Runtime",
    "ValidationResult",
    "analyse",
    "arithmetic",
    "complexity",
    "device_name",
    "measure",
    "measure_as_challenge",
    "peak_memory",
    "psnr",
    "rgb_to_y",
    "ssim",
    "validate",
]
