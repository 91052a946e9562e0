"""All that a training run carries from one step to the next, and its way to disk and back."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmen.training.ema import Ema
from fmen.training.run_folder import RunError
from fmen_data.atomic import atomic_write_bytes


@dataclass
class State:
    """The state of a run after ``step`` steps.

    Attributes:
        model: The network being trained.
        ema: Its average, or None.
        optimizer: With its moments.
        scaler: Of the loss, for fp16; disabled otherwise.
        step: Steps done.
        seconds: Wall time spent so far.
        best: The best validation PSNR so far, in dB.
        losses: Sum of the losses since the last line of metrics, a number on the device.
        counted: How many they are.
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
        """The network whose weights are validated and kept: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def save(self, path: Path) -> None:
        """Write everything to ``path``, as a whole or not at all."""
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
        buffer = io.BytesIO()  # a full disk is then an OSError, which torch's own writer hides
        torch.save(content, buffer)
        atomic_write_bytes(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        """Become the state that ``path`` holds.

        Raises:
            RunError: The file is missing, broken, or of another network.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(content["model"])
            if self.ema:
                self.ema.model.load_state_dict(content["ema"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.scaler.load_state_dict(content["scaler"])
            self.losses.copy_(content["losses"])
        except FileNotFoundError:
            raise RunError(f"{path}: no checkpoint to resume from; start the run again with another --out") from None
        except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(f"{path}: not a checkpoint of this run ({reason}); start again with another --out") from None
        self.counted, self.step = content["counted"], content["step"]
        self.seconds, self.best = content["seconds"], content["best"]
