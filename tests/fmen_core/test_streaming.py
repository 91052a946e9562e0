"""Streaming: strips of rows through a network have the same result as the whole image."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core import ModelError, Upscaler, create_model, fmen_s, reparameterize, row_graph
from fmen_core.models import ARCHITECTURES
from fmen_core.row_graph import NotStreamable, record
from fmen_core.streaming import Stream, streamable

STREAMED = {
    "fmen-s", "fmen-s48", "fmen", "imdn-baseline", "imdn-plus", "spanf", "tsr", "dscf", "span", "spanv2", "disp", "pds",
    "pkdsr", "edsr-baseline", "carn", "fimdn",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def strips_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stream images of any size in strips of a number of rows."""

    def stream(rows: int) -> None:
        monkeypatch.setattr("fmen_core.upscaler.SMALL", 0)
        monkeypatch.setattr("fmen_core.upscaler.FEWEST_ROWS", rows)
        monkeypatch.setattr("fmen_core.upscaler.STRIP_BYTES", {"cpu": 0})
        monkeypatch.setattr("fmen_core.upscaler.WHOLE_BYTES", {"cpu": 0})

    return stream


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def with_random_weights(name: str) -> nn.Module:
    """A network whose output is around middle gray, where clamping hides nothing."""
    torch.manual_seed(0)
    model = reparameterize(create_model(name))
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        out = model(torch.rand(1, 3, 16, 16) * model.data_range)
        assert convs[-1].bias is not None
        convs[-1].weight.mul_(0.2 * model.data_range / out.std())
        convs[-1].bias.mul_(0).add_(model.data_range / 2)
    return model


class Network(nn.Module):
    """A small network around a function of its features."""

    scale = 1
    data_range = 1.0

    def __init__(self, function: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.function = function or (lambda x: x)
        self.tail = nn.Conv2d(6, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.tail(self.function(self.head(x)))
        return out


class Gate(nn.Module):
    """An attention branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.LeakyReLU(inplace=True), nn.Conv2d(6, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.branch(x))


# --- what streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [architecture.name for architecture in ARCHITECTURES])
def test_the_networks_that_are_chains_of_convolutions_stream(name: str, small: Callable[[str], dict[str, int]]) -> None:
    assert (streamable(reparameterize(create_model(name, **small(name)))) is not None) == (name in STREAMED)


FUNCTIONS: dict[str, Any] = {
    "activations": lambda x: F.silu(F.gelu(F.hardtanh(F.elu(F.leaky_relu(x, 0.1, inplace=True))))).tanh(),
    "an activation that PyTorch does not call pointwise": F.hardswish,
    "a copy": torch.clone,
    "a product and its operands in one sum": lambda x: (2 * x) * (y := x + 1) + y,
    "an activation with a slope per channel": nn.PReLU(6),
    "a depthwise dilated convolution": nn.Conv2d(6, 6, (5, 3), padding=(4, 2), dilation=2, groups=6, bias=False),
    "a column of pixels as kernel": nn.Conv2d(6, 6, (1, 3), padding=(0, 1)),
    "BatchNorm in eval mode": nn.BatchNorm2d(6),
    "scalars and a parameter per channel": lambda x: 0.5 * x.clamp(-1, 1) + 1 - x / 3 * torch.arange(6.0).view(6, 1, 1),
    "slices and concatenations": lambda x: torch.cat([x[:, 4:], *x.chunk(3, 1)[:2]], 1) * x[:, :1],
    "a concatenation of channels that are counted from the end": lambda x: torch.cat([x[:, 4:], x[:, :4]], -3),
    "a slice that waits for convolutions": lambda x: torch.cat([x[:, :3], blurred(blurred(x))[:, 3:]], 1),
    "rows that two operations read at different times": lambda x: x * blurred(x) + x * blurred(blurred(blurred(x))),
    "several delays at once": lambda x: x * torch.sigmoid(blurred(blurred(x))) + x,
    "a product with itself": lambda x: x * x,
    "a product with what a convolution reads": lambda x: (blurred(x) * x).tanh(),
    "a product with one channel": lambda x: (x * torch.sigmoid(F.conv2d(x, torch.ones(1, 6, 1, 1)))).tanh(),
    "two number formats": lambda x: (x * (x + 1).to(torch.bfloat16)).tanh(),
    "two slices of the same channels": lambda x: torch.cat([(y := x.tanh())[:, :3] * 2, y[:, :3]], 1),
    "a slice of a slice": lambda x: torch.cat([x[:, 2:][:, 1:], x[:, :3]], 1),
    "kernels of two sizes": lambda x: F.conv2d(x, torch.full((6, 6, 5, 5), 0.1), padding=2) + blurred(x),
    "a sum that waits for convolutions": lambda x: (
        (blurred(x) + F.conv2d(x, ONES)) * widely(F.relu(widely(x))).sigmoid() + x
    ),
    "pixels shuffled twice": lambda x: F.conv2d(F.pixel_shuffle(x[:, :4], 2), torch.ones(6, 1, 3, 3), padding=1)[:, :6],
}


ONES = torch.full((6, 6, 1, 1), 0.1)


def widely(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.full((6, 1, 7, 7), 0.02), padding=3, groups=6)


def blurred(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.full((6, 1, 3, 3), 0.1), padding=1, groups=6)


@pytest.mark.parametrize("case", FUNCTIONS)
def test_operations_stream_with_the_output_of_the_whole_image(case: str) -> None:
    network = Network(FUNCTIONS[case]).eval()
    if case == "pixels shuffled twice":
        network.scale = 2
    nodes = streamable(network)
    assert nodes is not None
    for height, width, rows in ((23, 11, 4), (43, 3, 2), (43, 3, 5), (1, 5, 3), (2, 1, 1), (9, 6, 30)):
        x = torch.randn(1, 3, height, width)
        with torch.inference_mode():
            stream = Stream(nodes, height, width, torch.contiguous_format, x.device)
            parts = [stream.step(x[:, :, top * rows : (top + 1) * rows], rows) for top in range(stream.steps(rows))]
            found = torch.cat([part for part in parts if part is not None], 2)
            assert torch.allclose(found, network(x), atol=1e-5)


def shifted_in_place(x: Tensor) -> Tensor:
    x[:, :2] += 1
    return x


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.mean((2, 3), keepdim=True),
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.interpolate(F.conv2d(x, torch.ones(6, 6, 3, 3), stride=2, padding=1), x.shape[2:]),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1],
        lambda x: x + torch.arange(x.shape[3]),
        lambda x: x / x.shape[2],
        lambda x: x.flip(2),
        lambda x: torch.cat([x[:, :, :1], x[:, :, 1:]], 2),
        lambda x: x if x.abs().max() > 1e9 else 2 * x,
        shifted_in_place,
        nn.BatchNorm2d(6).train(),
    ],
)
def test_a_network_that_sees_more_than_some_rows_does_not_stream(function: Any) -> None:
    assert streamable(Network(function)) is None


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x * x.mean((2, 3), keepdim=True), "aten.mean.dim"),
        (lambda x: F.pixel_unshuffle(x, 2), "aten.pixel_unshuffle"),
        (lambda x: x.sort(1)[0], "aten.sort"),
        (shifted_in_place, "aten.add_.Tensor"),
        (lambda x: torch.zeros(1, 6, 24, 20).add_(x), "aten.add_.Tensor"),
        (lambda x: torch.cat([x, x], 2), "a concatenation of rows or columns"),
        (lambda x: x + torch.arange(20), r"aten.add.Tensor with a constant of the size \(20,\)"),
        (lambda x: x + torch.zeros(24, 1), r"aten.add.Tensor with a constant of the size \(24, 1\)"),
        (lambda x: x * torch.ones(2, 6, 1, 1), r"an output of the size \(2, 6, 24, 20\)"),
        (lambda x: x[:, :, 1:], r"a view of the size \(1, 6, 23, 20\)"),
        (lambda x: x[:, ::2], r"a view of the size \(1, 3, 24, 20\)"),
        (lambda x: x.transpose(2, 3), r"a view of the size \(1, 6, 20, 24\)"),
        (nn.BatchNorm2d(6).train(), "a BatchNorm in training mode"),
        (nn.Conv2d(6, 6, 3, stride=(2, 1), padding=1), "a convolution that changes the size"),
        (nn.Conv2d(6, 6, 3, padding=(0, 1)), "a convolution that changes the size"),
        (nn.Conv2d(6, 6, 3, padding=(1, 0)), "a convolution that changes the size"),
        (nn.Conv2d(6, 6, 3, padding=1, dilation=2), "a convolution that changes the size"),
        (nn.ConvTranspose2d(6, 6, 3, padding=1), "a convolution that changes the size"),
    ],
)
def test_the_graph_refuses_an_operation_on_more_than_some_rows(function: Any, reason: str) -> None:
    with pytest.raises(NotStreamable, match=f"^{reason}"):
        record(Network(function))


def test_the_graph_refuses_an_output_that_is_not_the_last_operation_or_has_another_scale() -> None:
    network = Network()
    assert len(record(network)) == 3
    network.scale = 2
    with pytest.raises(NotStreamable, match="the output is not that of the last operation"):
        record(network)
    del network.tail
    network.scale, network.tail = 1, lambda x: (x[:, :3] + 1, x + 2)[0]  # type: ignore[assignment]
    with pytest.raises(NotStreamable, match="the output is not that of the last operation"):
        record(network)


def test_the_graph_counts_the_rows_that_each_operation_is_behind_and_reads_around_its_own() -> None:
    network = Network(FUNCTIONS["pixels shuffled twice"])
    network.scale = 2
    nodes = record(network)
    assert [node.kind for node in nodes] == ["input", "conv", "slice", "shuffle", "conv", "slice", "conv"]
    assert [node.lag for node in nodes] == [0, 1, 1, 2, 3, 3, 5]
    assert [node.scale for node in nodes] == [1, 1, 1, 2, 2, 2, 2]
    assert [node.halo for node in nodes] == [1, 0, 0, 1, 0, 2, 0]
    assert [node.channels for node in nodes] == [3, 6, 4, 1, 6, 6, 3]
    assert [node.users for node in nodes] == [[], [(2, 1)], [(3, 2)], [], [(5, 1)], [], []]
    assert [node.last_user for node in nodes] == [1, 2, 3, 4, 5, 6, -1]


def test_the_graph_lags_as_its_slowest_branch_and_reuses_memory_that_nothing_else_reads() -> None:
    nodes = record(Network(lambda x: torch.relu(blurred(x) * 2) * x[:, :1] + blurred(blurred(x))))
    by_kind = [(node.kind, node.lag, node.halo, node.reuses) for node in nodes]
    assert by_kind == [
        ("input", 0, 1, None), ("conv", 1, 1, None),
        ("conv", 2, 0, None), ("rows", 2, 0, 0), ("rows", 2, 0, 0), ("slice", 1, 0, None), ("rows", 2, 0, 0),
        ("conv", 2, 1, None), ("conv", 3, 0, None), ("rows", 3, 2, None), ("conv", 5, 0, None),
    ]  # fmt: skip


def streamed(stream: Stream, x: Tensor, rows: int) -> list[Tensor]:
    strips = (stream.step(x[:, :, top * rows : (top + 1) * rows], rows) for top in range(stream.steps(rows)))
    return [strip.clone() for strip in strips if strip is not None]


def test_a_stream_takes_no_new_memory_after_its_first_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, taken = with_random_weights("fmen-s"), torch.rand(1, 3, 160, 4), []
    nodes, empty = streamable(model), Stream._empty
    assert nodes is not None

    def counted(stream: Stream, node: Any, rows: int) -> Tensor:
        taken.append((stream.fed, rows))
        return empty(stream, node, rows)

    monkeypatch.setattr(Stream, "_empty", counted)
    with torch.inference_mode():
        stream = Stream(nodes, 160, 4, torch.channels_last, x.device)
        streamed(stream, x, 8)
    late = [rows for fed, rows in taken if 80 < fed <= 160]
    assert len(taken) > len(nodes) and late == [] and not any(stream.taken)
    # Of all features with 50 channels, at most eight strips are in memory: five wait for the last addition.
    assert len(stream.spare[torch.float32, 50, 1, 10]) == 8


@pytest.mark.parametrize("shape", [(50, 6), (3, 6)])
def test_each_convolution_gets_strips_of_one_size(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, sizes, convolve = with_random_weights("fmen-s"), torch.rand(1, 3, *shape), {}, row_graph.convolution

    def seen(x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
        sizes.setdefault(id(weight), set()).add(x.shape)
        return convolve(x, weight, *arguments)

    monkeypatch.setattr(row_graph, "convolution", seen)
    nodes = streamable(model)
    assert nodes is not None
    sizes.clear()
    with torch.inference_mode():
        streamed(Stream(nodes, *shape, torch.channels_last, x.device), x, 8)
    assert len(sizes) == 34 and all(len(found) == 1 for found in sizes.values())
    assert {found.pop()[2:] for found in sizes.values()} == {(10, 6)}


@pytest.mark.parametrize("ends_with_shuffle", [True, False])
def test_the_output_is_finished_before_its_pixels_are_shuffled(ends_with_shuffle: bool) -> None:
    network, channels = Network(None if ends_with_shuffle else FUNCTIONS["pixels shuffled twice"]), []
    network.scale = 2
    if ends_with_shuffle:
        network.tail = nn.Sequential(nn.Conv2d(6, 12, 3, padding=1), nn.PixelShuffle(2))  # type: ignore[assignment]
    nodes, x = streamable(network), torch.rand(1, 3, 20, 9)
    assert nodes is not None

    def finish(out: Tensor) -> Tensor:
        channels.append(out.shape[1])
        return out.mul_(10).round_().to(torch.int16)

    with torch.inference_mode():
        found = torch.cat(streamed(Stream(nodes, 20, 9, torch.contiguous_format, x.device, finish), x, 4), 2)
        assert set(channels) == {12 if ends_with_shuffle else 3} and found.dtype == torch.int16
        assert (found - network(x).mul(10).round()).abs().max() <= 1


# --- the upscaler -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fmen-s", "imdn-plus", "span", "ecbsr"])
@pytest.mark.parametrize("shape", [(45, 32), (3, 40), (1, 32), (40, 1)])
def test_a_streamed_image_is_the_whole_image(name: str, shape: tuple[int, int], strips_of: Any) -> None:
    model, lr = with_random_weights(name), photograph(*shape)
    whole = Upscaler(model, device="cpu", tile=None)(lr)
    assert whole.std() > 10
    strips_of(8)
    difference = np.abs(Upscaler(model, device="cpu")(lr).astype(int) - whole)
    # For small images PyTorch has another convolution, whose sums are formed in another order.
    assert difference.max() <= 1 and (difference > 0).mean() <= 2e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_every_precision_and_memory_order_streams(precision: Any, channels_last: bool, strips_of: Any) -> None:
    options: dict[str, Any] = {"device": "cpu", "precision": precision, "channels_last": channels_last}
    network, lr = Network(Gate()), photograph(50, 32)
    whole = Upscaler(network, tile=None, **options)(lr)
    strips_of(16)
    upscaler = Upscaler(network, **options)
    assert upscaler.rows_for(*lr.shape[:2]) == 16 and upscaler.precision == precision
    difference = np.abs(upscaler(lr).astype(int) - whole)
    assert difference.max() <= 1 and (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize(("name", "precision"), [("fmen-s", "fp32"), ("fmen-s", "bf16"), ("span", "fp32")])
def test_strips_differ_by_a_gray_level_in_about_one_of_a_million_values(
    name: str, precision: Any, strips_of: Any
) -> None:
    lr = photograph(126, 50).repeat(2, 0).repeat(2, 1)  # 1.2 million output values, with edges
    model = fmen_s(pretrained=True) if name == "fmen-s" else with_random_weights(name)
    whole = Upscaler(model, device="cpu", precision=precision, tile=None)(lr)
    strips_of(84)  # enough for PyTorch to take the same convolution as for the image
    upscaler = Upscaler(model, device="cpu", precision=precision)
    difference = np.abs(upscaler(lr).astype(int) - whole)
    assert upscaler.rows_for(252, 100) == 84 and whole.size > 1e6 and whole.std() > 10
    # None to two values differ, depending on image and weights.
    assert difference.max() <= 1 and (difference > 0).mean() <= 3e-6


@pytest.mark.parametrize("name", ["span", "imdn-baseline"])
def test_strips_of_few_rows_have_the_convolutions_of_a_large_image(name: str, strips_of: Any) -> None:
    lr, model = photograph(126, 25).repeat(2, 0).repeat(2, 1), with_random_weights(name)  # 600,000 output values
    whole = Upscaler(model, device="cpu", tile=None)(lr)
    strips_of(4)
    upscaler = Upscaler(model, device="cpu")
    assert upscaler.rows_for(252, 50) == 4 and whole.std() > 10
    assert (upscaler(lr) != whole).sum() <= 1


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize(("kernel", "threads", "same"), [(3, 1, False), (1, 1, True), (1, 2, False)])
def test_a_convolution_of_few_rows_is_that_of_many(kernel: int, threads: int, same: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 48, 60, 20, generator=generator), torch.randn(48, 48, kernel, kernel)
    settings = weight, torch.randn(48), 1, (0, kernel // 2), (1, 1), 1
    few, large = x[:, :, 20:28], slice(20, 29 - kernel)
    try:
        torch.set_num_threads(threads)
        many = F.conv2d(x, *settings)[:, :, large]
        assert torch.equal(row_graph.convolution(few, *settings), many)
        assert torch.equal(F.conv2d(few, *settings), many) == same
        with torch.backends.mkldnn.flags(enabled=False):
            assert torch.equal(row_graph.convolution(few, *settings), F.conv2d(few, *settings))
    finally:
        torch.set_num_threads(1)


def test_sixteen_bits_stream(strips_of: Any) -> None:
    lr = photograph(20, 15).astype(np.uint16) * 257
    whole = Upscaler(Network(), device="cpu", tile=None)(lr)
    strips_of(4)
    streamed = Upscaler(Network(), device="cpu")(lr)
    assert streamed.dtype == np.uint16 and np.abs(streamed.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strips_that_are_copied_while_the_next_one_is_computed_are_the_same(dtype: type, strips_of: Any) -> None:
    lr = photograph(50, 20).astype(dtype)
    strips_of(4)
    for network in (Network(), reparameterize(create_model("fmen-s"))):
        upscaler, seen = Upscaler(network, device="cpu"), []
        expected = upscaler(lr)
        upscaler._downloads.ahead = 1
        pieces = list(upscaler.stream(lr, on_tile=lambda *counts, seen=seen: seen.append(counts)))
        assert np.array_equal(np.concatenate(pieces), expected)
        assert seen == [(i + 1, len(seen)) for i in range(len(seen))] and len(pieces) > 10


def test_pieces_of_a_stream_are_the_rows_of_the_result(strips_of: Any) -> None:
    lr, seen = photograph(50, 20), []
    strips_of(8)
    for upscaler in (Upscaler(Network()), Upscaler(Network(), tile=16), Upscaler(Network(), self_ensemble=True)):
        pieces = list(upscaler.stream(lr, on_tile=lambda done, total: seen.append((done, total))))
        assert np.array_equal(np.concatenate(pieces), upscaler(lr))
        assert (
            len(pieces) == {"auto": 7, 16: 4}[upscaler.tile if not upscaler.self_ensemble else 16] or len(pieces) == 1
        )
    assert seen[:7] == [(done, 7) for done in range(1, 8)]


def test_small_images_and_those_with_given_tiles_do_not_stream() -> None:
    upscaler = Upscaler(fmen_s(pretrained=True), device="cpu", precision="fp32")
    assert upscaler.rows_for(384, 384) is None and upscaler.rows_for(512, 512) is not None
    in_bf16 = Upscaler(fmen_s(pretrained=True), device="cpu", precision="bf16")
    assert in_bf16.rows_for(512, 512) is None and in_bf16.rows_for(640, 640) is not None
    rows = [upscaler.rows_for(3000, width) for width in (3500, 4000, 8000, 16000)]
    assert rows == [10, 8, 4, 4]  # even numbers, where the memory is enough for 11, 9, 4 and 2
    for options in ({"tile": None}, {"tile": 64}, {"self_ensemble": True}):
        assert Upscaler(Network(), device="cpu", **options).rows_for(3000, 4000) is None  # type: ignore[arg-type]
    assert Upscaler(Network(), device="cpu").rows_for(3000, 4000) is not None


def test_a_network_that_cannot_be_recorded_has_tiles(strips_of: Any) -> None:
    strips_of(8)
    upscaler = Upscaler(Network(lambda x: F.max_pool2d(x, 3, 1, 1)), device="cpu")
    assert upscaler.rows_for(40, 30) is None and upscaler(photograph(40, 30)).shape == (40, 30, 3)


def test_several_threads_stream_at_once(strips_of: Any) -> None:
    strips_of(8)
    images = [photograph(40 + index, 30) for index in range(4)]
    upscaler = Upscaler(with_random_weights("span"), device="cpu")
    expected = [upscaler(image) for image in images]
    results: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda place=place: results.update({place: upscaler(images[place])}))
        for place in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[place], expected[place]) for place in range(4))


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_stream_goes_on_in_the_next_precision_where_an_output_is_not_finite(
    ahead: int, strips_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr = photograph(60, 20) // 16
    lr[40:] = 255
    strips_of(8)
    monkeypatch.setattr("fmen_core.upscaler.automatic_precisions", lambda device: ("fp16", "fp32"))
    monkeypatch.setattr("fmen_core.streaming._agrees", lambda model, nodes: True)  # not on noise, in fp16
    network = Network(lambda x: x * (x > 1) * 1e30 * 1e-30 + x)
    with torch.no_grad():
        network.head.weight.abs_()
    expected = Upscaler(network, device="cpu", precision="fp32", tile=None)(lr)
    upscaler = Upscaler(network, device="cpu", precision="auto")
    upscaler._downloads.ahead = ahead
    nodes = upscaler._nodes(upscaler._prepared)
    assert nodes is not None and upscaler.precision == "fp16"
    found = np.concatenate(list(upscaler.stream(lr)))
    assert upscaler.precision == "fp32"
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_strips_are_halved_when_memory_runs_out_and_the_stream_goes_on(
    strips_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr, step, seen = photograph(70, 20), Stream.step, []
    expected = Upscaler(Network(), device="cpu", tile=None)(lr)

    def limited(stream: Stream, strip: Tensor, rows: int) -> Tensor | None:
        seen.append(rows)
        if rows > 4 and stream.fed > 20:
            raise MemoryError
        return step(stream, strip, rows)

    strips_of(16)
    upscaler = Upscaler(Network(), device="cpu")
    assert upscaler.rows_for(70, 20) == 16
    monkeypatch.setattr(Stream, "step", limited)
    pieces = list(upscaler.stream(lr))
    assert [len(piece) for piece in pieces[:3]] == [13, 16, 2]
    assert np.abs(np.concatenate(pieces).astype(int) - expected).max() <= 1
    assert sorted(set(seen)) == [4, 8, 16] and upscaler.rows_for(70, 20) == 4
    monkeypatch.setattr(Stream, "step", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ModelError, match="out of memory on 20x70 pixels, even in strips of one row"):
        upscaler(lr)


def test_an_image_that_runs_out_of_memory_as_a_whole_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    lr = photograph(70, 20)
    upscaler = Upscaler(Network(), device="cpu")
    expected = upscaler(lr)
    assert upscaler.rows_for(70, 20) is None
    monkeypatch.setattr(upscaler, "run", lambda lr: (_ for _ in ()).throw(MemoryError()))
    assert np.abs(upscaler(lr).astype(int) - expected).max() <= 1
    assert upscaler.rows_for(70, 20) == 35
