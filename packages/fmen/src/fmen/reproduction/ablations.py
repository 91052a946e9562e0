"""What single parts of FMEN-S contribute: parameters, memory and time of variants, and PSNR at a budget."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fmen.reproduction.ablated_fmen import AblatedFMEN
from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen.reproduction.variants import Variant, order, time_rows, training_rows
from fmen_core import expand, find_weights, load, reparameterize
from fmen_core.reparam import synthetic_images
from fmen_eval import analyse

MIB = 2**20
LR_SIZE = 256, 256

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "FMEN-S": {},
    "no BatchNorm in the branches": {"norm": False},
    "branch as deep as the trunk": {"down_blocks": 2, "up_blocks": (2, 2, 2)},
    "no sigmoid": {"sigmoid": False},
    "HFAB after every second ERB": {"every": 2, "up_blocks": (2, 1, 1)},
    "shortcuts in the trunk": {"shortcuts": True},
    "BatchNorm padded with zeros": {"zero_padding": True},
    "48 channels": {"n_feats": 48},
}
"""The arguments of each variant. A branch as deep as the trunk has 2 ERBs, as the shortened trunk has."""

NOTES = {
    "shortcuts in the trunk": "The paper's Table 1: FMEN takes 46.1 ms with residual blocks and 40.4 ms with ERBs, "
    "EDSR-baseline 99.8 ms and 90.6 ms.",
    "48 channels": "Three vectors of sixteen floats; 50 channels take four.",
    "BatchNorm padded with zeros": "Folding assumes padding with the BatchNorm's shift.",
}

SAME_FORM = (
    "FMEN-S, the variant without BatchNorm and the one that pads with zeros have the same inference form: the "
    "differences between their times are noise."
)


def variant(name: str) -> nn.Module:
    """Return an untrained variant in its training form, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AblatedFMEN(**VARIANTS[name])


def run(options: Options) -> Result:
    """Count the variants; with ``options.runs`` also time them, and with ``options.steps`` train them."""
    variants = [Variant(name, AblatedFMEN, args) for name, args in VARIANTS.items()]
    rows = [row for each in variants for row in counted(each.title, each.inference_form())]
    rows += [folded(name) for name in ("FMEN-S", "BatchNorm padded with zeros")]
    times, conditions = time_rows(variants, options, LR_SIZE, dict.fromkeys(VARIANTS, "FMEN-S"))
    psnr, curves = training_rows(variants, options)
    rows = sorted([*rows, *times, *psnr], key=lambda row: list(VARIANTS).index(row.subject))
    return Result(rows, [SAME_FORM], conditions, findings={"PSNR": order(curves)} if curves else {})


def counted(name: str, network: nn.Module) -> list[Row]:
    """Return parameters and predicted peak memory of an inference form, which are exact."""
    started = time.perf_counter()
    params = sum(parameter.numel() for parameter in network.parameters())
    memory = analyse(network, LR_SIZE).peak.total
    seconds = time.perf_counter() - started
    return [
        Row(name, "parameters", params / 1e3, "K", 3, note=NOTES.get(name, ""), seconds=seconds),
        Row(name, "predicted memory", memory / MIB, " MiB", 1, seconds=seconds),
    ]


@torch.no_grad()
def folded(name: str) -> Row:
    """Return the largest difference that folding makes, with the bundled weights of FMEN-S x4.

    The BatchNorms have the statistics of the features; see :func:`fmen_core.expand`.
    """
    started = time.perf_counter()
    network = variant(name)
    network.load_state_dict(expand(load(find_weights("fmen-s_x4"))).state_dict())
    network.eval()
    images = 255 * synthetic_images(2, 48)
    difference = (network(images) - reparameterize(network)(images)).abs().max()
    seconds = time.perf_counter() - started
    return Row(name, "largest difference after folding", float(difference), " gray levels", 3, seconds=seconds)


EXPERIMENT = Experiment("ablations", "Ablations of FMEN-S", run)
