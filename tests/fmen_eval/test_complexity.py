"""The challenge's counting rule, on networks small enough to count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmen_eval import EvaluationError, complexity, measure, measure_as_challenge
from fmen_eval.complexity import Complexity, Layer


class Small(nn.Module):
    """Every module that the rule names, and some that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.act = nn.LeakyReLU(0.1)
        self.up = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        features = F.relu(self.norm(self.conv(image)))
        features = self.act(self.grouped(self.act(features)))
        return self.gain * torch.sigmoid(self.up(features))


def test_flops_activations_and_convs_follow_the_challenges_rule() -> None:
    counted = complexity(Small(), (10, 12))
    pixels = 10 * 12
    conv, grouped, up = 9 * 3 * 8 * pixels, 9 * 8 * 2 * pixels, 16 * 8 * 3 * 4 * pixels
    norm, act = 2 * 8 * pixels, 2 * 8 * pixels
    assert counted.flops == conv + grouped + up + norm + act
    assert counted.activations == 8 * pixels + 8 * pixels + 3 * 4 * pixels
    assert counted.convs == 3
    assert counted.params == sum(parameter.numel() for parameter in Small().parameters())


@pytest.mark.parametrize(
    ("module", "flops"),
    [
        (nn.ReLU(), 192),
        (nn.PReLU(), 192),
        (nn.ELU(), 192),
        (nn.LeakyReLU(), 192),
        (nn.ReLU6(), 192),
        (nn.SiLU(), 0),
        (nn.Sigmoid(), 0),
        (nn.MaxPool2d(2), 0),
        (nn.BatchNorm2d(3), 2 * 192),
        (nn.BatchNorm2d(3, affine=False), 192),
        (nn.Linear(8, 5), 3 * 8 * 8 * 5),
    ],
)
def test_modules_count_as_in_the_challenge(module: nn.Module, flops: int) -> None:
    assert complexity(nn.Sequential(module), (8, 8)).flops == flops


def test_a_module_called_twice_counts_twice() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    once, twice = complexity(nn.Sequential(conv), (8, 8)), complexity(nn.Sequential(conv, conv), (8, 8))
    assert (twice.convs, twice.flops, twice.activations) == (2, 2 * once.flops, 2 * once.activations)
    assert twice.params == once.params


def test_macs_are_those_of_thop() -> None:
    counted = complexity(Small(), (10, 12))
    normalization = 4 * 8 * 120  # thop's own count for an affine BatchNorm2d
    rectifiers = 2 * 8 * 120
    assert counted.macs == counted.flops - rectifiers - 2 * 8 * 120 + normalization


def test_layers_break_the_sums_down() -> None:
    counted = complexity(Small(), (10, 12))
    assert [layer.name for layer in counted.layers] == ["conv", "norm", "act", "grouped", "up"]
    assert sum(layer.flops for layer in counted.layers) == counted.flops
    act, up = counted.layers[2], counted.layers[-1]
    assert (act.calls, act.kind, act.params, act.activations) == (2, "LeakyReLU", 0, 0)
    assert (up.params, up.output_shape) == (16 * 8 * 3 + 3, (1, 3, 20, 24))
    assert counted.table().splitlines()[-1].split()[0] == "total"


def test_the_network_is_left_as_it_was() -> None:
    network = Small().train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    complexity(network, (10, 12))
    assert network.training
    assert list(network.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


class LooksAtValues(nn.Conv2d):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) if image.sum().item() == 0 else image


def test_a_network_that_looks_at_values_is_run_on_the_cpu() -> None:
    assert complexity(LooksAtValues(3, 2, 1), (8, 8)).flops == 6 * 64


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    complexity(Small(), (10, 12))
    assert capfd.readouterr() == ("", "")


def test_a_network_that_cannot_take_the_image_is_named_in_one_line() -> None:
    with pytest.raises(EvaluationError, match="Conv2d cannot run on a 4x4 RGB image") as caught:
        complexity(nn.Conv2d(5, 5, 3), (4, 4))
    assert "\n" not in str(caught.value)


def test_the_table_is_exact() -> None:
    layers = (
        Layer("head", "Conv2d", 2, 1234, 1_234_567_890, 5678, (1, 8, 10, 12)),
        Layer("act", "ReLU", 1, 0, 960, 0, (1, 8, 10, 12)),
    )
    assert Complexity(1234, 1_234_568_850, 0, 5678, 2, layers).table().splitlines() == [
        "layer  kind    calls  params     MFLOPs  activations  output",
        "head   Conv2d      2   1,234  1,234.568        5,678  1x8x10x12",
        "act    ReLU        1       0      0.001            0  1x8x10x12",
        "---------------------------------------------------------------",
        "total              3   1,234  1,234.569        5,678",
    ]


def test_the_default_image_is_256x256() -> None:
    assert complexity(nn.Conv2d(3, 1, 1)).activations == 256 * 256


def test_flops_are_exact_beyond_double_precision() -> None:
    side = 94_906_267  # its square is odd and greater than 2**53
    assert complexity(nn.Conv2d(3, 3, 1, groups=3), (side, side)).flops == 3 * side**2


def test_the_message_of_an_impossible_run_is_the_first_line_of_the_error() -> None:
    class Refusing(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise ValueError("\nfirst line\nsecond line\nthird line")

    with pytest.raises(EvaluationError) as caught:
        complexity(Refusing(), (4, 6))
    assert str(caught.value) == "Refusing cannot run on a 6x4 RGB image: first line"


def test_a_network_that_holds_its_features_is_counted_and_measured_after_a_training_step() -> None:
    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.weight_norm(nn.Conv2d(3, 3, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            self.features: Tensor = self.conv(x)
            return self.features

    network = Keeper()
    network(torch.rand(1, 3, 8, 8))
    assert complexity(network, (8, 8)).flops == 3 * 3 * 9 * 64
    assert measure({"keeper": network}, (8, 8), runs=1, warmup=0, progress=False)["keeper"].times_ms
    assert measure_as_challenge(network, [torch.rand(1, 3, 8, 8)], progress=False).images == 1
    assert network.features.requires_grad


def test_a_compiled_network_counts_as_the_network_itself() -> None:
    assert complexity(torch.compile(Small()), (10, 12)) == complexity(Small(), (10, 12))
