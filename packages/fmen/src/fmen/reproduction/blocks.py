"""FMEN-S with each re-parameterizable block: parameters of the training form, and PSNR at one budget."""

from __future__ import annotations

import time

from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen.reproduction.variants import SCALE, Variant, draw_curves, order, training_rows
from fmen_core import create_model

NETWORK = "fmen-s"

TITLES = {"rrrb": "RRRB", "ecb": "ECB", "repvgg": "RepVGG", "acb": "ACB", "dbb": "DBB", "plain": "3x3 convolution"}
"""Titles by the names of ``fmen_core.blocks.by_name.BLOCKS``."""

VARIANTS = tuple(Variant(title, NETWORK, {"block": name}) for name, title in TITLES.items())

CLAIM = (
    'Zhang et al., "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices", ACM MM 2021, '
    "find ECB to be better than the other blocks and than a 3x3 convolution, in their network. All variants have the "
    "inference form of FMEN-S."
)


def run(options: Options) -> Result:
    """Count the parameters that are trained; with ``options.steps``, also train the variants."""
    psnr, curves = training_rows(VARIANTS, options)
    findings, images = {}, {}
    if curves:
        findings["PSNR"] = order(curves, TITLES["ecb"])
        if options.out is not None:
            name, title = "blocks.svg", "FMEN-S with each block"
            images["PSNR by step, the first seed"] = draw_curves(name, title, curves, options)
    return Result([*map(counted, VARIANTS), *psnr], [CLAIM], images=images, findings=findings)


def counted(variant: Variant) -> Row:
    """Return the parameters of the training form."""
    started = time.perf_counter()
    network = create_model(NETWORK, SCALE, **variant.args)
    params = sum(parameter.numel() for parameter in network.parameters())
    seconds = time.perf_counter() - started
    return Row(variant.title, "parameters in training", params / 1e3, "K", 1, seconds=seconds)


EXPERIMENT = Experiment("blocks", "Re-parameterizable blocks in FMEN-S, x4", run)
