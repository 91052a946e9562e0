"""Muon: an optimizer that orthogonalizes the step of every convolution kernel.

A kernel is a matrix from its receptive field to its output channels. The gradient's matrix has a few large singular
values and many small ones; Adam's step follows the large ones. Muon sets all of them to about 1, so that rare
directions are learned as fast as common ones. The cards of the bundled weights (docs/weights.md) show its effect.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, for the method and the
coefficients of the iteration; Liu et al., "Muon is scalable for LLM training", 2025, for the size of a step, which
makes learning rates comparable to Adam's. PyTorch's ``torch.optim.Muon`` takes only matrices, one at a time.
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
"""Typical root mean square of Adam's step, in units of the learning rate (Liu et al., section 2.2)."""


class Orthogonalizer:
    """Orthogonalizes matrices of one shape in memory that is allocated once.

    Attributes:
        matrices: The matrices ``(count, rows, columns)``; overwritten.
        result: What :meth:`run` computes from them, of the same shape.
    """

    def __init__(self, like: Tensor, count: int, rows: int, columns: int) -> None:
        self.matrices, self.result = like.new_empty(2, count, rows, columns)
        self.norm = like.new_empty(count, 1, 1)
        self.gram, self.polynomial = like.new_empty(2, count, min(rows, columns), min(rows, columns))

    def run(self) -> None:
        """Bring the singular values to between about 0.7 and 1.2; the singular vectors stay.

        This iterates a quintic polynomial. Singular values below a hundredth of the matrix norm end below 0.7.
        """
        tall = self.matrices.shape[1] > self.matrices.shape[2]
        x, y = (each.mT if tall else each for each in (self.matrices, self.result))
        torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, out=self.norm)
        x.div_(self.norm.add_(1e-7))
        a, b, c = COEFFICIENTS
        for _ in range(ITERATIONS):  # an odd number, so that the last one writes into ``result``
            torch.bmm(x, x.mT, out=self.gram)
            torch.baddbmm(self.gram, self.gram, self.gram, beta=b, alpha=c, out=self.polynomial)
            torch.baddbmm(x, self.polynomial, x, beta=a, out=y)
            x, y = y, x


class Muon(torch.optim.Optimizer):
    """Muon for the kernels of convolutions ``(O, I, kh, kw)``, Adam for everything else, at the same learning rate.

    A step overwrites the gradients, which are its working memory, and allocates no tensor after the first step.

    Args:
        params: Parameters of a network.
        lr: Learning rate. A step of either kind has a root mean square of about ``0.2 * lr``.
        betas: Decay rates of Adam's moments.
        eps: Added to the root of Adam's second moment.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], eps: float) -> None:
        params = list(params)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in params if p.ndim == 4], "kernels": True},
            {"params": [p for p in params if p.ndim != 4], "kernels": False},
        ]
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "steps": 0})
        self.orthogonalizers: dict[tuple[torch.Size, int], Orthogonalizer] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the state of a copy, which allocates working memory of its own."""
        super().__setstate__(state)
        self.orthogonalizers = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "Muon evaluates no closure"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params if p.grad is not None]
            group["steps"] += 1
            if params and group["kernels"]:
                self.step_kernels(params, grads, group)
            elif params:
                self.step_others(params, grads, group)

    def step_kernels(self, kernels: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        """Apply Nesterov momentum, then orthogonalize all kernels of one shape in one batch."""
        momenta = self.moments(kernels, "momentum")
        torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
        torch._foreach_lerp_(grads, momenta, MOMENTUM)
        alike: dict[torch.Size, list[int]] = defaultdict(list)
        for i, kernel in enumerate(kernels):
            alike[kernel.shape].append(i)
        for shape, members in alike.items():
            rows, columns = shape[0], shape[1:].numel()
            key = shape, len(members)
            if key not in self.orthogonalizers:
                self.orthogonalizers[key] = Orthogonalizer(kernels[members[0]], len(members), rows, columns)
            batch = self.orthogonalizers[key]
            torch._foreach_copy_(as_kernels(batch.matrices, shape), [grads[i] for i in members])
            batch.run()
            batch.result.mul_(group["lr"])
            size = ADAM_RMS * max(rows, columns) ** 0.5
            torch._foreach_add_([kernels[i] for i in members], as_kernels(batch.result, shape), alpha=-size)

    def step_others(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        """Apply Adam (Kingma and Ba, 2015)."""
        (beta1, beta2), steps = group["betas"], group["steps"]
        means, squares = self.moments(params, "mean"), self.moments(params, "square")
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        updates = grads
        torch._foreach_copy_(updates, squares)
        torch._foreach_sqrt_(updates)
        torch._foreach_div_(updates, (1 - beta2**steps) ** 0.5)
        torch._foreach_add_(updates, group["eps"])
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, means)
        torch._foreach_mul_(updates, -group["lr"] / (1 - beta1**steps))
        torch._foreach_add_(params, updates)

    def moments(self, params: list[Tensor], name: str) -> list[Tensor]:
        """Return one moment of each parameter, zero before the first step."""
        for param in params:
            if name not in self.state[param]:
                self.state[param][name] = torch.zeros_like(param)
        return [self.state[param][name] for param in params]


def as_kernels(matrices: Tensor, shape: torch.Size) -> list[Tensor]:
    """Return views of matrices ``(B, O, kh * kw * I)`` as ``B`` kernels ``(O, I, kh, kw)`` in channels-last memory."""
    out, inputs, height, width = shape
    return list(matrices.view(-1, out, height, width, inputs).permute(0, 1, 4, 2, 3).unbind())
