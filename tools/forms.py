"""Measure how exactly FMEN's forms agree.

    python tools/forms.py [--block ecb] [--weights run/best.safetensors --images Set5/LR_bicubic/X4]

Prints the largest difference between training form and inference form in float64, borders included; the largest
relative difference of a gradient between collapsed and expanded training; and how many uint8 pixels differ in float32
on real images. ``tools/bench/reparam_blocks.py`` measures the time and the memory that collapsed training saves.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import nn

from fmen_core import FMENTraining, Upscaler, load, reparameterize
from fmen_core.blocks.by_name import BLOCKS
from fmen_core.blocks.reparameterizable import set_collapsed
from fmen_data import list_images, read_image


def randomised(block: str) -> FMENTraining:
    """Return an FMEN-S in float64 whose BatchNorms are far from the identity."""
    torch.manual_seed(0)
    model = FMENTraining(block=block).double()
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
    """Return the largest absolute difference of the outputs, in eval mode, on an odd-sized image in [0, 255]."""
    x = torch.rand(1, 3, 67, 45, dtype=torch.float64) * 255
    expanded = copy.deepcopy(model).eval()
    set_collapsed(expanded, False)
    with torch.no_grad():
        return (expanded(x) - reparameterize(model)(x)).abs().max().item()


def difference_of_gradients(model: FMENTraining) -> float:
    """Return the largest relative difference of a parameter's gradient in training mode.

    The constants in front of a BatchNorm are left out, because their gradient is zero.
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="FMEN's training form, as a run saves it")
    parser.add_argument("--block", default="rrrb", choices=BLOCKS, help="block of the ERBs")
    parser.add_argument("--images", type=Path, help="a folder of LR images")
    options = parser.parse_args()
    model = randomised(options.block)
    print(f"training form and inference form, float64: {difference_of_forms(model):.1e} of 255")
    print(f"gradients, collapsed and expanded, float64: {difference_of_gradients(model):.1e} relative")
    if options.weights and options.images:
        differing_pixels(options.weights, options.images)


if __name__ == "__main__":
    main()
