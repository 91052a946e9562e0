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


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices ``(B, n, m)`` to between about 0.7 and 1.2; the singular vectors stay.

    This iterates a quintic polynomial. Singular values below a hundredth of the matrix norm end below 0.7.
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
        # The order of the columns does not matter; this one needs no copy in channels-last memory.
        matrices = [m.permute(0, 2, 3, 1).flatten(1) for m in torch._foreach_lerp(grads, momenta, MOMENTUM)]
        alike: dict[torch.Size, list[int]] = defaultdict(list)
        for i, matrix in enumerate(matrices):
            alike[matrix.shape].append(i)
        for shape, members in alike.items():
            size = ADAM_RMS * max(shape) ** 0.5
            updates = orthogonalize(torch.stack([matrices[i] for i in members])).mul_(-size * group["lr"])
            for i, update in zip(members, updates, strict=True):
                out, inputs, height, width = kernels[i].shape
                kernels[i].add_(update.view(out, height, width, inputs).permute(0, 3, 1, 2))

    def step_others(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        """Apply Adam (Kingma and Ba, 2015)."""
        (beta1, beta2), steps = group["betas"], group["steps"]
        means, squares = self.moments(params, "mean"), self.moments(params, "square")
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - beta2**steps) ** 0.5)
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(means, roots)
        torch._foreach_mul_(updates, -group["lr"] / (1 - beta1**steps))
        torch._foreach_add_(params, updates)

    def moments(self, params: list[Tensor], name: str) -> list[Tensor]:
        """Return one moment of each parameter, zero before the first step."""
        for param in params:
            if name not in self.state[param]:
                self.state[param][name] = torch.zeros_like(param)
        return [self.state[param][name] for param in params]
