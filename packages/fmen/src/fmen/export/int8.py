"""Quantize a network to int8: scales from calibration images, then a short training against the network in fp32.

Each convolution rounds its input to 256 steps and its weights to 255 steps per output channel. The input's channels
have scales of their own, which the weights are multiplied by, so that a channel with small values keeps as many steps
as one with large values, and the convolution sums integers. Sums, products and activations stay in floating point, and
so do the first and the last convolution, and those whose rounding changes the output most.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fmen_core.architecture import sr_model

FLOAT_SHARE = 0.15
"""Largest share of a network's multiply-accumulates that stay in floating point."""

CROP, CROPS, SEARCH_CROPS, BATCH = 40, 64, 12, 8
"""Side of the LR crops; number of crops for ranges, for the search of scales, and in a training step."""

BALANCES = (0.25, 0.5, 0.75, 1.0)
"""How much of the spread of the channels' ranges is taken from the input; the weights take the rest."""

CLIPS = (1.0, 0.85, 0.7)
"""Shares of the range that are tried. A smaller share clips the largest values and rounds the others less."""

WEIGHT_RATE, SCALE_RATE = 3e-3, 3e-3
"""Learning rates: of weights relative to their root mean square, and of the logarithms of the scales."""

WARMUP = 20
"""Training steps with a rising learning rate."""

Bytes = NDArray[np.uint8]
Note = Callable[[str], object]


class QuantizedConv2d(nn.Conv2d):
    """A convolution that rounds its input and its weights to 8 bits, in floating point (fake quantization).

    Args:
        conv: The convolution, which has no groups; its weights are copied.
        scale: Step of each input channel, ``(C,)``.
        zero: The integer that stands for 0, from 0 to 255.
    """

    def __init__(self, conv: nn.Conv2d, scale: Tensor, zero: int) -> None:
        sizes: dict[str, Any] = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        super().__init__(conv.in_channels, conv.out_channels, bias=conv.bias is not None, **sizes)
        self.load_state_dict(conv.state_dict())
        self.log_scale = nn.Parameter(scale.log()[None, :, None, None])
        self.zero = zero

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, C, H, W)``."""
        scale = self.log_scale.exp()  # OpenVINO does not make a constant of the exponential of a negated parameter
        levels = torch.fake_quantize_per_tensor_affine(input * (1 / scale), 1.0, self.zero, 0, 255)
        weight = self.weight * scale
        steps = (weight.detach().abs().amax((1, 2, 3)) / 127).clamp_min(1e-30)
        zeros = torch.zeros(len(steps), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -127, 127)
        return F.conv2d(levels, weight, self.bias, self.stride, self.padding, self.dilation)


@dataclass(frozen=True)
class Choice:
    """The scales chosen for a convolution.

    Attributes:
        name: Its name in the network.
        quantized: Its quantized form.
        error: Estimated mean squared error of the network's output.
        operations: Multiply-accumulates on the crops.
    """

    name: str
    quantized: QuantizedConv2d
    error: float
    operations: int


def quantize(network: nn.Module, images: Sequence[Bytes], *, steps: int, note: Note = lambda line: None) -> nn.Module:
    """Return a copy of a network whose convolutions round to int8.

    Args:
        network: In its inference form, in float32 on the CPU.
        images: LR images ``(H, W, 3)``.
        steps: Training steps; 0 for post-training quantization alone.
        note: Called with a line about the convolutions that stay in floating point, and about the training.
    """
    crops = Crops(images, sr_model(network).data_range)
    chosen = choose_scales(network, crops.batch(CROPS))
    ends = [*chosen[:1], *chosen[-1:]]
    exact = {choice.name for choice in ends}
    budget = FLOAT_SHARE * sum(choice.operations for choice in chosen) - sum(choice.operations for choice in ends)
    for choice in sorted(chosen[1:-1], key=lambda choice: -choice.error):
        if choice.operations <= budget:
            budget -= choice.operations
            exact.add(choice.name)
    quantized = copy.deepcopy(network)
    for choice in chosen:
        if choice.name not in exact:
            parent, _, last = choice.name.rpartition(".")
            setattr(quantized.get_submodule(parent), last, choice.quantized)
    note(f"in floating point: {', '.join(choice.name for choice in chosen if choice.name in exact)}")
    train(quantized, network, crops, steps, note)
    return quantized.eval().requires_grad_(False)


def count_quantized(network: nn.Module) -> int:
    """Return the number of convolutions in int8."""
    return sum(isinstance(module, QuantizedConv2d) for module in network.modules())


class Crops:
    """Random crops of LR images, with mirror images.

    Args:
        images: LR images ``(H, W, 3)``.
        data_range: The value of white in a batch.
    """

    def __init__(self, images: Sequence[Bytes], data_range: float) -> None:
        self.images = images
        self.side = min(CROP, *(min(image.shape[:2]) for image in images))
        self.factor = data_range / 255
        self.random = np.random.default_rng(0)

    def batch(self, count: int) -> Tensor:
        """Return ``count`` crops, ``(count, 3, side, side)``."""
        side, crops = self.side, []
        for _ in range(count):
            image = self.images[int(self.random.integers(len(self.images)))]
            top, left = (self.random.integers(length - side + 1) for length in image.shape[:2])
            crop = image[top : top + side, left : left + side]
            crops.append(crop[:, :: self.random.choice((1, -1))])
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) * self.factor


# --- scales -----------------------------------------------------------------------------------------------------------


def choose_scales(network: nn.Module, x: Tensor) -> list[Choice]:
    """Choose the scales of the convolutions that can be quantized, in the order in which they run.

    One that runs more than once has inputs of several sizes, and is left out.

    Args:
        network: The network in float32.
        x: Calibration images ``(N, 3, H, W)``.
    """
    weights = importance(network, x[:SEARCH_CROPS])
    chosen: list[Choice] = []

    def choose(name: str, conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        candidates = [
            (weighted_error(candidate(inputs[0][:SEARCH_CROPS]), output[:SEARCH_CROPS], weights[name]), candidate)
            for candidate in candidates_of(conv, inputs[0])
        ]
        error, best = min(candidates, key=lambda pair: pair[0])
        chosen.append(Choice(name, best, error, conv.weight.numel() * output[0, 0].numel()))

    with torch.no_grad(), hooked(network, choose):
        network(x)
    runs = Counter(choice.name for choice in chosen)
    return [choice for choice in chosen if runs[choice.name] == 1]


def candidates_of(conv: nn.Conv2d, x: Tensor) -> Iterator[QuantizedConv2d]:
    """Yield quantized forms of a convolution with various scales, for the input ``x``."""
    low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
    largest = torch.maximum(high, -low).clamp_min(1e-6 * x.abs().max().clamp_min(1e-6))
    weights = conv.weight.abs().amax((0, 2, 3)).clamp_min(1e-6 * conv.weight.abs().max())
    for balance, clip in product(BALANCES, CLIPS):
        ratio = largest**balance * weights ** (balance - 1)
        top, bottom = float((high / ratio).max().clamp_min(0)), float((low / ratio).min().clamp_max(0))
        zero = round(-bottom / (top - bottom) * 255) if top > bottom else 0
        step = max(top / (255 - zero) if zero < 255 else 0.0, -bottom / zero if zero else 0.0) or 1.0
        yield QuantizedConv2d(conv, ratio * step * clip, zero)


def weighted_error(found: Tensor, expected: Tensor, weights: Tensor) -> float:
    """Return the mean squared difference of ``(N, C, H, W)``, with a weight for each channel."""
    return float((weights * (found - expected).square().mean((0, 2, 3))).sum())


def importance(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return, for each channel of each convolution's output, the effect of an error there on the network's output.

    It is the mean squared derivative of the sum of the network's outputs with random signs.
    """
    outputs: dict[str, Tensor] = {}

    def remember(name: str, conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs[name] = output if output.requires_grad else output.requires_grad_()
        return outputs[name] * 1.0  # LeakyReLU works in place

    with torch.enable_grad(), hooked(network, remember):
        y = network(x)
        if not outputs:
            return {}
        signs = torch.randint(0, 2, y.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        gradients = torch.autograd.grad((y * signs).sum(), list(outputs.values()), materialize_grads=True)
    pixels = y[0].numel() / x[0, 0].numel()
    return {name: gradient.square().mean((0, 2, 3)) / pixels for name, gradient in zip(outputs, gradients, strict=True)}


@contextmanager
def hooked(network: nn.Module, hook: Callable[[str, nn.Conv2d, tuple[Tensor, ...], Tensor], Any]) -> Iterator[None]:
    """Call ``hook(name, convolution, inputs, output)`` after each convolution that can be quantized."""
    with ExitStack() as stack:
        for name, conv in network.named_modules():
            if type(conv) is nn.Conv2d and conv.groups == 1 and conv.padding_mode == "zeros":
                call = lambda module, inputs, output, name=name: hook(name, module, inputs, output)  # noqa: E731
                stack.callback(conv.register_forward_hook(call).remove)
        yield


# --- training ---------------------------------------------------------------------------------------------------------


def train(quantized: nn.Module, teacher: nn.Module, crops: Crops, steps: int, note: Note) -> None:
    """Train a quantized network to return what ``teacher`` returns: Adam, absolute error, warm-up and cosine decay."""
    groups: list[dict[str, Any]] = []
    for conv in quantized.modules():
        if isinstance(conv, QuantizedConv2d):
            groups.append({"params": [conv.log_scale], "rate": SCALE_RATE})
            for weight in (conv.weight, conv.bias):
                if weight is not None:
                    size = float(weight.detach().square().mean().sqrt())
                    groups.append({"params": [weight], "rate": WEIGHT_RATE * size})
    if not groups:
        return
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    for group in groups:
        group["params"][0].requires_grad_(True)
    total = 0.0
    for step in range(1, steps + 1):
        x = crops.batch(BATCH)
        with torch.no_grad():
            target = teacher(x)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, step / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        loss = F.l1_loss(quantized(x), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() * 255 / sr_model(teacher).data_range
        if step % 50 == 0 or step == steps:
            note(f"step {step} of {steps}: mean error {total / (step % 50 or 50):.3f} gray levels")
            total = 0.0
