"""Muon: an optimizer that turns every step of a convolution's kernel into an orthogonal matrix.

A kernel is a matrix from what lies under it to its output channels. A gradient's matrix has a few large singular values
and many small ones; Adam's step follows the large ones. Muon sets all of them to about 1, so that the rare directions
are learned at the rate of the common ones. The card of the weights in the box says what that gave.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, for the method and the
iteration's coefficients; Liu et al., "Muon is scalable for LLM training", 2025, for the size of a step, which makes
learning rates comparable to Adam's. PyTorch's own ``torch.optim.Muon`` takes matrices alone and one at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ADAM_RMS = 0.2
"""The root mean square of Adam's step in units of the learning rate, as it is found in practice."""


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values of ``(B, n, m)`` matrices to between about 0.7 and 1.2; the singular vectors stay.

    A quintic polynomial of the matrix, iterated. What is smaller than a hundredth of the norm is not brought up all
    the way.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for the kernels of convolutions ``(O, I, kh, kw)``, Adam for everything else, at the same learning rate.

    Args:
        params: The parameters of a network.
        lr: Learning rate: a step of either kind has a root mean square of about ``0.2 * lr``.
        betas: Adam's.
        eps: Adam's.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], eps: float) -> None:
        params = list(params)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in params if p.ndim == 4], "kernels": True},
            {"params": [p for p in params if p.ndim != 4], "kernels": False},
        ]
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "the loss is not evaluated again"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            group["steps"] += 1
            if group["kernels"]:
                self.step_kernels(params, group["lr"])
            else:
                self.step_others(params, group)

    def step_kernels(self, kernels: list[Tensor], lr: float) -> None:
        """Momentum after Nesterov, then one batch of orthogonalizations for all kernels of one shape."""
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for kernel in kernels:
            assert kernel.grad is not None
            momentum = self.state[kernel].setdefault("momentum", torch.zeros_like(kernel))
            momentum.lerp_(kernel.grad, 1 - MOMENTUM)
            # The order of a matrix's columns is free: this one needs no copy where channels lie together in memory.
            matrix = kernel.grad.lerp(momentum, MOMENTUM).permute(0, 2, 3, 1).flatten(1)
            alike[matrix.shape].append((kernel, matrix))
        for shape, pairs in alike.items():
            size = ADAM_RMS * max(shape) ** 0.5
            for (kernel, _), matrix in zip(pairs, orthogonalize(torch.stack([m for _, m in pairs])), strict=True):
                out, inputs, height, width = kernel.shape
                kernel.sub_(matrix.view(out, height, width, inputs).permute(0, 3, 1, 2), alpha=lr * size)

    def step_others(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Adam (Kingma and Ba, 2015)."""
        (beta1, beta2), steps = group["betas"], group["steps"]
        for param in params:
            assert param.grad is not None
            state = self.state[param]
            mean = state.setdefault("mean", torch.zeros_like(param)).lerp_(param.grad, 1 - beta1)
            square = state.setdefault("square", torch.zeros_like(param)).lerp_(param.grad.square(), 1 - beta2)
            scale = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
            param.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**steps))
