"""The validation of a run: the PSNR of its validation sets, and which weights are the best."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from fmen.training.boards import Image
from fmen.training.checkpoint import State, save_weights
from fmen.training.distributed import Processes
from fmen.training.feed import read_validation
from fmen.training.logger import FURTHER
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.signals import StopRequest
from fmen_core import Upscaler
from fmen_data import PairDataset
from fmen_data.errors import raise_all
from fmen_eval import EvaluationError, Protocol, psnr

Show = Callable[[str, Image], None]

SHOWN = 4
"""Images of each validation set that dashboards show."""


def check_images(datasets: Sequence[PairDataset]) -> None:
    """Read all images once, so that one that cannot be used does not end the run at its first validation.

    Raises:
        DataError: Images cannot be read, or are too small to be measured; all are named.
    """
    problems = [problem for dataset in datasets for problem in dataset.problems(smallest=2 * dataset.scale + 1)]
    raise_all(problems)


def set_best_by(state: State, recipe: Recipe, images: Sequence[PairDataset]) -> None:
    """Record which validation chooses the best weights; the best PSNR of another one no longer counts."""
    if not images:
        return
    best_by = (images[0].name, len(images[0]), str(recipe.val_protocol[0]), fingerprint(images[0]))
    # In checkpoints of earlier versions it has no fingerprint.
    if state.best_by is not None and state.best_by != best_by[: len(state.best_by)]:
        state.best = -math.inf
    state.best_by = best_by


def fingerprint(images: PairDataset) -> str:
    """Return what differs between datasets of other images: a checksum of the names and sizes of the HR files."""
    names = [f"{pair.name} {pair.hr.stat().st_size}" for pair in images.pairs]
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()


def validate_step(
    recipe: Recipe,
    run: Run,
    state: State,
    images: Sequence[PairDataset],
    device: torch.device,
    processes: Processes,
    stop: StopRequest,
    show: Show = lambda name, image: None,
) -> dict[str, float]:
    """Validate, and save the weights if the first PSNR exceeds that of every validation before.

    Returns:
        The values for ``metrics.jsonl``: ``psnr`` for the first protocol on the first dataset, ``psnr/SET/PROTOCOL``
        for the others. Nothing without images, or if a signal has stopped the validation, which ``state.unvalidated``
        records.
    """
    if not images:
        return {}
    processes.copy_first(state.network.buffers())
    found: dict[str, float] = {}
    for dataset in images:
        values = measure(recipe, state.network, dataset, device, processes, stop, show)
        state.unvalidated = values is None
        if values is None:
            return {}
        for protocol, value in zip(recipe.val_protocol, values, strict=True):
            found[f"{FURTHER}{dataset.name}/{protocol}" if found else "psnr"] = value
    if found["psnr"] > state.best:
        state.best = found["psnr"]
        if processes.first:
            save_weights(recipe, state, run.best)
    return found


def measure(
    recipe: Recipe,
    network: nn.Module,
    images: PairDataset,
    device: torch.device,
    processes: Processes,
    stop: StopRequest,
    show: Show = lambda name, image: None,
) -> tuple[float, ...] | None:
    """Return the mean PSNR in dB of the network's inference form, computed as ``fmen validate`` does, by protocol.

    Process r of w upscales the images r, r + w, ... The first ones are shown.

    Returns:
        None if a signal asks any process to stop.
    """
    upscaler = Upscaler(network, device=str(device), channels_last=False)
    values = torch.zeros(len(images), len(recipe.val_protocol), dtype=torch.float64)
    for start in range(0, len(images), processes.size):
        vote = processes.vote(stop.number)
        index = start + processes.rank
        if index < len(images):
            name, (lr, hr) = images.pairs[index].name, read_validation(recipe, images, index)
            sr = upscaler(lr)
            found = [psnr_of(name, sr, hr, recipe.scale, protocol) for protocol in recipe.val_protocol]
            values[index] = torch.tensor(found, dtype=values.dtype)
            if index < SHOWN:
                show(f"{images.name}/{name}", sr)
        if vote():
            return None
    processes.add(values)
    return tuple(sum(column) / len(values) for column in values.T.tolist())


def psnr_of(name: str, sr: Image, hr: Image, scale: int, protocol: Protocol) -> float:
    """Return the PSNR of one image in dB.

    Raises:
        EvaluationError: The images do not fit; the message names them.
    """
    try:
        return psnr(sr, hr, border=scale, protocol=protocol)
    except EvaluationError as error:
        raise EvaluationError(f"{name}: {error}") from error
