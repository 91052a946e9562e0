"""Batch normalizations that keep their input alone: same numbers, same gradients, less memory."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core import FMENTraining
from fmen_core.blocks.normalization import normalized_conv, normalized_gate, update_running_stats
from fmen_core.blocks.reparameterizable import Statistics


def features(channels: int = 5, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, 6, 4, generator=generator, dtype=torch.float64) * 3 + 1
    return x.to(memory_format=torch.channels_last).requires_grad_()


def affine(channels: int = 5) -> tuple[Tensor, Tensor]:
    return (
        torch.linspace(0.5, 2, channels, dtype=torch.float64).requires_grad_(),
        torch.linspace(-1, 1, channels, dtype=torch.float64).requires_grad_(),
    )


def kernel() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, 5, 3, 3, dtype=torch.float64, requires_grad=True), torch.randn(
        3, dtype=torch.float64, requires_grad=True
    )


def statistics(x: Tensor) -> Statistics:
    return update_running_stats(nn.BatchNorm2d(x.shape[1]).double(), x)[0]


def gradients(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * weights).sum(), inputs)


def test_observed_statistics_are_those_of_the_batch_and_move_the_running_ones() -> None:
    x, bn, plain = features(), nn.BatchNorm2d(5).double(), nn.BatchNorm2d(5).double()
    seen, now = update_running_stats(bn, x)
    plain(x)
    assert torch.allclose(seen.mean, x.mean((0, 2, 3)), rtol=1e-12)
    assert torch.allclose(seen.var, x.var((0, 2, 3), correction=0), rtol=1e-12)
    assert torch.equal(now.mean, bn.running_mean) and torch.equal(now.var, bn.running_var)
    for ours, reference in zip(bn.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(ours, reference, rtol=1e-12)


def test_normalized_convolution_has_the_gradients_of_its_parts() -> None:
    x, parameters = features(), (*affine(), *kernel())
    ours = normalized_conv(x, statistics(x), parameters[:2], parameters[2:])
    factor, offset, weight, bias = parameters
    drawn = F.conv2d(F.batch_norm(x, None, None, factor, offset, training=True), weight, bias, padding=1)
    assert torch.allclose(ours, drawn, rtol=1e-12)
    for grad, reference in zip(gradients(ours, x, *parameters), gradients(drawn, x, *parameters), strict=True):
        assert torch.allclose(grad, reference, rtol=1e-10, atol=1e-12)


def test_normalized_gate_has_the_gradients_of_its_parts() -> None:
    x, e, parameters = features(), features(seed=1), affine()
    ours = normalized_gate(x, e, statistics(e), parameters)
    drawn = x * torch.sigmoid(F.batch_norm(e, None, None, *parameters, training=True))
    assert torch.allclose(ours, drawn, rtol=1e-12)
    for grad, reference in zip(gradients(ours, x, e, *parameters), gradients(drawn, x, e, *parameters), strict=True):
        assert torch.allclose(grad, reference, rtol=1e-10, atol=1e-12)


def test_autocast_leaves_the_precision_of_the_features_alone() -> None:
    x = features().detach().float().requires_grad_()
    bn, (weight, bias) = nn.BatchNorm2d(5), kernel()
    with torch.autocast("cpu", torch.bfloat16):
        out = normalized_conv(x, update_running_stats(bn, x)[0], (bn.weight, bn.bias), (weight, bias))
    out.sum().backward()
    assert out.dtype == torch.float32 and weight.grad is not None


def test_a_compiled_network_has_the_gradients_of_a_plain_one() -> None:
    """torch.compile computes cheap things again in the backward pass; running statistics have moved on by then."""
    torch.manual_seed(0)
    plain = FMENTraining(n_feats=10, mid_feats=8, down_blocks=1, up_blocks=(1, 1)).double().train()
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="aot_eager")
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64) * 255
    for model in (plain, compiled):
        model(x).abs().mean().backward()
    for (name, ours), reference in zip(twin.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, reference.grad, rtol=1e-8, atol=1e-8), name


def test_a_training_step_keeps_no_normalized_features() -> None:
    """Of features as wide as the trunk: what its 11 convolutions take in, and two for each of 5 attention blocks."""
    model = FMENTraining().train()
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.shape[1:] == (50, 12, 12):
            kept[tensor.untyped_storage().data_ptr()] = 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model(torch.rand(2, 3, 12, 12))
    assert out.requires_grad
    assert len(kept) == 11 + 2 * 5
