"""BatchNorm next to a convolution: same numbers and gradients as the modules, with less memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fmen_core import FMENTraining, reparameterize
from fmen_core.blocks.normalization import (
    fold_bn_after,
    fold_bn_before,
    normalized_conv,
    normalized_gate,
    set_statistics,
    unfold_bn_after,
    unfold_bn_before,
    update_running_stats,
)
from fmen_core.blocks.reparameterizable import Statistics, set_collapsed


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


@pytest.mark.parametrize("momentum", [0.1, 0.7, 0.0, 1.0, None])
def test_running_statistics_are_updated_as_batch_norm_updates_them(momentum: float | None) -> None:
    """momentum=None is a cumulative average, in which every batch has the same weight."""
    bn, plain = (nn.BatchNorm2d(5, momentum=momentum).double() for _ in range(2))
    for seed in range(3):
        x = features(seed=seed)
        batch, running = update_running_stats(bn, x)
        plain(x)
        assert torch.allclose(batch.mean, x.mean((0, 2, 3)), rtol=1e-12) and batch.eps == running.eps == bn.eps
        assert torch.allclose(batch.var, x.var((0, 2, 3), correction=0), rtol=1e-12)
        assert torch.equal(running.mean, bn.running_mean) and torch.equal(running.var, bn.running_var)
        assert running.mean.data_ptr() != bn.running_mean.data_ptr()
    assert bn.num_batches_tracked == 3
    for ours, reference in zip(bn.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(ours, reference, rtol=1e-12)


def step(model: nn.Module) -> dict[str, Tensor]:
    """The output, the gradients and the running statistics of a training step."""
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 255
    out = model(x)
    out.abs().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"out": out.detach(), **gradients, **dict(model.named_buffers())}


def small_fmen() -> nn.Module:
    torch.manual_seed(0)
    return FMENTraining(n_feats=10, mid_feats=8, down_blocks=1, up_blocks=(1, 1)).double()


@pytest.mark.parametrize("training", [True, False])
def test_a_network_with_sync_batch_norm_is_the_same_function(training: bool) -> None:
    plain = small_fmen().train(training)
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    set_collapsed(sync, training)  # not folded in eval mode, so that the modules run
    found, expected = step(sync), step(plain)
    for name in expected:
        if not name.endswith(("bn2.bias", "excitate.bias")):  # zero except for rounding
            assert torch.allclose(found[name], expected[name], rtol=1e-8, atol=1e-10), name
    assert torch.allclose(step(reparameterize(sync))["out"], step(reparameterize(plain))["out"], rtol=1e-10)


class BatchNormCalls(TorchDispatchMode):
    """Counts normalizations."""

    forward = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        self.forward += "batch_norm" in name and "backward" not in name
        return func(*args, **(kwargs or {}))


def test_training_with_frozen_norms_folds_them_and_has_the_same_gradients() -> None:
    plain = small_fmen().train()
    step(plain)  # statistics other than 0 and 1
    plain.zero_grad()
    norms = {name for name, module in plain.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name in norms:
        plain.get_submodule(name).eval()
    unfolded = copy.deepcopy(plain)
    set_collapsed(unfolded, False)
    with BatchNormCalls() as folded_calls:
        found = step(plain)
    with BatchNormCalls() as calls:
        expected = step(unfolded)
    assert folded_calls.forward == 0 and calls.forward == len(norms) == 6
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("trained", ["bn1", "bn2", "bn3"])
def test_a_block_with_one_norm_in_training_mode_is_not_folded(trained: str) -> None:
    plain = small_fmen().train()
    for name, module in plain.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(name.endswith(trained))
    before = copy.deepcopy(dict(plain.named_buffers()))
    step(plain)
    changed = {name for name, buffer in plain.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed and all(f".{trained}." in name for name in changed)


def test_sync_batch_norm_is_called_as_a_module_so_that_it_synchronises() -> None:
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(small_fmen()).train()
    called: list[nn.Module] = []
    norms = [module for module in sync.modules() if isinstance(module, nn.SyncBatchNorm)]
    for module in norms:
        module.register_forward_hook(lambda module, *_: called.append(module))
    step(sync)
    assert len(norms) == 6 and set(called) == set(norms) and len(called) == 6


def test_two_forward_passes_with_sync_batch_norm_share_one_backward_pass() -> None:
    """The second pass updates the running statistics that the first one needs for its gradients."""
    plain = small_fmen().train()
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64) * 255
    for model in (plain, sync):
        (model(x) - model(x * 0.5)).square().sum().backward()
    for (name, ours), reference in zip(sync.named_parameters(), plain.parameters(), strict=True):
        if not name.endswith(("bn2.bias", "excitate.bias")):  # zero except for rounding
            assert torch.allclose(ours.grad, reference.grad, rtol=1e-8, atol=1e-8), name


def test_unfolding_is_the_inverse_of_folding() -> None:
    torch.manual_seed(0)
    bn, weight, bias = nn.BatchNorm2d(5).double(), *kernel()
    set_statistics(bn, Statistics(torch.randn(5), torch.rand(5) + 0.1, 0.0))
    with torch.no_grad():
        bn.weight.uniform_(0.5, 2)
        bn.bias.uniform_(-1, 1)
        before = fold_bn_before(bn, unfold_bn_before(bn, (weight, bias)))
        after = fold_bn_after(unfold_bn_after((weight.transpose(0, 1), bn.bias * 2), bn), bn)
    for found, expected in zip((*before, *after), (weight, bias, weight.transpose(0, 1), bn.bias * 2), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("identity", [True, False])
def test_set_statistics_normalises_the_input_or_returns_it(identity: bool) -> None:
    bn, x = nn.BatchNorm2d(5).double().eval(), features().detach()
    with torch.no_grad():
        bn.weight.fill_(7)
        bn.bias.fill_(7)
    var, mean = torch.var_mean(x, (0, 2, 3))
    set_statistics(bn, Statistics(mean, var, 0.0), identity=identity)
    expected = x if identity else (x - mean.view(1, -1, 1, 1)) / (var + bn.eps).sqrt().view(1, -1, 1, 1)
    assert torch.allclose(bn(x), expected, rtol=1e-12)


def test_normalized_convolution_has_the_gradients_of_its_parts() -> None:
    x, parameters = features(), (*affine(), *kernel())
    ours = normalized_conv(x, statistics(x), parameters[:2], parameters[2:])
    factor, offset, weight, bias = parameters
    expected = F.conv2d(F.batch_norm(x, None, None, factor, offset, training=True), weight, bias, padding=1)
    assert torch.allclose(ours, expected, rtol=1e-12)
    for grad, reference in zip(gradients(ours, x, *parameters), gradients(expected, x, *parameters), strict=True):
        assert torch.allclose(grad, reference, rtol=1e-10, atol=1e-12)


def test_normalized_gate_has_the_gradients_of_its_parts() -> None:
    x, e, parameters = features(), features(seed=1), affine()
    ours = normalized_gate(x, e, statistics(e), parameters)
    expected = x * torch.sigmoid(F.batch_norm(e, None, None, *parameters, training=True))
    assert torch.allclose(ours, expected, rtol=1e-12)
    for grad, reference in zip(gradients(ours, x, e, *parameters), gradients(expected, x, e, *parameters), strict=True):
        assert torch.allclose(grad, reference, rtol=1e-10, atol=1e-12)


def test_autocast_leaves_the_precision_of_the_features_alone() -> None:
    x = features().detach().float().requires_grad_()
    bn, (weight, bias) = nn.BatchNorm2d(5), kernel()
    with torch.autocast("cpu", torch.bfloat16):
        out = normalized_conv(x, update_running_stats(bn, x)[0], (bn.weight, bn.bias), (weight, bias))
    out.sum().backward()
    assert out.dtype == torch.float32 and weight.grad is not None


def test_a_compiled_network_has_the_gradients_of_a_plain_one() -> None:
    """torch.compile recomputes cheap operations in the backward pass, when the running statistics have changed."""
    torch.manual_seed(0)
    plain = FMENTraining(n_feats=10, mid_feats=8, down_blocks=1, up_blocks=(1, 1)).double().train()
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="aot_eager")
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64) * 255
    for model in (plain, compiled):
        model(x).abs().mean().backward()
    for (name, ours), reference in zip(twin.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, reference.grad, rtol=1e-8, atol=1e-8), name


def test_a_plain_training_step_has_no_operator_that_is_implemented_in_python() -> None:
    spaces = set()

    class Spaces(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            spaces.add(func.namespace)
            return func(*args, **(kwargs or {}))

    with Spaces():
        step(small_fmen().train())
    assert spaces == {"aten"}


def test_a_training_step_stores_no_normalized_features() -> None:
    """With as many channels as the trunk: the inputs of its 11 convolutions, and two tensors per attention block."""
    model = FMENTraining().train()
    stored: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.shape[1:] == (50, 12, 12):
            stored[tensor.untyped_storage().data_ptr()] = 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model(torch.rand(2, 3, 12, 12))
    assert out.requires_grad
    assert len(stored) == 11 + 2 * 5
