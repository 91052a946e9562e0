"""Table 1 and Figure 5: plain, residual and enhanced residual blocks in EDSR-baseline, MemNet and FMEN."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fmen.reproduction.published import FMEN_TABLE1
from fmen.reproduction.result import Experiment, Options, Result
from fmen.reproduction.variants import Variant, draw_curves, order, parameter_rows, time_rows, training_rows
from fmen_core import create_model
from fmen_core.blocks.by_name import BLOCKS
from fmen_core.device import pick_device
from fmen_core.fmen_deploy import SLOPE
from fmen_core.models.edsr_baseline import ResBlock
from fmen_core.models.fmen import ERB
from fmen_core.models.memnet import MemoryBlock

BLOCK_NAMES = ("pb", "rb", "erb")
"""Plain block, residual block, enhanced residual block (section 3.3, Figure 4)."""

HOSTS = {"edsr-baseline": "EDSR-baseline", "memnet": "MemNet", "fmen": "FMEN"}
"""The networks whose blocks are replaced, with their titles."""

LR_SIDES = {"edsr-baseline": 256, "memnet": 64, "fmen": 256}
"""Side of the image for times. MemNet takes 185 billion multiply-adds for 64 pixels."""

INCREASES = {"edsr-baseline": -9.2, "memnet": -7.5, "fmen": -12.4}
"""The published increase of the time with ERBs over residual blocks, in percent."""


class Block(nn.Module):
    """Two 3x3 convolutions with a LeakyReLU in between; ``(N, C, H, W)`` to the same shape.

    Args:
        channels: C.
        kind: ``"pb"``, plain; ``"rb"``, with a shortcut around both; ``"erb"``, with RRRBs in the training form.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        make = BLOCKS["rrrb" if kind == "erb" else "plain"]
        self.conv1 = make(channels, 2)
        self.conv2 = make(channels, 2)
        self.shortcut = kind == "rb"

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.conv2(F.leaky_relu(self.conv1(x), SLOPE, inplace=True))
        return out + x if self.shortcut else out


class WithBlocks(nn.Module):
    """A network whose residual blocks are replaced by plain, residual or enhanced residual blocks.

    Args:
        scale: Upscaling factor.
        network: ``"edsr-baseline"``, ``"memnet"`` or ``"fmen"``.
        block: ``"pb"``, ``"rb"`` or ``"erb"``.
        sizes: Sizes of the network that are not the published ones.
    """

    def __init__(
        self, scale: int = 4, network: str = "fmen", block: str = "erb", sizes: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        if block not in BLOCK_NAMES:
            raise ValueError(f"block is {block!r}; choose one of {', '.join(BLOCK_NAMES)}")
        self.scale = scale
        self.network = create_model(network, scale, **(sizes or {}))
        self.data_range: float = self.network.data_range  # type: ignore[assignment]
        replace_blocks(self.network, block)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        out: Tensor = self.network(x)
        return out


def replace_blocks(network: nn.Module, kind: str) -> None:
    """Replace the residual blocks of EDSR, the units of MemNet's recursions, or FMEN's ERBs, in place."""
    for module in list(network.modules()):
        if isinstance(module, MemoryBlock):
            module.unit = Block(channels_of(module.unit), kind)
        for name, child in module.named_children():
            if isinstance(child, ResBlock | ERB):
                module.add_module(name, Block(channels_of(child), kind))


def channels_of(block: nn.Module) -> int:
    """Return the channels that the last convolution of a block returns."""
    convs = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    return convs[-1].out_channels


VARIANTS = tuple(
    Variant(
        f"{title} with {block.upper()}",
        WithBlocks,
        {"network": network, "block": block},
        increase=INCREASES[network] if block == "erb" else None,
        increase_source=FMEN_TABLE1,
    )
    for network, title in HOSTS.items()
    for block in BLOCK_NAMES
)


def run(options: Options) -> Result:
    """Count the parameters; measure times with ``options.runs``, and PSNR with ``options.steps``."""
    times, conditions = [], []
    for network, title in HOSTS.items():
        own = [variant for variant in VARIANTS if variant.args["network"] == network]
        baselines = {variant.title: f"{title} with RB" for variant in own}
        rows, condition = time_rows(own, options, (LR_SIDES[network], LR_SIDES[network]), baselines)
        times += rows
        conditions += [f"{title}: {condition}"] if condition else []
    on_gpu = pick_device(options.device) == "cuda"
    psnr, curves = training_rows([v for v in VARIANTS if on_gpu or v.args["network"] != "memnet"], options)
    remarks = [
        "The times are those of the merged forms: an ERB is then a plain block, and a residual block has one addition "
        "more, for which its input stays in memory. MemNet is trained on a GPU only: a step takes minutes on a CPU.",
        "The paper's times are averages of 10 runs on the DIV2K validation set on a GPU: 231.7 ms with residual blocks "
        "and 214.5 ms with ERBs in MemNet, 99.8 ms and 90.6 ms in EDSR-baseline, 46.1 ms and 40.4 ms in FMEN. Merged, "
        "the plain block and the ERB are the same: the difference between their times is noise.",
    ]
    images, findings = {}, {}
    for title in dict.fromkeys(name.rsplit(" with ", 1)[0] for name in curves):
        of_host = {name: found for name, found in curves.items() if name.startswith(title)}
        findings[title] = f"{title}: {order(of_host, f'{title} with ERB')}"
        if options.out is not None:
            images[f"Figure 5: PSNR of {title} by step, the first seed"] = draw_curves(
                f"figure5_{title.lower()}.svg", title, of_host, options
            )
    return Result([*parameter_rows(VARIANTS), *times, *psnr], remarks, "; ".join(conditions), images, findings)


EXPERIMENT = Experiment("table1", "Table 1 and Figure 5: plain, residual and enhanced residual blocks, x4", run)
