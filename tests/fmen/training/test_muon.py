from __future__ import annotations

import pytest
import torch
from torch import nn

from fmen.training.muon import Muon, Orthogonalizer
from fmen_eval.runtime import allocated_by

BETAS, EPS = (0.9, 0.999), 1e-8

NUMBERS = 16
"""Bytes of the numbers that PyTorch converts to tensors for an operation on the CPU."""


@pytest.mark.parametrize("shape", [(3, 20, 90), (3, 90, 20), (2, 16, 16)], ids=str)
def test_orthogonalizing_brings_singular_values_to_one_and_keeps_the_vectors(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rank = min(shape[1:])
    left = torch.linalg.qr(torch.randn(shape[0], shape[1], rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(shape[0], shape[2], rank, generator=generator))[0]
    values = torch.logspace(-1, 2, rank)
    batch = Orthogonalizer(left, *shape)
    batch.matrices.copy_(left * values @ right.mT)
    batch.run()
    found = batch.result
    inner = left.mT @ found @ right
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert diagonal[:, rank // 2 :].min() > 0.65 and diagonal.max() < 1.25
    assert diagonal.min() > 0.05, "a value a thousand times smaller than the largest one is brought up as well"
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 1e-3


def test_kernels_of_one_shape_take_the_steps_that_they_would_take_alone() -> None:
    torch.manual_seed(0)
    together = [nn.Parameter(torch.randn(8, 4, 3, 3)) for _ in range(3)]
    alone = [nn.Parameter(kernel.detach().clone()) for kernel in together]
    gradients = [torch.randn(8, 4, 3, 3) for _ in together]
    optimizers = [Muon(together, 0.01, BETAS, EPS), *(Muon([kernel], 0.01, BETAS, EPS) for kernel in alone)]
    for kernel, other, gradient in zip(together, alone, gradients, strict=True):
        kernel.grad, other.grad = gradient.clone(), gradient.clone()
    for optimizer in optimizers:
        optimizer.step()
    for kernel, other in zip(together, alone, strict=True):
        torch.testing.assert_close(kernel, other)


def test_the_order_of_a_kernel_in_memory_does_not_matter() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 4, 3, 3), torch.randn(3, 8, 4, 3, 3)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        kernel = nn.Parameter(start.clone().contiguous(memory_format=layout))
        optimizer = Muon([kernel], 0.01, BETAS, EPS)
        for gradient in gradients:
            kernel.grad = gradient.clone().contiguous(memory_format=layout)
            optimizer.step()
        moved.append(kernel.detach().contiguous())
    torch.testing.assert_close(*moved)


def test_a_step_is_as_long_as_adams_in_practice() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(50, 50, 3, 3))
    kernel.grad = torch.randn(50, 50, 3, 3)
    Muon([kernel], 0.01, BETAS, EPS).step()
    assert kernel.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.2)


def test_biases_are_moved_by_adam() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(50)) for _ in range(2))
    muon, adam = Muon([ours], 0.01, BETAS, EPS), torch.optim.Adam([theirs], 0.01, BETAS, EPS)
    for gradient in torch.randn(5, 50):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_its_state_survives_a_round_trip() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 8, 4, 3, 3)
    start = torch.randn(8, 4, 3, 3)

    def go(kernel: nn.Parameter, optimizer: Muon, steps: torch.Tensor) -> None:
        for gradient in steps:
            kernel.grad = gradient.clone()
            optimizer.step()

    whole = nn.Parameter(start.clone())
    go(whole, Muon([whole], 0.01, BETAS, EPS), gradients)
    parts = nn.Parameter(start.clone())
    first = Muon([parts], 0.01, BETAS, EPS)
    go(parts, first, gradients[:2])
    second = Muon([parts], 0.01, BETAS, EPS)
    second.load_state_dict(first.state_dict())
    go(parts, second, gradients[2:])
    assert torch.equal(parts, whole)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_allocates_memory_once(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    shapes = [(16, 8, 3, 3), (16, 8, 3, 3), (48, 16, 1, 1), (16,)]
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for param in params:
        param.data = param.data.contiguous(memory_format=layout) if param.ndim == 4 else param.data
        param.grad = torch.randn_like(param)
    optimizer = Muon(params, 0.01, BETAS, EPS)
    assert allocated_by(optimizer.step) > sum(param.nbytes for param in params)
    assert allocated_by(optimizer.step) <= NUMBERS


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (64, 2, 3, 3)], ids=str)
def test_kernels_move_along_nesterovs_momentum_by_a_fifth_of_the_rate(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    gradients = torch.randn(3, *shape)
    kernel = nn.Parameter(torch.zeros(shape))
    optimizer = Muon([kernel], 0.01, BETAS, EPS)
    expected, momentum = torch.zeros(shape), torch.zeros(shape)
    rows, columns = shape[0], kernel[0].numel()
    for gradient in gradients:
        kernel.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        batch = Orthogonalizer(kernel, 1, rows, columns)
        batch.matrices.copy_((0.05 * gradient + 0.95 * momentum).view(1, rows, columns))
        batch.run()
        expected = expected - 0.01 * 0.2 * max(rows, columns) ** 0.5 * batch.result.view(shape)
    torch.testing.assert_close(kernel.detach(), expected, rtol=1e-3, atol=1e-5)


def test_other_parameters_take_the_steps_of_adam() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 5)
    mine, theirs = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
    optimizers = Muon([mine], 0.01, BETAS, 0.1), torch.optim.Adam([theirs], 0.01, BETAS, 0.1)
    for gradient in gradients:
        for parameter, optimizer in zip((mine, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(mine, theirs)
