"""The state of a training run, in memory and on disk, and its weights for use.

A checkpoint is what ``torch.save`` writes, a ZIP archive. Its checksum is the comment of the archive, so that
``torch.load`` reads the file as before. PyTorch itself does not compare the archive's own checksums.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmen.sources.networks import save_network
from fmen.sources.runs import RunError
from fmen.training.cuda_graph import make_plain
from fmen.training.ema import Ema
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen_data.atomic import atomic_write

DIGEST = 16
"""Length of the checksum in bytes."""

END = b"PK\5\6", 22
"""Signature and length of the last record of a ZIP archive, without its comment."""


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
        best_by: The name and the size of the validation set that it is of, the protocol, and the set's fingerprint.
        unvalidated: Whether a signal has stopped the validation of this step.
        random: The state of PyTorch's random numbers in the checkpoint, on which Dropout depends; None in a new run.
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
    best_by: tuple[str | int, ...] | None = None
    unvalidated: bool = False
    random: Tensor | None = None

    @property
    def network(self) -> nn.Module:
        """The network that is validated and saved: the moving average where there is one."""
        return self.ema.model if self.ema else self.model

    def count(self, loss: Tensor) -> None:
        """Count one more step."""
        self.losses += loss
        self.counted += 1
        self.step += 1

    def save(self, path: Path, keep: int = 1) -> None:
        """Write the state to ``path`` atomically.

        Args:
            path: The checkpoint.
            keep: Number of checkpoints in the folder afterwards. The former ``resume.pt`` becomes ``resume-1.pt``,
                ``resume-1.pt`` becomes ``resume-2.pt``, and so on.
        """
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
            "best_by": self.best_by,
            "unvalidated": self.unvalidated,
            "random": torch.get_rng_state(),
        }
        buffer = io.BytesIO()  # torch.save to a file hides a full disk's OSError.
        torch.save(content, buffer)
        with atomic_write(path) as temporary:
            temporary.write_bytes(with_checksum(buffer.getvalue()))
            for number in range(keep - 1, 0, -1):  # After the write, which fails on a full disk.
                newer = Run(path.parent).checkpoint(number - 1)
                if newer.is_file():
                    newer.replace(Run(path.parent).checkpoint(number))
        for older in Run(path.parent).checkpoints()[keep:]:
            older.unlink()

    def load(self, content: bytes, path: Path) -> None:
        """Set the state to that of a checkpoint.

        Args:
            content: The content of the checkpoint, from :func:`newest_checkpoint`.
            path: Its file, for messages.

        Raises:
            RunError: It is of another network.
        """
        try:
            values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            self.model.load_state_dict(values["model"])
            if self.ema:
                self.ema.model.load_state_dict(values["ema"])
            self.optimizer.load_state_dict(values["optimizer"])
            make_plain(self.optimizer)
            self.scaler.load_state_dict(values["scaler"])
            self.losses.copy_(values["losses"])
        except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(f"{path}: not a checkpoint of this run ({reason}); start again with another --out") from None
        self.counted, self.step = values["counted"], values["step"]
        self.seconds, self.best = values["seconds"], values["best"]
        # Missing in checkpoints of earlier versions.
        self.unvalidated, self.best_by = values.get("unvalidated", False), values.get("best_by")
        self.random = values.get("random")


def newest_checkpoint(run: Run) -> tuple[Path, bytes]:
    """Return the newest undamaged checkpoint of a run. Damaged ones are renamed, and named on standard error.

    Raises:
        RunError: There is none.
    """
    found = run.checkpoints()
    for path in found:
        content = path.read_bytes()
        if is_intact(content):
            return path, content
        if path != found[-1]:  # Renamed, as it must not replace an older one when the next is saved.
            path.replace(path.with_suffix(".damaged"))
            print(f"note: {path} is damaged (wrong checksum); continuing from the one before", file=sys.stderr)
    if found:
        raise RunError(f"{found[-1]}: damaged (wrong checksum), and none is older; start again with another --out")
    raise RunError(f"{run.resume}: no checkpoint to resume from; start again with --resume auto, or with another --out")


def save_weights(recipe: Recipe, state: State, path: Path) -> None:
    """Write the weights for use: the average, or the network where there is none."""
    data = " ".join(recipe.datasets).encode(errors="replace").decode()  # a folder's name may not be UTF-8
    metadata = {"step": str(state.step), "seconds": f"{state.seconds:.0f}", "data": data}
    save_network(state.network, path, recipe=recipe.name, metadata=metadata)


def checksum(content: bytes) -> bytes:
    """Return the BLAKE2b checksum of ``content``."""
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def with_checksum(archive: bytes) -> bytes:
    """Return a ZIP archive that has no comment with its checksum as the comment."""
    archive = archive[:-2] + DIGEST.to_bytes(2, "little")
    return archive + checksum(archive)


def is_intact(content: bytes) -> bool:
    """Return whether the checksum of a checkpoint is right; earlier versions wrote none."""
    signature, length = END
    return checksum(content[:-DIGEST]) == content[-DIGEST:] or content[-length:].startswith(signature)
