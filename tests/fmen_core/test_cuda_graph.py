"""A forward pass as one CUDA graph for each size of images."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmen_core import Upscaler, create_model, cuda_graph, reparameterize
from fmen_core.cuda_graph import GRAPH_PIXELS, MOST_GRAPHS, GraphBySize, may_capture


class Graph:
    """A stand-in that overwrites its result at each call, as the replay of a graph does."""

    made: list[Graph]

    def __init__(self, stream: object) -> None:
        self.stream, self.calls, self.result = stream or object(), 0, torch.empty(0)
        self.made.append(self)

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.calls += 1
        out = function(x)
        self.result = self.result if self.result.shape == out.shape else torch.empty_like(out)
        return self.result.copy_(out)


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Graph]:
    """The graphs that a test without a GPU makes."""
    Graph.made = []
    if not request.node.get_closest_marker("cuda"):
        monkeypatch.setattr(cuda_graph, "CudaGraph", Graph)
    return Graph.made


def test_each_size_has_a_graph_and_all_have_one_stream(graphs: list[Graph]) -> None:
    double = GraphBySize(lambda x: 2 * x)
    for _ in range(3):
        for side in (4, 5):
            assert torch.equal(double(torch.ones(1, 3, side, 4)), torch.full((1, 3, side, 4), 2.0))
    assert [graph.calls for graph in graphs] == [3, 3] and graphs[0].stream is graphs[1].stream


def test_a_later_call_leaves_results_alone() -> None:
    double = GraphBySize(lambda x: 2 * x)
    first, second = double(torch.ones(1, 3, 4, 4)), double(torch.zeros(1, 3, 4, 4))
    assert first.min() == 2 and second.max() == 0


def test_the_graphs_of_the_last_sizes_stay(graphs: list[Graph]) -> None:
    double = GraphBySize(lambda x: 2 * x)
    for side in range(1, MOST_GRAPHS + 1):
        double(torch.ones(1, 3, side, 4))
    for side in (1, MOST_GRAPHS + 1, 1, 2):  # the second one has been dropped
        double(torch.ones(1, 3, side, 4))
    assert [graph.calls for graph in graphs] == [3] + [1] * (MOST_GRAPHS + 1)
    assert len(double.graphs) == MOST_GRAPHS


def test_small_images_of_known_networks_are_captured_on_a_gpu() -> None:
    def image(device: str, height: int, width: int) -> Any:
        return SimpleNamespace(device=torch.device(device), shape=torch.Size((1, 3, height, width)))

    fmen = reparameterize(create_model("fmen-s"))
    assert may_capture(fmen, image("cuda", 512, GRAPH_PIXELS // 512))
    assert not may_capture(fmen, image("cuda", 512, GRAPH_PIXELS // 512 + 1))
    assert not may_capture(fmen, image("cpu", 8, 8))
    assert not may_capture(nn.Identity(), image("cuda", 8, 8))


@pytest.mark.parametrize(("name", "captured"), [("fmen-s", 2), ("rfdn", 0)])
def test_networks_that_may_stream_run_as_graphs_with_the_same_result(
    name: str, captured: int, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    upscaler = Upscaler(create_model(name), device="cpu", tile=None)
    images = [np.random.default_rng(0).integers(256, size=(48, side, 3), dtype=np.uint8) for side in (50, 60)]
    expected = [upscaler(lr) for lr in images]
    monkeypatch.setattr("fmen_core.upscaler.may_capture", lambda network, x: True)
    assert all(np.array_equal(upscaler(lr), sr) for lr, sr in zip(images, expected, strict=True))
    assert len(graphs) == captured


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_replayed_graphs_give_the_pixels_of_the_network(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = Upscaler(create_model("fmen-s"), device="cuda", precision=precision)
    images = [np.random.default_rng(i).integers(256, size=(48, 50 + i % 2, 3), dtype=np.uint8) for i in range(12)]
    found = [upscaler(lr) for lr in images]
    assert all(graph.graph is not None for graph in upscaler._prepared.graphs.graphs.values())
    monkeypatch.setattr("fmen_core.upscaler.may_capture", lambda network, x: False)
    assert all(np.array_equal(upscaler(lr), sr) for lr, sr in zip(images, found, strict=True))
