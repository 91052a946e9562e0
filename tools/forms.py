"""Measure how exactly FMEN's forms agree, and what collapsed training saves.

    python tools/forms.py [--weights run/best.safetensors --images Set5/LR_bicubic/X4]

Prints the largest difference between training form and inference form in float64, borders included; the largest
relative difference of a gradient between collapsed and expanded training; how many uint8 pixels differ in float32 on
real images; the memory that a training step keeps, and its time, in either way, taken in turns.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from fmen_core import FMENTraining, Upscaler, load, reparameterize
from fmen_core.blocks.reparameterizable import set_collapsed
from fmen_data import list_images, read_image


def randomised() -> FMENTraining:
    """An FMEN-S in float64 whose normalizations are far from the identity."""
    torch.manual_seed(0)
    model = FMENTraining().double()
    with torch.no_grad():
        for module in model.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.uniform_(-2, 2)
                module.running_var.uniform_(0.2, 3)
                module.weight.uniform_(-1.5, 1.5)
                module.bias.uniform_(-1, 1)
    return model


def difference_of_forms(model: FMENTraining) -> float:
    """Largest absolute difference of the outputs, in eval mode, on an odd-sized image in [0, 255]."""
    x = torch.rand(1, 3, 67, 45, dtype=torch.float64) * 255
    drawn = copy.deepcopy(model).eval()
    set_collapsed(drawn, False)
    with torch.no_grad():
        return (drawn(x) - reparameterize(model)(x)).abs().max().item()


def difference_of_gradients(model: FMENTraining) -> float:
    """Largest relative difference of a parameter's gradient in training mode.

    Left out are the constants right before a normalization: their gradient is zero, and so is what there is to compare.
    """
    x = torch.rand(2, 3, 24, 24, dtype=torch.float64) * 255
    gradients = []
    for collapsed in (True, False):
        copied = copy.deepcopy(model).train()
        set_collapsed(copied, collapsed)
        copied(x).abs().mean().backward()
        gradients.append({name: weight.grad for name, weight in copied.named_parameters()})
    ours, reference = gradients
    names = [name for name in ours if not name.endswith(("bn2.bias", "excitate.bias"))]
    return max(((ours[name] - reference[name]).norm() / reference[name].norm()).item() for name in names)


def differing_pixels(weights: Path, images: Path) -> None:
    """Compare the uint8 images of both forms, through the upscaler and as plain float32 forward passes."""
    model = load(weights)
    upscalers = Upscaler(model, device="cpu"), Upscaler(reparameterize(model), device="cpu")
    through = plain = total = 0
    for file in list_images(images):
        lr = read_image(file)
        x = torch.from_numpy(lr).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            both = [form(x).clamp(0, 255).round() for form in (model, reparameterize(model))]
        through += int((upscalers[0](lr) != upscalers[1](lr)).sum())
        plain += int((both[0] != both[1]).sum())
        total += both[0].numel()
    print(f"uint8 pixels that differ between the forms of {weights.name}, of {total:,}:")
    print(f"  through the upscaler {through}, as plain float32 forward passes {plain}")


def step_times(rounds: int = 5, batch: int = 16, patch: int = 48) -> dict[str, float]:
    """Median seconds of a training step, fp32 and bf16, collapsed and expanded, taken in turns."""
    model = FMENTraining().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    lr: Tensor = torch.rand(batch, 3, patch, patch).mul_(255).to(memory_format=torch.channels_last)
    hr: Tensor = torch.rand(batch, 3, 4 * patch, 4 * patch).mul_(255).to(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for collapsed in (True, False):
            for bf16 in (False, True):
                set_collapsed(model, collapsed)
                begun = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    sr = model(lr)
                (sr.float() - hr).abs().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                if turn:  # the first one warms up
                    name = f"{'collapsed' if collapsed else 'expanded'} {'bf16' if bf16 else 'fp32'}"
                    times.setdefault(name, []).append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def kept_mebibytes(collapsed: bool, batch: int = 16, patch: int = 48) -> float:
    """What a float32 training step keeps from the forward for the backward pass, weights included, in MiB."""
    model = FMENTraining().train()
    set_collapsed(model, collapsed)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        sr = model(torch.rand(batch, 3, patch, patch))
    del sr
    return sum(kept.values()) / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="FMEN's training form, as a run keeps it")
    parser.add_argument("--images", type=Path, help="a folder of LR images")
    options = parser.parse_args()
    model = randomised()
    print(f"training form and inference form, float64: {difference_of_forms(model):.1e} of 255")
    print(f"gradients, collapsed and expanded, float64: {difference_of_gradients(model):.1e} relative")
    if options.weights and options.images:
        differing_pixels(options.weights, options.images)
    collapsed, expanded = kept_mebibytes(True), kept_mebibytes(False)
    print(f"kept for the backward pass: collapsed {collapsed:.0f} MiB, expanded {expanded:.0f} MiB")
    times = step_times()
    for name, seconds in times.items():
        print(f"training step, {name}: {seconds:.3f} s, {times['expanded fp32'] / seconds:.2f}x of expanded fp32")


if __name__ == "__main__":
    main()
