"""What runs in fp32, TF32, bf16 and fp16."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core import FMEN as InferenceFMEN
from fmen_core import ModelError, Upscaler, create_model, load
from fmen_core.models import ARCHITECTURES
from fmen_core.precision import (
    cast_except_tail,
    float32_mode,
    has_bf16,
    largest_outputs,
    rescale_for_fp16,
    stalls_in_bf16,
)
from fmen_data import open_dataset
from fmen_eval import psnr


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def convolutions(upscaler: Upscaler, lr: np.ndarray) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Input, weight and output of each convolution while an image is upscaled, in order."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    convs = [module for module in upscaler.model.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [
        # Before the hooks of the precision, so that the convolution's own output is seen.
        conv.register_forward_hook(lambda conv, x, out: seen.append((x[0].clone(), conv.weight, out)), prepend=True)
        for conv in convs
    ]
    upscaler(lr)
    for hook in hooks:
        hook.remove()
    return seen


# --- bf16 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fmen-s", *(each.name for each in ARCHITECTURES if each.name != "haesr")])
def test_in_bf16_the_first_and_the_last_convolution_alone_are_fp32(
    name: str, small: Callable[[str], dict[str, int]]
) -> None:
    seen = convolutions(Upscaler(create_model(name, **small(name)), device="cpu", precision="bf16"), photograph(16, 16))
    assert len(seen) > 2
    for tensors in (seen[0], seen[-1]):
        assert [tensor.dtype for tensor in tensors] == [torch.float32] * 3
    exact = [id(seen[0][1]), id(seen[-1][1])]
    for tensors in seen[1:-1]:
        if id(tensors[1]) not in exact:  # DRCN calls its last convolution several times
            assert [tensor.dtype for tensor in tensors] == [torch.bfloat16] * 3


def test_in_bf16_the_exact_convolutions_have_the_exact_weights() -> None:
    model = create_model("imdn-baseline")
    seen = convolutions(Upscaler(model, device="cpu", precision="bf16"), photograph(16, 16))
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert torch.equal(seen[0][1], weights[0]) and torch.equal(seen[-1][1], weights[-1])


def test_in_bf16_the_features_after_the_first_convolution_take_two_bytes() -> None:
    upscaler = Upscaler(create_model("imdn-baseline"), device="cpu", precision="bf16")
    first = next(module for module in upscaler.model.modules() if isinstance(module, nn.Conv2d))
    seen: list[torch.dtype] = []
    first.register_forward_hook(lambda _, x, out: seen.append(out.dtype))
    upscaler(photograph(16, 16))
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_an_input_in_0_to_1_is_not_rounded(precision: Any) -> None:
    lr = photograph(16, 16)
    x = torch.from_numpy(lr).permute(2, 0, 1)[None] / 255
    imdn = create_model("imdn-baseline", n_feats=8, n_blocks=1)
    seen = convolutions(Upscaler(imdn, device="cpu", precision=precision), lr)
    assert torch.equal(seen[0][0], x)
    span = create_model("span", n_feats=8)
    seen = convolutions(Upscaler(span, device="cpu", precision=precision), lr)
    assert torch.equal(seen[0][0], (x - span.mean) * 255)


class MeanShift(nn.Module):
    """A network that subtracts the mean with a convolution and adds it with another one, as EDSR does."""

    scale = 2
    data_range = 255.0

    def __init__(self) -> None:
        super().__init__()
        self.subtract, self.add = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head, self.body, self.tail = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 8), (8, 8), (8, 12)))
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(self.head(self.subtract(x))) * self.gain
        return self.add(F.pixel_shuffle(self.tail(features), 2)) + F.interpolate(x, scale_factor=2.0)


def test_convolutions_from_rgb_to_rgb_belong_to_the_input_and_the_output() -> None:
    model = MeanShift()
    cast_except_tail(model, torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters() if "bias" not in name}
    exact = {"subtract.weight", "head.weight", "tail.weight", "add.weight"}
    assert {name for name, dtype in kinds.items() if dtype == torch.float32} == exact
    assert model(255 * torch.rand(1, 3, 9, 8)).dtype == torch.float32


class Functional(nn.Module):
    """A network without a module for its convolutions."""

    scale = 1
    data_range = 1.0

    def __init__(self) -> None:
        super().__init__()
        sizes = ((8, 3), (8, 8), (3, 8))
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(*size, 3, 3)) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.conv2d(x, weight, padding=1)
        return x


def test_a_network_that_cannot_be_cast_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"Functional cannot run on a 48x48 image: .*type") as caught:
        Upscaler(Functional(), device="cpu", precision="bf16")
    assert "\n" not in str(caught.value)
    assert Upscaler(Functional(), device="cpu")(photograph(5, 5)).shape == (5, 5, 3)


def test_a_network_of_one_convolution_stays_fp32() -> None:
    conv = nn.Conv2d(3, 12, 3, padding=1)
    cast_except_tail(nn.Sequential(conv, nn.PixelShuffle(2)), torch.bfloat16)
    assert conv.weight.dtype == torch.float32


# With FMEN-S bf16 costs 0.012 dB on Set5 and 0.007 dB on Set14. Attention maps in fp32 would bring the first figure to
# 0.008 dB, for twice their memory.
@pytest.mark.parametrize(
    ("file", "most"), [("team03_fmen.pth", 0.015), ("imdn_baseline.pth", 0.01), ("team04_rlfn.pth", 0.01)]
)
def test_bf16_costs_hundredths_of_a_decibel_at_most(reference: Path, file: str, most: float) -> None:
    model = load(reference / "weights" / file)
    exact, rounded = (Upscaler(model, device="cpu", precision=name) for name in ("fp32", "bf16"))
    pairs = [(lr, hr) for _, lr, hr in open_dataset(str(reference / "data/Set5"), scale=4, split="val")]
    lost = [psnr(exact(lr), hr, protocol="paper") - psnr(rounded(lr), hr, protocol="paper") for lr, hr in pairs]
    assert -0.005 < np.mean(lost) < most


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_have_bf16_from_compute_capability_8_on(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bf16(torch.device("cuda")) is expected


# --- fp16 -------------------------------------------------------------------------------------------------------------


def exploding() -> InferenceFMEN:
    """FMEN in its inference form whose features grow into the millions and come back at the end."""
    torch.manual_seed(0)
    model = InferenceFMEN(scale=2, n_feats=12, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
    with torch.no_grad():
        model.warmup[0].weight.mul_(1e5)
        model.HFABs[0].squeeze.weight.mul_(1e4)
        model.HFABs[0].excitate.weight.mul_(1e-8)
        model.warmup[1].squeeze.weight.mul_(1e-4)
        model.lr_conv.weight.mul_(1e-5)
        model.tail[0].bias.add_(128)
    return model


def test_rescaling_fits_fmen_into_fp16_without_changing_a_bit() -> None:
    model, rescaled = exploding(), exploding()
    x = 255 * torch.rand(1, 3, 20, 24)
    assert rescale_for_fp16(rescaled)
    assert rescaled.warmup[0].weight.abs().max() < model.warmup[0].weight.abs().max()
    with torch.no_grad():
        assert torch.equal(model(x), rescaled(x))
        assert not model.half()(x.half()).isfinite().all()
        assert rescaled.half()(x.half()).isfinite().all()


@pytest.mark.parametrize("factors", [{"head": 1e6, "warmup.0": 1e-6, "tail.0": 1e-6}, {"lr_conv": 1e6, "tail.0": 1e-6}])
def test_the_larger_of_two_features_that_are_added_decides_their_scale(factors: dict[str, float]) -> None:
    model, rescaled = exploding(), exploding()
    for each in (model, rescaled):
        for name, factor in factors.items():
            each.get_submodule(name).weight.data.mul_(factor)
    x = 255 * torch.rand(1, 3, 20, 24)
    assert rescale_for_fp16(rescaled)
    with torch.no_grad():
        assert torch.equal(model(x), rescaled(x))
        assert rescaled.half()(x.half()).isfinite().all()


@pytest.mark.parametrize("grain", [1, 4, 16])
def test_the_largest_outputs_are_those_for_detail_of_each_size(grain: int) -> None:
    model = nn.Conv2d(3, 1, (grain, 2 * grain), stride=2 * grain, bias=False)
    model.scale, model.data_range = 1, 255.0  # type: ignore[assignment]
    with torch.no_grad():  # the difference of two neighbours of this size; 0 for larger ones, little for smaller ones
        model.weight.zero_()
        model.weight[0, 0, :, :grain], model.weight[0, 0, :, grain:] = 1 / grain**2, -1 / grain**2
    (largest,) = largest_outputs(model).values()
    assert 0.4 * 255 < largest < 255


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_network_without_parameters_runs_in_low_precision(precision: Any) -> None:
    model = nn.Upsample(scale_factor=2)
    model.scale, model.data_range = 2, 255.0  # type: ignore[assignment]
    lr = photograph(5, 6)
    assert np.array_equal(Upscaler(model, device="cpu", precision=precision)(lr), lr.repeat(2, 0).repeat(2, 1))


def test_rescaling_leaves_a_factor_of_sixteen_to_the_end_of_fp16() -> None:
    model = exploding()
    assert rescale_for_fp16(model)
    peaks: list[float] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module is not model.tail[0]:
            module.register_forward_hook(lambda _, x, out: peaks.append(out.abs().max().item()))
    with torch.no_grad():
        model(255 * torch.rand(1, 3, 64, 64))
    assert 65504 / 64 < max(peaks) < 65504 / 8


@pytest.mark.parametrize(("precision", "most"), [("fp16", 1), ("bf16", 8)])
def test_low_precision_stays_close_to_fp32(precision: Any, most: int) -> None:
    lr = photograph(24, 20)
    sr = Upscaler(exploding(), device="cpu")(lr).astype(int)
    assert np.abs(Upscaler(exploding(), device="cpu", precision=precision)(lr) - sr).max() <= most


def test_released_fmen_s_in_fp16_differs_by_a_gray_level(reference: Path) -> None:
    model = load(reference / "weights" / "team03_fmen.pth")
    lr = photograph(24, 24)
    sr = Upscaler(model, device="cpu")(lr).astype(int)
    assert np.abs(Upscaler(model, device="cpu", precision="fp16")(lr) - sr).max() <= 1


def overflowing() -> nn.Module:
    model = create_model("span")
    with torch.no_grad():
        model.conv_1.eval_conv.weight.mul_(1e6)
    return model


def test_a_network_that_leaves_the_range_of_fp16_is_refused() -> None:
    with pytest.raises(ModelError, match="larger than fp16 can hold; choose bf16 or fp32"):
        Upscaler(overflowing(), device="cpu", precision="fp16")


@pytest.mark.parametrize(
    ("weights", "fits"), [((1e-6, 6e4), True), ((1e-6, 1e5), False), ((1e-6, -1e5), False), ((-1e3, 1e3), False)]
)
def test_both_weights_and_outputs_have_to_fit_into_fp16(weights: tuple[float, float], fits: bool) -> None:
    convs = [nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)]
    for conv, weight in zip(convs, weights, strict=True):
        nn.init.constant_(conv.weight, weight)
    model = nn.Sequential(*convs)
    model.scale, model.data_range = 1, 1.0  # type: ignore[assignment]
    assert rescale_for_fp16(model) is fits


# --- any type of weights, any values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["fmen-s", "span"])
def test_weights_of_any_type_are_upscaled_with_in_fp32(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = create_model(name).to(dtype)
    lr = photograph(9, 9)
    sr = Upscaler(model, device="cpu")(lr)
    assert next(model.parameters()).dtype == dtype
    assert np.array_equal(sr, Upscaler(model.float(), device="cpu")(lr))


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("self_ensemble", [False, True])
def test_an_output_that_is_not_finite_is_refused_in_every_precision(precision: Any, self_ensemble: bool) -> None:
    model = create_model("fmen", n_feats=10, mid_feats=8, down_blocks=1, up_blocks=(1, 1), form="inference")
    with torch.no_grad():
        model.lr_conv.bias[0] = torch.nan
    with pytest.raises(ModelError, match=r"NaN or infinite|larger than fp16"):
        Upscaler(model, device="cpu", precision=precision, self_ensemble=self_ensemble)(photograph(9, 9))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_an_infinite_value_in_one_pixel_is_refused(value: float) -> None:
    class Infinite(nn.Module):
        scale = 1
        data_range = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0.5, value, x)

    upscaler = Upscaler(Infinite(), device="cpu")
    lr = np.zeros((20, 20, 3), np.uint8)
    assert not upscaler(lr).any()
    lr[3, 4, 1] = 255
    with pytest.raises(ModelError, match="output in fp32 is NaN or infinite on this image; check the weights"):
        upscaler(lr)


def test_auto_takes_the_next_precision_when_an_image_leaves_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.upscaler.automatic_precisions", lambda device: ("fp16", "bf16", "fp32"))
    monkeypatch.setattr("fmen_core.precision.rescale_for_fp16", lambda model: True)  # as the probe may say
    lr = photograph(24, 20)
    upscaler = Upscaler(exploding(), device="cpu", precision="auto")
    assert (upscaler.precision, upscaler.dtype) == ("fp16", torch.float16)
    expected = Upscaler(exploding(), device="cpu", precision="bf16")(lr)
    assert np.array_equal(upscaler(lr), expected)
    assert (upscaler.precision, upscaler.dtype) == ("bf16", torch.bfloat16)
    assert np.array_equal(upscaler(lr), expected)
    named = Upscaler(exploding(), device="cpu", precision="fp16")
    with pytest.raises(ModelError, match="output in fp16 is NaN or infinite on this image; choose bf16 or fp32"):
        named(lr)


def test_auto_takes_the_next_precision_when_the_network_leaves_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.upscaler.automatic_precisions", lambda device: ("fp16", "fp32"))
    assert Upscaler(overflowing(), device="cpu", precision="auto").precision == "fp32"


def test_auto_is_what_the_processor_has_instructions_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.precision.has_bf16", lambda device: True)
    assert Upscaler(exploding(), device="cpu", precision="auto").precision == "bf16"
    monkeypatch.setattr("fmen_core.precision.has_bf16", lambda device: False)
    assert Upscaler(exploding(), device="cpu", precision="auto").precision == "fp32"
    assert Upscaler(exploding(), device="cpu").precision == "fp32"


@pytest.mark.parametrize(
    ("channels", "kernel", "groups", "stalls"),
    [
        (16, (1, 15), 16, True),
        (4, (31, 31), 4, True),
        (16, (15, 1), 16, False),
        (16, (1, 13), 16, False),
        (24, (1, 31), 24, False),
        (16, (1, 31), 1, False),
    ],
)
def test_wide_depthwise_convolutions_of_few_channels_are_not_run_in_bf16_on_a_cpu(
    channels: int, kernel: tuple[int, int], groups: int, stalls: bool
) -> None:
    conv = nn.Conv2d(channels, channels, kernel, groups=groups)
    assert stalls_in_bf16(nn.Sequential(conv)) is stalls
    assert not stalls_in_bf16(conv.to("meta"))


def test_auto_takes_fp32_for_haesr_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.precision.has_bf16", lambda device: True)
    assert Upscaler(create_model("haesr"), device="cpu", precision="auto").precision == "fp32"
    with pytest.raises(ModelError, match=r"depthwise convolutions that never end in bf16 on a CPU; choose fp32"):
        Upscaler(create_model("haesr"), device="cpu", precision="bf16")


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_an_unknown_precision_is_refused_with_the_choices(precision: Any) -> None:
    with pytest.raises(ModelError, match="choose one of fp32, tf32, bf16, fp16 or auto"):
        Upscaler(create_model("fmen-s"), precision=precision)


# --- TF32 -------------------------------------------------------------------------------------------------------------


def flags() -> dict[str, str]:
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        pytest.skip("PyTorch before 2.9 has other flags")
    return {
        "cuda.matmul": backends.cuda.matmul.fp32_precision,
        "cudnn.conv": backends.cudnn.conv.fp32_precision,
        "mkldnn.conv": backends.mkldnn.conv.fp32_precision,
        "mkldnn.matmul": backends.mkldnn.matmul.fp32_precision,
    }


def users_choice_legacy() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def users_choice_matmul() -> None:
    torch.set_float32_matmul_precision("medium")


def users_choice_new() -> None:
    backends: Any = torch.backends
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = "tf32"
    backends.mkldnn.conv.fp32_precision = "bf16"


def nothing() -> None:
    pass


@pytest.fixture(params=[nothing, users_choice_legacy, users_choice_matmul, users_choice_new])
def users_flags(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """PyTorch's float32 flags as one of its interfaces has set them."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("PyTorch is older than 2.9")
    before = flags()
    choice: Callable[[], None] = request.param
    choice()
    yield flags()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for name, value in before.items():
        backend, operation = name.split(".")
        getattr(getattr(torch.backends, backend), operation).fp32_precision = value


class Spy(nn.Module):
    """Records the flags that it runs under."""

    scale = 1
    data_range = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, str]] = []

    def __deepcopy__(self, memo: object) -> Spy:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(flags())
        return x


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_the_upscaler_runs_without_tf32_and_restores_the_flags(users_flags: dict[str, str], precision: Any) -> None:
    spy = Spy()
    upscaler = Upscaler(spy, device="cpu", precision=precision)
    spy.seen.clear()
    upscaler(photograph(64, 64))
    assert spy.seen == [dict.fromkeys(users_flags, "ieee")]
    assert flags() == users_flags


def test_tf32_is_set_when_asked_for_and_restored(users_flags: dict[str, str]) -> None:
    with float32_mode(tf32=True):
        inside = flags()
    assert (inside["cuda.matmul"], inside["cudnn.conv"]) == ("tf32", "tf32")
    assert (inside["mkldnn.matmul"], inside["mkldnn.conv"]) == ("ieee", "ieee")
    assert flags() == users_flags


def test_the_flags_are_restored_after_an_error(users_flags: dict[str, str]) -> None:
    with pytest.raises(KeyError), float32_mode():
        raise KeyError
    assert flags() == users_flags


def test_the_flags_are_restored_by_the_last_of_several_threads() -> None:
    before, inside, leave = flags(), threading.Event(), threading.Event()

    def hold() -> None:
        with float32_mode():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    with float32_mode():
        pass
    assert flags()["cudnn.conv"] == "ieee"
    leave.set()
    thread.join()
    assert flags() == before


def test_threads_of_two_modes_wait_for_each_other() -> None:
    order, inside, leave = [], threading.Event(), threading.Event()

    def hold() -> None:
        with float32_mode(tf32=True):
            inside.set()
            leave.wait(10)
            order.append("tf32")

    def enter() -> None:
        with float32_mode():
            order.append("ieee")

    first, second = threading.Thread(target=hold), threading.Thread(target=enter)
    first.start()
    assert inside.wait(10)
    second.start()
    second.join(0.1)
    leave.set()
    first.join()
    second.join()
    assert order == ["tf32", "ieee"]


def test_tf32_without_a_gpu_is_refused() -> None:
    with pytest.raises(ModelError, match="tf32 needs a CUDA GPU; choose fp32"):
        Upscaler(create_model("fmen-s"), device="cpu", precision="tf32")


@pytest.mark.cuda
def test_fp32_on_a_gpu_is_not_tf32() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1).cuda()
    x = torch.randn(1, 64, 64, 64, device="cuda")
    with torch.no_grad():
        exact = conv.double()(x.double()).float()
        conv.float()
        with float32_mode():
            assert (conv(x) - exact).abs().max() < 1e-5
        with float32_mode(tf32=True):
            assert (conv(x) - exact).abs().max() > 1e-5


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_precision_on_a_gpu_is_close_to_fp32_on_the_cpu(precision: Any) -> None:
    lr = photograph(40, 40)
    model = exploding()
    sr = Upscaler(model, device="cpu")(lr).astype(int)
    most = {"fp32": 1, "tf32": 2, "bf16": 8, "fp16": 1}[precision]
    assert np.abs(Upscaler(model, device="cuda", precision=precision)(lr) - sr).max() <= most
