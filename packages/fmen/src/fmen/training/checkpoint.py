"""The state of a training run, in memory and on disk."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmen.sources.runs import RunError
from fmen.training.cuda_graph import make_plain
from fmen.training.ema import Ema
from fmen_data.atomic import atomic_write_bytes


@dataclass
class State:
    """The state of a run after ``step`` steps.

    Attributes:
        model: The network being trained.
        ema: Its moving average, or None.
        optimizer: The optimizer, with its moments.
        scaler: The loss scaler for fp16; disabled in other precisions.
        losses: Sum of the losses since the last line of metrics, a scalar on the device.
        counted: Number of losses in that sum.
        step: Steps done.
        seconds: Wall time spent so far.
        best: Best validation PSNR so far, in dB.
    """

    model: nn.Module
    ema: Ema[nn.Module] | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    losses: Tensor
    counted: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")

    @property
    def network(self) -> nn.Module:
        """The network that is validated and saved: the moving average where there is one."""
        return self.ema.model if self.ema else self.model

    def count(self, loss: Tensor) -> None:
        """Count one more step."""
        self.losses += loss
        self.counted += 1
        self.step += 1

    def save(self, path: Path) -> None:
        """Write the state to ``path`` atomically."""
        content: dict[str, Any] = {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses,
            "counted": self.counted,
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
        }
        buffer = io.BytesIO()  # torch.save to a file hides a full disk's OSError.
        torch.save(content, buffer)
        atomic_write_bytes(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        """Read the state from ``path``.

        Raises:
            RunError: The file is missing, damaged, or of another network.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(content["model"])
            if self.ema:
                self.ema.model.load_state_dict(content["ema"])
            self.optimizer.load_state_dict(content["optimizer"])
            make_plain(self.optimizer)
            self.scaler.load_state_dict(content["scaler"])
            self.losses.copy_(content["losses"])
        except FileNotFoundError:
            raise RunError(f"{path}: no checkpoint to resume from; start the run again with another --out") from None
        except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(f"{path}: not a checkpoint of this run ({reason}); start again with another --out") from None
        self.counted, self.step = content["counted"], content["step"]
        self.seconds, self.best = content["seconds"], content["best"]
