"""The networks that FMEN is compared with: sizes, complexity, and how their weights are recognised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fmen_core import Architecture, Upscaler, create_model, load, read_weights
from fmen_core.blocks.attention import ContrastAttention
from fmen_core.models import ARCHITECTURES

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}

CHALLENGE_TABLE = {
    "imdn-baseline": (893_936, 58.5315, 154.1407, 43),
    "rfdn": (433_448, 27.1026, 112.0342, 64),
    "rlfn-cut": (317_218, 19.6953, 80.0452, 39),
    "neesr": (272_038, 16.8596, 79.5852, 59),
    "repafdn": (326_040, 20.0617, 93.8152, 59),
    "rfdn-pruned": (289_888, 17.7008, 91.7181, 64),
    "imdn-plus": (275_844, 17.9849, 92.7990, 59),
    "span": (150_688, 9.8338, 41.6809, 22),
}

FMEN_S = {"n_feats": 50, "mid_feats": 16, "down_blocks": 4, "up_blocks": (2, 1, 1, 1, 1)}

PUBLISHED = {
    "team03_fmen.pth": ("fmen-s", {"scale": 4, "form": "inference", **FMEN_S}),
    "fmen_test_weights.pt": ("fmen-s", {"scale": 4, "form": "inference", **FMEN_S}),
    "imdn_baseline.pth": ("imdn-baseline", {"scale": 4, "n_feats": 64, "n_blocks": 8}),
    "rfdn_baseline.pth": ("rfdn", {"scale": 4, "n_feats": 50}),
    "team04_rlfn.pth": ("rlfn-cut", {"scale": 4, "n_feats": 46, "mid_feats": 48, "esa_feats": 16}),
    "team05_efdn.pt": ("neesr", {"scale": 4, "n_feats": 42, "distilled": 10}),
    "team10_repafdn.pth": ("repafdn", {"scale": 4, "n_feats": 48}),
    "team40_rfdn_pruned.pth": ("rfdn-pruned", {"scale": 4}),
    "team39_imdn_plus.pth": ("imdn-plus", {"scale": 4, "n_feats": 36, "n_blocks": 8}),
    "ntire2026_span.pth": ("span", {"scale": 4, "n_feats": 28}),
    "IMDN_x2.pth": ("imdn", {"scale": 2, "n_feats": 64}),
    "IMDN_x3.pth": ("imdn", {"scale": 3, "n_feats": 64}),
    "IMDN_x4.pth": ("imdn", {"scale": 4, "n_feats": 64}),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks on tiny images lose more time to the meeting of threads than they gain from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recognised_as(state: dict[str, Tensor]) -> dict[str, dict[str, object]]:
    """Every architecture of the zoo that takes the state dict for its own, with the sizes it sees."""
    seen = {architecture.name: architecture.detect(state) for architecture in ARCHITECTURES}
    return {name: sizes for name, sizes in seen.items() if sizes is not None}


def count_by_the_challenge_rule(model: nn.Module) -> tuple[int, int, int]:
    """FLOPs, activations and convolution calls for an LR image of 256x256, of a network on the meta device."""
    flops, activations, convs = 0, 0, 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops, activations, convs
        if isinstance(module, nn.Conv2d):
            flops += output.numel() * module.weight[0].numel()
            activations += output.numel()
            convs += 1
        elif isinstance(module, nn.ReLU | nn.LeakyReLU):
            flops += output.numel()

    for module in model.modules():
        module.register_forward_hook(count)
    model(torch.empty(1, 3, 256, 256, device="meta"))
    return flops, activations, convs


@pytest.fixture(params=ARCHITECTURES, ids=lambda architecture: architecture.name)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    chosen = request.param
    assert isinstance(chosen, Architecture)
    return chosen


@pytest.mark.parametrize("name", CHALLENGE_TABLE)
def test_network_has_the_figures_of_the_challenge_table(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    flops, activations, convs = count_by_the_challenge_rule(model)
    params = sum(parameter.numel() for parameter in model.parameters())
    assert (params, round(flops / 1e9, 4), round(activations / 1e6, 4), convs) == CHALLENGE_TABLE[name]


@pytest.mark.parametrize(("scale", "params"), [(2, 694_404), (3, 703_059), (4, 715_176)])
def test_imdn_has_as_many_parameters_as_its_paper_says(scale: int, params: int) -> None:
    assert sum(parameter.numel() for parameter in create_model("imdn", scale).parameters()) == params


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ARCHITECTURES)


def test_network_declares_what_its_table_row_says(architecture: Architecture) -> None:
    model = architecture.build(scale=3)
    assert (model.name, model.scale, model.data_range) == (architecture.name, 3, architecture.data_range)


def test_data_range_is_one_for_both_imdns_super_rainbow_and_span_and_255_for_the_others() -> None:
    ones = {architecture.name for architecture in ARCHITECTURES if architecture.data_range == 1.0}
    assert ones == {"imdn-baseline", "imdn", "repafdn", "imdn-plus", "span"}
    assert all(BY_NAME[name].data_range == 255.0 for name in BY_NAME.keys() - ones)


def test_output_is_scale_times_larger_at_every_scale(architecture: Architecture) -> None:
    for scale in architecture.scales:
        with torch.device("meta"):
            out = architecture.build(scale=scale)(torch.empty(2, 3, 15, 18))
        assert out.shape == (2, 3, 15 * scale, 18 * scale)


def test_network_leaves_its_input_alone(architecture: Architecture) -> None:
    image = torch.rand(1, 3, 16, 16)
    before = image.clone()
    with torch.no_grad():
        architecture.build()(image)
    assert torch.equal(image, before)


def test_gradients_reach_every_parameter(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model = architecture.build()
    model(torch.rand(1, 3, 24, 24)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


def test_half_precision_needs_no_special_care(architecture: Architecture) -> None:
    out = architecture.build().to(torch.bfloat16)(torch.rand(1, 3, 16, 16, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_contrast_attention_adds_mean_and_standard_deviation() -> None:
    attention = ContrastAttention(16).double()
    image = torch.rand(2, 16, 9, 7, dtype=torch.float64)
    statistics = image.mean((2, 3), keepdim=True) + image.std((2, 3), correction=0, keepdim=True)
    assert torch.allclose(attention(image), image * attention.conv_du(statistics), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["rfdn", "rlfn-cut", "neesr", "repafdn", "rfdn-pruned", "imdn"])
def test_network_with_attention_over_the_whole_image_is_not_tiled(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be tiled"):
        Upscaler(create_model(name, 2), tile=32)


def test_own_state_is_recognised_by_its_architecture_alone(architecture: Architecture) -> None:
    for scale in architecture.scales:
        recognised = recognised_as(architecture.build(scale=scale).state_dict())
        assert recognised.keys() == {architecture.name}
        assert recognised[architecture.name]["scale"] == scale


def test_sizes_are_read_from_the_shapes() -> None:
    assert recognised_as(create_model("span", 3, n_feats=48).state_dict()) == {"span": {"scale": 3, "n_feats": 48}}
    assert recognised_as(create_model("rfdn", n_feats=40).state_dict()) == {"rfdn": {"scale": 4, "n_feats": 40}}
    seven = {"scale": 4, "n_feats": 64, "n_blocks": 7}
    assert recognised_as(create_model("imdn-baseline", n_blocks=7).state_dict()) == {"imdn-baseline": seven}


def test_a_missing_an_additional_or_a_differently_shaped_tensor_is_not_recognised(architecture: Architecture) -> None:
    state = architecture.build().state_dict()
    keys = list(state)
    for key in (keys[0], keys[len(keys) // 2], keys[-1]):
        assert recognised_as({other: state[other] for other in state if other != key}) == {}
        assert recognised_as({**state, key: torch.zeros(7)}) == {}
    assert recognised_as({**state, "another.weight": torch.zeros(1)}) == {}


def test_nothing_is_recognised_in_an_empty_state() -> None:
    assert recognised_as({}) == {}


@pytest.mark.parametrize("file", PUBLISHED)
def test_published_weights_are_recognised_by_one_architecture_and_load_strictly(reference: Path, file: str) -> None:
    name, sizes = PUBLISHED[file]
    state = read_weights(reference / "weights" / file)
    assert recognised_as(state) == {name: sizes}
    model = load(reference / "weights" / file)
    assert (model.name, model.scale, model.training) == (name, sizes["scale"], False)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
