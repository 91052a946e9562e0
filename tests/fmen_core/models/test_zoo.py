"""All networks: sizes, complexity, limits, and how their weights are recognised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmen_core import (
    FMEN,
    Architecture,
    FMENTraining,
    ModelError,
    Upscaler,
    create_model,
    load,
    read_weights,
    save,
)
from fmen_core.blocks.attention import ContrastAttention
from fmen_core.models import ARCHITECTURES
from fmen_core.models.haesr import is_key
from fmen_core.tiling import receptive_radius

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}

CHALLENGE_TABLE = {
    "imdn-baseline": (893_936, 58.5315, 154.1407, 43),
    "rfdn": (433_448, 27.1026, 112.0342, 64),
    "rlfn-cut": (317_218, 19.6953, 80.0452, 39),
    "neesr": (272_038, 16.8596, 79.5852, 59),
    "repafdn": (326_040, 20.0617, 93.8152, 59),
    "rfdn-pruned": (289_888, 17.7008, 91.7181, 64),
    "imdn-plus": (275_844, 17.9849, 92.7990, 59),
    "slimrlfn": (207_774, 12.0014, 74.0615, 51),
    "efdn": (276_192, 16.7288, 111.1167, 65),
    "dipnet-slim": (154_336, 9.0456, 58.8115, 39),
    "spanf": (148_288, 9.6815, 39.8459, 18),
    "safmnv3": (144_672, 9.3837, 76.6935, 44),
    "tsr": (171_984, 11.2302, 40.8945, 19),
    "dscf": (130_828, 8.5350, 38.9284, 22),
    "span": (150_688, 9.8338, 41.6809, 22),
    "spanv2": (139_104, 9.1310, 51.3802, 22),
    "disp": (163_792, 10.6934, 40.8945, 19),
    "pds": (141_748, 9.2537, 39.0595, 18),
    "pkdsr": (143_928, 9.3963, 39.3216, 18),
    "haesr": (352_869, 20.7601, 503.7781, 165),
}

AIM_2020_TABLE = {
    "msrresnet": (1_517_571, 166.36, 292.55, 37),
    "pan": (272_419, 32.19, 270.53, 121),
    "fimdn": (687_056, 44.98, 118.49, 33),
}
"""Zhang et al., "AIM 2020 Challenge on Efficient Super-Resolution", table 1, which has the parameters in thousands."""

FMEN_S = {"n_feats": 50, "mid_feats": 16, "down_blocks": 4, "up_blocks": (2, 1, 1, 1, 1)}

PUBLISHED = {
    "team03_fmen.pth": ("fmen-s", {"scale": 4, "form": "inference", **FMEN_S}),
    "fmen_test_weights.pt": ("fmen-s", {"scale": 4, "form": "inference", **FMEN_S}),
    "imdn_baseline.pth": ("imdn-baseline", {"scale": 4, "n_feats": 64, "n_blocks": 8}),
    "rfdn_baseline.pth": ("rfdn", {"scale": 4, "n_feats": 50, "esa_feats": 12}),
    "team04_rlfn.pth": ("rlfn-cut", {"scale": 4, "n_feats": 46, "mid_feats": 48, "esa_feats": 16}),
    "team05_efdn.pt": ("neesr", {"scale": 4, "n_feats": 42, "distilled": 10}),
    "team10_repafdn.pth": ("repafdn", {"scale": 4, "n_feats": 48}),
    "team40_rfdn_pruned.pth": ("rfdn-pruned", {"scale": 4}),
    "team39_imdn_plus.pth": ("imdn-plus", {"scale": 4, "n_feats": 36, "n_blocks": 8}),
    "ntire2024_team21_slimrlfn.pth": ("slimrlfn", {"scale": 4, "n_feats": 30, "n_blocks": 6, "esa_feats": 16}),
    "ntire2025_team15_dipnet_slim.pt": ("dipnet-slim", {"scale": 4, "n_feats": 32, "esa_feats": 16}),
    "ntire2025_team24_spanf.pth": ("spanf", {"scale": 4, "n_feats": 32}),
    "ntire2025_team19_safmnv3.pth": (
        "safmnv3",
        {"scale": 4, "n_feats": 40, "n_blocks": 6, "split_feats": 12, "hidden_feats": 60},
    ),
    "ntire2025_team31_tsr.pth": ("tsr", {"scale": 4, "n_feats": 32, "n_blocks": 4}),
    "ntire2025_team23_dscf.pth": ("dscf", {"scale": 4}),
    "ntire2026_span.pth": ("span", {"scale": 4, "n_feats": 28}),
    "ntire2026_team22_spanv2.pth": ("spanv2", {"scale": 4, "n_feats": 32}),
    "ntire2026_team18_disp.pth": ("disp", {"scale": 4, "n_feats": 32, "n_blocks": 4}),
    "ntire2026_team01_pds.pth": ("pds", {"scale": 4, "n_feats": 32, "tail_feats": 20}),
    "IMDN_x2.pth": ("imdn", {"scale": 2, "n_feats": 64}),
    "IMDN_x3.pth": ("imdn", {"scale": 3, "n_feats": 64}),
    "IMDN_x4.pth": ("imdn", {"scale": 4, "n_feats": 64}),
}


SAME_TENSORS = {"dscf": "span", "rfdn-pruned": "rfdn"}
"""Networks whose tensors another one of certain sizes has as well; without metadata the first is recognised."""


def recognised_as(state: dict[str, Tensor]) -> dict[str, dict[str, object]]:
    """Every architecture that recognises the state dict, with the arguments that it reads."""
    seen = {architecture.name: architecture.detect(state) for architecture in ARCHITECTURES}
    return {name: sizes for name, sizes in seen.items() if sizes is not None}


def count_by_the_challenge_rule(model: nn.Module) -> tuple[int, int, int]:
    """FLOPs, activations and convolution calls for an LR image of 256x256, of a network on the meta device."""
    flops, activations, convs = 0, 0, 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops, activations, convs
        if isinstance(module, nn.Conv2d | nn.Linear):
            flops += output.numel() * module.weight[0].numel()
        if isinstance(module, nn.Conv2d):
            activations += output.numel()
            convs += 1
        elif isinstance(module, nn.ReLU | nn.LeakyReLU | nn.PReLU):
            flops += output.numel()

    for module in model.modules():
        module.register_forward_hook(count)
    model(torch.empty(1, 3, 256, 256, device="meta"))
    return flops, activations, convs


@pytest.fixture(params=ARCHITECTURES, ids=lambda architecture: architecture.name)
def architecture(request: pytest.FixtureRequest, small: Callable[[str], dict[str, int]]) -> Architecture:
    chosen = request.param
    assert isinstance(chosen, Architecture)
    return replace(chosen, defaults={**chosen.defaults, **small(chosen.name)})


@pytest.mark.parametrize("name", CHALLENGE_TABLE)
def test_network_has_the_figures_of_the_challenge_table(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    flops, activations, convs = count_by_the_challenge_rule(model)
    params = sum(parameter.numel() for parameter in model.parameters())
    assert (params, round(flops / 1e9, 4), round(activations / 1e6, 4), convs) == CHALLENGE_TABLE[name]


@pytest.mark.parametrize("name", AIM_2020_TABLE)
def test_network_has_the_figures_of_the_table_of_aim_2020(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, form="inference")
    flops, activations, convs = count_by_the_challenge_rule(model)
    params = sum(parameter.numel() for parameter in model.parameters())
    assert (params, round(flops / 1e9, 2), round(activations / 1e6, 2), convs) == AIM_2020_TABLE[name]


@pytest.mark.parametrize(("scale", "params"), [(2, 694_404), (3, 703_059), (4, 715_176)])
def test_imdn_has_as_many_parameters_as_its_paper_says(scale: int, params: int) -> None:
    assert sum(parameter.numel() for parameter in create_model("imdn", scale).parameters()) == params


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ARCHITECTURES)


def test_network_declares_what_its_table_row_says(architecture: Architecture) -> None:
    model = architecture.build(scale=3)
    assert (model.name, model.scale, model.data_range) == (architecture.name, 3, architecture.data_range)


def test_data_range_is_255_for_fmens_and_seven_networks_and_one_for_the_others() -> None:
    ranges = {architecture.name: architecture.data_range for architecture in ARCHITECTURES}
    assert {name for name, data_range in ranges.items() if data_range == 255.0} == {
        "fmen-s",
        "fmen-s48",
        "fmen",
        "rfdn",
        "rlfn-cut",
        "neesr",
        "rfdn-pruned",
        "ecbsr",
        "slimrlfn",
        "edsr-baseline",
    }
    assert set(ranges.values()) == {1.0, 255.0}


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
    torch.manual_seed(3)
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


@pytest.mark.parametrize("name", [name for name in BY_NAME if not BY_NAME[name].tileable])
def test_network_that_depends_on_the_whole_image_is_not_tiled(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be tiled"):
        Upscaler(create_model(name, 2), tile=32)


def test_own_state_is_recognised_by_its_architecture_alone(architecture: Architecture) -> None:
    for scale in architecture.scales:
        recognised = recognised_as(architecture.build(scale=scale).state_dict())
        assert list(recognised) == [architecture.name, *filter(None, [SAME_TENSORS.get(architecture.name)])]
        assert "scale" in architecture.hidden_sizes or recognised[architecture.name]["scale"] == scale


@pytest.mark.parametrize("form", ["training", "inference"])
def test_name_and_sizes_of_a_loaded_network_reproduce_it(architecture: Architecture, form: str, tmp_path: Path) -> None:
    save(architecture.build(3, form=form), tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors")
    again = create_model(loaded.name, loaded.scale, form=form, **loaded.sizes)
    assert type(again) is type(loaded) and again.sizes == loaded.sizes and again.name == architecture.name
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in loaded.state_dict().items()
    }


@pytest.mark.parametrize("form", ["training", "inference"])
def test_name_and_sizes_of_an_fmen_of_other_sizes_reproduce_it(form: str, tmp_path: Path) -> None:
    sizes = {"n_feats": 12, "mid_feats": 8, "down_blocks": 3, "up_blocks": [2, 1, 3, 1]}
    more = {"ratio": 3, "block": "ecb"} if form == "training" else {}
    save(create_model("fmen", 2, form=form, **sizes, **more), tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors")
    assert (loaded.name, loaded.sizes) == ("fmen", {**sizes, "up_blocks": (2, 1, 3, 1), **more})
    again = create_model(loaded.name, loaded.scale, form=form, **loaded.sizes)
    again.load_state_dict(loaded.state_dict())
    assert create_model("fmen-s", **sizes).name == "fmen" and create_model("fmen", **FMEN_S).name == "fmen-s"


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        (
            {"width": 3},
            "fmen has no size called 'width'; its sizes are n_feats, mid_feats, down_blocks, up_blocks",
        ),
        ({"up_blocks": (1, 1)}, "fmen: up_blocks has 2 numbers; 4 down_blocks need 5"),
        ({"down_blocks": 5}, "fmen: up_blocks has 5 numbers; 5 down_blocks need 6"),
        ({"mid_feats": 4}, "fmen: mid_feats is 4; the first branch is 4 channels narrower, so that it must be > 4"),
        ({"form": "deployed"}, "there is no form 'deployed'; choose training or inference"),
    ],
)
@pytest.mark.parametrize("form", ["training", "inference"])
def test_sizes_that_give_no_network_are_refused(form: str, sizes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        create_model("fmen", **{"form": form, **sizes})
    assert create_model("fmen", form=form, mid_feats=5).warmup[1].squeeze.out_channels == 1


def test_only_fmen_ecbsr_and_fimdn_have_two_forms() -> None:
    two = {architecture.name for architecture in ARCHITECTURES if architecture.training}
    assert two == {"fmen-s", "fmen-s48", "fmen", "ecbsr", "fimdn"}
    assert type(create_model("fmen", form="inference")) is FMEN and type(create_model("fmen")) is FMENTraining
    assert type(create_model("span", form="inference")) is type(create_model("span"))


def test_smallest_input_works_and_a_smaller_one_does_not(architecture: Architecture) -> None:
    side = architecture.min_size
    for form in ("training", "inference"):
        network = architecture.build(2, form=form).eval()
        for height, width in ((side, side), (side, side + 9), (side + 9, side)):
            assert network(torch.rand(1, 3, height, width)).shape == (1, 3, 2 * height, 2 * width)
        if side > 1:
            for height, width in ((side - 1, side + 9), (side + 9, side - 1)):
                with pytest.raises(RuntimeError):
                    network(torch.rand(1, 3, height, width))


def test_networks_that_cannot_be_tiled_say_so(architecture: Architecture) -> None:
    assert architecture.tileable == (receptive_radius(architecture.build(2)) is not None)


@pytest.mark.parametrize(
    ("sizes", "first", "second"),
    [
        ({"n_feats": 40, "esa_feats": 12, "residual": True}, "rfdn-pruned", "rfdn"),
        ({"n_feats": 26}, "dscf", "span"),
    ],
)
def test_the_metadata_decide_between_networks_of_the_same_tensors(
    sizes: dict[str, Any], first: str, second: str, tmp_path: Path
) -> None:
    file, bare = tmp_path / "w.safetensors", tmp_path / "w.pth"
    for model in (create_model(second, **sizes), create_model(first)):
        save(model, file)
        loaded = load(file)
        assert (type(loaded), loaded.sizes) == (type(model), model.sizes)
        image = torch.rand(1, 3, 16, 16)
        assert torch.equal(loaded(image), model.eval()(image))
        torch.save(model.state_dict(), bare)
        assert load(bare).name == first


def test_sizes_are_read_from_the_shapes() -> None:
    assert recognised_as(create_model("span", 3, n_feats=48).state_dict()) == {"span": {"scale": 3, "n_feats": 48}}
    assert recognised_as(create_model("rfdn", n_feats=40).state_dict()) == {
        "rfdn": {"scale": 4, "n_feats": 40, "esa_feats": 10}
    }
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
    recognised = recognised_as(state)
    assert recognised.pop(name) == sizes
    assert list(recognised) == list(filter(None, [SAME_TENSORS.get(name)]))
    model = load(reference / "weights" / file)
    assert (model.name, model.scale, model.training) == (name, sizes["scale"], False)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_keys_of_a_window_of_haesr_are_a_star_a_cross_and_the_corners() -> None:
    """Of 16x16 pixels: both diagonals, row 8 and column 8; the two middle rows and columns; corners of 3x3."""
    places = [(row, column) for row in range(16) for column in range(16)]
    keys = [{place for place in places if is_key(stage, *place)} for stage in range(3)]
    star = {(row, column) for row, column in places if row == column or row + column == 15 or 8 in (row, column)}
    cross = {(row, column) for row, column in places if {7, 8} & {row, column}}
    corners = {(row, column) for row, column in places if {row, column} <= {0, 1, 2, 13, 14, 15}}
    assert keys == [star, cross, corners]


def test_the_spatial_attention_of_haesr_has_a_quarter_of_the_channels() -> None:
    with torch.device("meta"):
        assert create_model("haesr", n_feats=80).block0.esa.conv1.out_channels == 20
