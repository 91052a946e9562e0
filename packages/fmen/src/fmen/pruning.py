"""``fmen prune``: make a narrower network from a trained one, and measure both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.json_file import write_json
from fmen.sources.networks import build_network, load_network, user_module
from fmen.sources.weights import weights_title
from fmen.validation import run_validation
from fmen_core import prune, reparameterize
from fmen_core.architecture import sr_model
from fmen_core.pruning import copy_channels
from fmen_data import open_dataset, parse_source
from fmen_eval import Protocol, complexity
from fmen_eval.tables import format_text

PRUNED, REPORT = "pruned.safetensors", "prune.json"
"""Files in the run folder: the network before it is fine-tuned, and the report."""

WIDTHS = ("n_feats", "mid_feats")
"""Sizes of the package's networks that ``--ratio`` reduces; ``--channels`` sets the first one."""


MOST_IMAGES, LARGEST_SIDE = 16, 64
"""Number and side in pixels of the LR images by which channels are chosen."""


@dataclass(frozen=True)
class Row:
    """A network in the report.

    Attributes:
        network: ``"before"``, ``"pruned"`` or ``"fine-tuned"``.
        weights: Its file.
        params: Number of parameters of the inference form.
        macs: Multiply-accumulates for an LR image of 256x256 pixels.
        psnr: Mean PSNR in dB.
        ssim: Mean SSIM.
        data: The dataset.
    """

    network: str
    weights: str
    params: int
    macs: int
    psnr: float
    ssim: float | None
    data: str


def narrower_sizes(
    network: nn.Module, channels: int | None, ratio: float | None, sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the sizes of the narrower network that differ from those of ``network``.

    Args:
        network: The trained network.
        channels: The new ``n_feats``.
        ratio: The share of ``n_feats`` and ``mid_feats`` to remove, in (0, 1).
        sizes: Further sizes by name; they precede the others.

    Raises:
        UserError: No size changes, or the network has no size called ``n_feats``.
    """
    own: dict[str, Any] = getattr(network, "sizes", {})
    if channels is not None and ratio is not None:
        raise UserError("--channels and --ratio both set the width; give one of them")
    if (channels is not None or ratio is not None) and WIDTHS[0] not in own:
        names = ", ".join(own) or "none"
        raise UserError(f"{network.name} has no size {WIDTHS[0]}, only {names}; use --set model_args.NAME=N")
    found: dict[str, Any] = {} if channels is None else {WIDTHS[0]: channels}
    if ratio is not None:
        found = {name: max(1, round(own[name] * (1 - ratio))) for name in WIDTHS if name in own}
    found |= sizes
    if not found:
        raise UserError("no size is given; add --channels N, --ratio SHARE, or --set model_args.NAME=N")
    if all(own.get(name) == value for name, value in found.items()):
        raise UserError(f"{network.name} already has {', '.join(f'{name} = {own[name]}' for name in found)}")
    return found


def typical_images(data: str, network: nn.Module) -> Tensor:
    """Return the middle of some LR images of a dataset, ``(N, 3, H, W)`` in the range of ``network``.

    Raises:
        DataError: The images cannot be read.
    """
    model = sr_model(network)
    dataset = open_dataset(parse_source(data), scale=model.scale, split="train")
    step = max(1, len(dataset) // MOST_IMAGES)
    images = [dataset.read(index)[0] for index in range(0, len(dataset), step)[:MOST_IMAGES]]
    side = min(LARGEST_SIDE, *(length for image in images for length in image.shape[:2]))
    corners = [[(length - side) // 2 for length in image.shape[:2]] for image in images]
    cut = [image[top : top + side, left : left + side] for image, (top, left) in zip(images, corners, strict=True)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() * (model.data_range / 255)


def narrower(
    network: nn.Module, model: str | None, sizes: Mapping[str, Any], images: Tensor | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Prune a network.

    Args:
        network: The trained network, from ``load_network``.
        model: ``FILE.py:CLASS`` of a user's network, which is built in the new sizes.
        sizes: The sizes that change.
        images: Typical LR images, by which the channels are chosen; see :func:`fmen_core.prune`.

    Returns:
        The narrower network, and the keys of a recipe that fine-tunes it, without its weights file.

    Raises:
        UserError: A user's network cannot be built in these sizes.
        ModelError: The network cannot be pruned to these sizes.
    """
    scale, arguments = sr_model(network).scale, {**getattr(network, "sizes", {}), **sizes}
    if model and user_module(network):
        narrow = reparameterize(build_network(model, scale, arguments))
        narrow, name = copy_channels(reparameterize(network), narrow, images), model
    else:
        narrow = prune(network, images, **sizes)
        name = str(narrow.name)
    return narrow, {"model": name, "model_args": arguments, "scale": scale}


def measure(
    network: str, weights: Path, *, model: str | None, data: str | None, protocol: Protocol, device: str
) -> Row:
    """Return the row of a weights file; arguments as of :func:`fmen.validation.run_validation`."""
    (report,) = run_validation(
        weights, [data] if data else [], model=model, protocol=protocol, device=device, echo=lambda line: None
    )
    counted = complexity(reparameterize(load_network(weights, model)))
    psnr, ssim = report.result.psnr, report.result.ssim
    return Row(network, str(weights), counted.params, counted.macs, psnr, ssim, report.dataset)


def table(rows: Sequence[Row], protocol: Protocol) -> str:
    """Format the report as a text table."""
    cells = [("network", "params", "mult-adds (G)", f"PSNR dB ({protocol})", "SSIM", "weights")]
    for row in rows:
        ssim = "-" if row.ssim is None else f"{row.ssim:.4f}"
        title = weights_title(Path(row.weights))
        cells.append((row.network, f"{row.params:,}", f"{row.macs / 1e9:.4f}", f"{row.psnr:.4f}", ssim, title))
    return format_text(cells, words={0, 5})


def write_report(file: Path, rows: Sequence[Row], protocol: Protocol, sizes: Mapping[str, Any]) -> None:
    """Write the report as JSON."""
    content = {
        "sizes": dict(sizes),
        "criterion": "share of the variance of the next layers' outputs",
        "protocol": protocol,
        "lr_size": [256, 256],
    }
    write_json(file, content | {"networks": [asdict(row) for row in rows]})
