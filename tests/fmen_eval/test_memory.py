"""The memory analysis, on networks small enough to account for by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmen_eval import EvaluationError, analyse, peak_memory
from fmen_eval.memory import MemoryReport, NodeMemory

SIZE = (24, 20)
PIXELS = 24 * 20
CHANNELS = 8
FEATURE = 4 * CHANNELS * PIXELS  # CHW in bytes
IMAGE = 4 * 3 * PIXELS


def conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def weight_bytes(network: nn.Module) -> int:
    return 4 * sum(parameter.numel() for parameter in network.parameters())


class Attention(nn.Module):
    """The structure of FMEN: shallow features for the last sum, and a product with an attention map before it."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.head, self.body, self.squeeze = conv(3, CHANNELS), conv(CHANNELS, CHANNELS), conv(CHANNELS, 2)
        self.excitate, self.tail = conv(2, CHANNELS), conv(CHANNELS, 3)
        self.in_place = in_place

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.head(image)
        deep = self.body(shallow)
        logits = self.excitate(self.squeeze(deep))
        if self.in_place:
            return self.tail(logits.sigmoid_().mul_(deep).add_(shallow))
        return self.tail(torch.sigmoid(logits) * deep + shallow)


class Fusion(nn.Module):
    """N features, concatenated."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(3, CHANNELS) for _ in range(features))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([layer(image) for layer in self.convs], dim=1)


def test_a_plain_chain_needs_2chw() -> None:
    network = nn.Sequential(conv(3, CHANNELS), *(conv(CHANNELS, CHANNELS) for _ in range(3)), conv(CHANNELS, 3))
    peak = analyse(network, SIZE).peak
    assert peak.total == 2 * FEATURE + weight_bytes(network)
    assert (peak.name, peak.op, peak.input_bytes, peak.output_bytes) == ("3", "convolution", FEATURE, FEATURE)


@pytest.mark.parametrize("features", [2, 4])
def test_a_fusion_of_n_features_needs_2nchw(features: int) -> None:
    network = Fusion(features)
    peak = analyse(network, SIZE).peak
    assert peak.op == "cat"
    assert (peak.input_bytes, peak.output_bytes, peak.kept_bytes) == (features * FEATURE, features * FEATURE, 0)
    assert peak.total == 2 * features * FEATURE + weight_bytes(network)


def test_an_attention_product_needs_4chw() -> None:
    network = Attention(in_place=False)
    peak = analyse(network, SIZE).peak
    assert (peak.name, peak.op) == ("", "mul")
    assert (peak.input_bytes, peak.output_bytes, peak.kept_bytes) == (2 * FEATURE, FEATURE, FEATURE)
    assert peak.total == 4 * FEATURE + weight_bytes(network)


def test_in_place_sigmoid_and_product_each_take_a_buffer_less() -> None:
    network = Attention(in_place=True)
    report = analyse(network, SIZE)
    nodes = {node.op: node for node in report.nodes}
    for op in ("sigmoid_", "mul_"):
        assert nodes[op].total == 3 * FEATURE + weight_bytes(network)
        assert (nodes[op].output_bytes, nodes[op].saved_bytes) == (0, FEATURE)
        assert nodes[op].total_out_of_place == 4 * FEATURE + weight_bytes(network)
    assert report.peak_out_of_place is nodes["mul_"]
    assert report.peak_out_of_place.total_out_of_place == analyse(Attention(in_place=False), SIZE).peak.total


@pytest.mark.parametrize(
    ("rectifier", "in_place"),
    [
        (nn.ReLU(), False),
        (nn.ReLU(inplace=True), True),
        (nn.LeakyReLU(0.1, inplace=True), True),
        (nn.SiLU(inplace=True), True),
    ],
)
def test_in_place_modules_are_recognised(rectifier: nn.Module, in_place: bool) -> None:
    node = analyse(nn.Sequential(conv(3, CHANNELS), rectifier), SIZE).nodes[-1]
    assert node.name == "1"
    assert (node.output_bytes, node.saved_bytes) == ((0, FEATURE) if in_place else (FEATURE, 0))


class InPlaceOperators(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        features = torch.cat([image, image], dim=1)
        features *= 2
        features += 1
        return F.leaky_relu(features, 0.1, inplace=True)


def test_in_place_operators_and_functions_are_recognised() -> None:
    nodes = analyse(InPlaceOperators(), SIZE).nodes
    assert [node.op for node in nodes] == ["cat", "mul_", "add_", "leaky_relu_"]
    assert [node.output_bytes for node in nodes] == [2 * IMAGE, 0, 0, 0]


class Views(nn.Module):
    """A part of a buffer keeps the whole of it."""

    def forward(self, image: Tensor) -> Tensor:
        features = torch.cat([image, image], dim=1)
        kept = features[:, :1]
        features = features.chunk(2, dim=1)[1].reshape(1, 3, -1).view_as(image) + 1
        features = features * features
        return features * kept


def test_views_are_no_nodes_but_keep_their_buffer() -> None:
    nodes = analyse(Views(), SIZE).nodes
    assert [node.op for node in nodes] == ["cat", "add", "mul", "mul"]
    assert nodes[2].kept_bytes == 2 * IMAGE
    assert nodes[3].input_bytes == IMAGE + 2 * IMAGE


class Holding(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        unused = image + 1
        return torch.sqrt((unused * 2) * 3)


def test_what_a_variable_still_refers_to_is_held() -> None:
    nodes = analyse(Holding(), SIZE).nodes
    assert [node.held_bytes for node in nodes] == [0, IMAGE, 2 * IMAGE, 2 * IMAGE]
    assert [node.kept_bytes for node in nodes] == [0, 0, 0, 0]


class NoScratch(nn.Module):
    """Operations that need no memory inside, so that prediction and measurement must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))
        self.shuffle = nn.PixelShuffle(2)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        features = [image * self.gain, torch.sigmoid(image)]
        joined = torch.cat([*features, image, image], dim=1)
        left, right = joined.chunk(2, dim=1)
        mixed = self.act(left * right.sigmoid())
        mixed += 1
        return self.shuffle(torch.cat([mixed, mixed], dim=1))


@pytest.mark.parametrize("network", [NoScratch(), InPlaceOperators(), Views(), Holding()])
def test_the_prediction_is_the_measured_peak(network: nn.Module) -> None:
    measured = peak_memory(network, torch.rand(1, 3, *SIZE))
    # A Python number in a sum or product becomes a tensor of a few bytes on the CPU, and none on the meta device.
    assert analyse(network, SIZE).peak_held.total_held == pytest.approx(measured.allocated_bytes, abs=16)


class LooksAtValues(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image + 1 if image.sum().item() == 0 else image


def test_a_network_that_looks_at_values_is_run_on_the_cpu() -> None:
    assert [node.op for node in analyse(LooksAtValues(), SIZE).nodes] == ["sum", "add"]


def test_the_network_is_left_as_it_was() -> None:
    network = Attention(in_place=True).train()
    analyse(network, SIZE)
    assert network.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_table_marks_the_peaks() -> None:
    report = analyse(Attention(in_place=False), SIZE)
    marked = [line for line in report.table().splitlines() if line.startswith(">")]
    assert len(marked) == 1
    assert "mul" in marked[0]


def test_a_network_that_cannot_take_the_image_is_named_in_one_line() -> None:
    with pytest.raises(EvaluationError, match="Conv2d cannot run on a 20x24 RGB image"):
        analyse(nn.Conv2d(5, 5, 3), SIZE)


def test_the_table_is_exact() -> None:
    quarter = 2**18  # bytes of 0.25 MiB
    report = MemoryReport(
        (
            NodeMemory("head", "convolution", 4 * quarter, 8 * quarter, 0, 2 * quarter, 4000 * quarter, 0),
            NodeMemory("", "mul_", 16 * quarter, 0, 5 * quarter, 2 * quarter, 0, 16 * quarter),
            NodeMemory("tail", "convolution", 4 * quarter, quarter, 0, 2 * quarter, 0, 0),
        )
    )
    assert report.table().splitlines() == [
        "  node               input  output  kept  params  total     held  in place saves",
        " *head: convolution   1.00    2.00  0.00    0.50   3.50  1000.00            0.00",
        "> mul_                4.00    0.00  1.25    0.50   5.75     0.00            4.00",
        "  tail: convolution   1.00    0.25  0.00    0.50   1.75     0.00            0.00",
    ]


def test_keyword_arguments_of_operations_are_traced() -> None:
    class Sum(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.sum(1, keepdim=True, dtype=torch.float64)

    assert analyse(Sum(), SIZE).nodes[0].output_bytes == 8 * PIXELS


def test_the_default_image_is_256x256() -> None:
    assert analyse(nn.ReLU()).nodes[0].output_bytes == 4 * 3 * 256 * 256
