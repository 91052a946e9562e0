"""Levels that stay, and sizes that come out exactly."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from fmen.upscaling.enlarge import OutputSize, enlarge, finish, limit, resized, run_network
from fmen.upscaling.networks import Networks
from fmen.upscaling.photo import Photo
from fmen_core import FMENTraining, ModelError, Upscaler, create_model, load, save
from fmen_core.pretrained import bundled
from fmen_data import imresize

Command = Callable[..., tuple[str, str]]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("weights", [name for name, file in bundled().items() if file.suffix == ".safetensors"])
def test_flat_images_keep_their_level_and_gray_ones_their_colour(weights: str, precision: str) -> None:
    upscaler = Upscaler(load(bundled()[weights]), device="cpu", precision=precision)
    for level in (0, 1, 128, 220, 255):
        flat = np.full((7, 8, 3), level, np.uint8)
        moved = enlarge(upscaler, Photo(flat)).pixels.astype(int) - level
        assert np.abs(moved).max() <= 1, level
    gray = np.random.default_rng(0).integers(0, 256, (10, 10, 1), np.uint8).repeat(3, 2)
    for image in (gray, gray.astype(np.uint16) * 257):
        large = enlarge(upscaler, Photo(image)).pixels
        assert (large == large[..., :1]).all()
        assert large.std() > image.std() / 2


def test_the_networks_alone_would_move_white() -> None:
    white = np.full((10, 12, 3), 255, np.uint8)
    assert Upscaler(load(bundled()["fmen-s_x3"]), device="cpu")(white).min() < 254


def test_the_limits_are_outside_what_a_network_outputs_where_there_is_detail() -> None:
    lr = np.full((5, 5, 3), 100, np.uint8)
    lr[2, 2] = 140
    sr = np.full((10, 10, 3), 250, np.uint8)
    limit(sr, lr, extend=True)
    assert (sr[2:8, 2:8] == 181).all()  # 140 + 40 + 1 beside the detail
    assert (sr[0] == 101).all()
    limit(sr, lr, extend=False)
    assert sr.max() == 140 and (sr[0] == 100).all()


@pytest.mark.parametrize("height", [63, 64, 65, 130])
def test_limits_hold_in_every_row(height: int) -> None:
    lr = np.random.default_rng(0).integers(0, 256, (height, 5, 3), np.uint8)
    sr = np.random.default_rng(1).integers(0, 256, (3 * height, 15, 3), np.uint8)
    square = np.ones((3, 3), np.uint8)
    expected = np.clip(sr, *(f(lr, square).repeat(3, 0).repeat(3, 1) for f in (cv2.erode, cv2.dilate)))
    limit(sr, lr, extend=False)
    assert np.array_equal(sr, expected)


class Black(nn.Module):
    scale, data_range = 2, 255.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0) * self.weight


def test_a_black_result_of_an_image_that_is_not_black_is_an_error() -> None:
    upscaler = Upscaler(Black(), device="cpu")
    with pytest.raises(ModelError, match="the network's output is black; check the weights"):
        enlarge(upscaler, Photo(np.full((8, 8, 3), 128, np.uint8)))
    assert not enlarge(upscaler, Photo(np.zeros((8, 8, 3), np.uint8))).pixels.any()


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape", "scale"),
    [
        (["--scale", "3"], (33, 51), 3),
        (["--outscale", "2.5"], (28, 43), 3),  # 27.5 and 42.5 rounded up, as MATLAB does
        (["--outscale", "2"], (22, 34), 2),
        (["--outscale", "5"], (55, 85), 4),
        (["--outscale", "0.5"], (6, 9), 1),
        (["--width", "40"], (26, 40), 3),
        (["--width", "20", "--scale", "4"], (13, 20), 4),
        (["--max-side", "50"], (33, 50), 3),
        (["--max-side", "4096"], (44, 68), 4),
        (["--outscale", "3", "--max-side", "20"], (13, 20), 2),
    ],
)
def test_sizes_come_out_exactly_from_the_next_larger_network(
    upscale: Command, options: list[str], shape: tuple[int, int], scale: int
) -> None:
    image = imresize(np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8), 2)[:11, :17]
    cv2.imwrite("a.png", image[..., ::-1])
    upscale("a.png", "-o", "b.png", "--precision", "fp32", "--weights", "clean", *options)
    result = cv2.imread("b.png")[..., ::-1]
    assert result.shape[:2] == shape
    upscaler = None if scale == 1 else Upscaler(load(bundled()[f"fmen-s_x{scale}"]), device="cpu")
    sr = enlarge(upscaler, Photo(image)).pixels
    factor = Fraction(shape[1], 17) if "--width" in options or "--max-side" in options else Fraction(options[1])
    expected = sr if sr.shape[:2] == shape else imresize(sr, float(factor / scale))[: shape[0], : shape[1]]
    assert np.array_equal(result, expected)
    assert "exists already" in upscale("a.png", "-o", "b.png", "--precision", "fp32", "--weights", "clean", *options)[0]
    assert (
        "exists already"
        not in upscale("a.png", "-o", "b.png", "--precision", "fp32", "--weights", "clean", "--outscale", "1.7")[0]
    )


@pytest.mark.parametrize("width", [1, 2, 7, 29, 58, 123])  # 7 * (29 / 7) is above 29 in floating point
def test_a_width_is_exact_although_floating_point_rounds_up(width: int) -> None:
    image = np.zeros((3, 7, 3), np.uint8)
    factor = OutputSize(width=width).factor_for(3, 7, 4)
    assert enlarge(None, Photo(image), factor).pixels.shape == (-(-3 * width // 7), width, 3)


@pytest.mark.parametrize(("height", "width"), [(11, 17), (17, 11)])
def test_the_limit_is_for_the_longer_side(height: int, width: int) -> None:
    assert OutputSize(max_side=50).factor_for(height, width, 4) == Fraction(50, 17)
    assert OutputSize(max_side=50, factor=Fraction(2)).factor_for(height, width, 4) == 2


def test_sixteen_bits_and_transparency_are_resized_too() -> None:
    upscaler = Upscaler(load(bundled()["fmen-s_x2"]), device="cpu")
    pixels = np.full((8, 8, 3), 30000, np.uint16)
    alpha = np.full((8, 8), 65535, np.uint16)
    alpha[:, :4] = 0
    pixels[:, :4] = 0
    large = enlarge(upscaler, Photo(pixels, alpha), Fraction(3, 2))
    assert large.pixels.shape == (12, 12, 3) and large.pixels.dtype == np.uint16
    assert np.abs(large.pixels.astype(int) - 30000).max() <= 257  # no black fringe
    assert large.alpha is not None and large.alpha[0, 0] == 0 and large.alpha[0, -1] == 65535
    whole = enlarge(upscaler, Photo(pixels, alpha)).alpha
    assert whole is not None and np.array_equal(large.alpha, imresize(whole, 0.75))
    assert (enlarge(None, Photo(pixels, alpha), Fraction(1, 2)).pixels == 30000).all()


def test_the_network_upscales_transparency_as_it_does_a_gray_image() -> None:
    upscaler = Upscaler(load(bundled()["fmen-s_x2"]), device="cpu", tile=16)
    alpha = np.random.default_rng(0).integers(1, 256, (8, 12), np.uint8)
    gray, seen = alpha[..., None].repeat(3, 2), []
    sr = run_network(upscaler, Photo(gray, alpha), lambda *done: seen.append(done))
    assert np.array_equal(sr.alpha, upscaler(gray)[..., 1]) and np.array_equal(sr.pixels, upscaler(gray))
    assert seen == [(1, 1)] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--outscale", "2", "--width", "9"], "--outscale and --width both set the size; give one of them"),
        (["--outscale", "big"], "--outscale big: give a factor such as 2.5, from 1/64 to 64"),
        (["--outscale", "nan"], "--outscale nan: give a factor such as 2.5, from 1/64 to 64"),
        (["--outscale", "1/0"], "--outscale 1/0: give a factor such as 2.5, from 1/64 to 64"),
        (["--outscale", "1e99999999"], "--outscale 1e99999999: give a factor such as 2.5, from 1/64 to 64"),
        (["--outscale", "0.01"], "--outscale 0.01: give a factor such as 2.5, from 1/64 to 64"),
        (["--outscale", "65"], "--outscale 65: give a factor such as 2.5, from 1/64 to 64"),
    ],
)
def test_sizes_that_contradict_are_refused(upscale: Command, options: list[str], said: str) -> None:
    assert upscale("a.png", "-o", "b.png", *options, status=2)[1] == f"error: {said}\n"


def test_an_image_gets_the_smallest_network_that_is_large_enough() -> None:
    networks = Networks.load(
        [bundled()[f"fmen-s_x{scale}"] for scale in (4, 2)], device="cpu", size=OutputSize(width=9)
    )
    assert networks.upscaler(8, Fraction(3, 2)).scale == 2
    assert networks.upscaler(8, Fraction(5, 2)) is networks.upscaler(8, Fraction(9))
    assert networks.upscaler(16).precision == "fp32"


# --- any scale --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "same"),
    [(["--scale", "2.7"], ["--outscale", "2.7"]), (["--scale", "5/2"], ["--outscale", "2.5"]), (["--scale", "6"], [])],
)
def test_a_scale_between_those_of_the_networks_is_an_output_size(
    upscale: Command, options: list[str], same: list[str]
) -> None:
    cv2.imwrite("a.png", np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8))
    fixed = ("--precision", "fp32", "--weights", "clean")
    upscale("a.png", "-o", "b.png", *fixed, *options)
    upscale("a.png", "-o", "c.png", *fixed, *(same or ["--outscale", "6"]))
    assert Path("b.png").read_bytes() == Path("c.png").read_bytes()
    assert cv2.imread("b.png").shape[0] == -(-10 * Fraction(options[1]) // 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scale", "2.7", "--outscale", "3"], "--scale and --outscale both set the size; give one of them"),
        (["--scale", "2.7", "--width", "30"], "--scale and --width both set the size; give one of them"),
        (["--scale", "much"], "--scale much: give a factor such as 2.5, from 1/64 to 64"),
    ],
)
def test_a_scale_that_is_a_size_is_given_alone(upscale: Command, options: list[str], said: str) -> None:
    assert upscale("a.png", "-o", "b.png", *options, status=2)[1] == f"error: {said}\n"


def test_a_network_of_any_scale_is_used_beside_others(upscale: Command, network: FMENTraining) -> None:
    torch.manual_seed(0)
    for run, model in {"x2": network, "x4": create_model("imdn-as", 4, n_feats=16)}.items():
        Path("runs", run).mkdir(parents=True)
        save(model, Path("runs", run, "best.safetensors"))
    for width in (10, 20):
        cv2.imwrite(f"{width}.png", np.full((8, width, 3), 90, np.uint8))
    stdout, _ = upscale("10.png", "20.png", "-o", "out", "--width", "30")
    assert "fmen x2" in stdout and "imdn-as any scale" in stdout
    assert [cv2.imread(f"out/{width}.png").shape[:2] for width in (10, 20)] == [(24, 30), (12, 30)]


def test_transparency_is_resized_for_a_network_of_any_scale() -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (6, 9), np.uint8)
    photo = Photo(np.where(alpha[..., None] > 0, np.uint8(200), np.uint8(0)).repeat(3, 2), alpha)
    large = resized(photo, Fraction(5, 2))
    assert np.array_equal(large.alpha, imresize(alpha, 2.5))
    assert large.pixels.shape == (15, 23, 3) and (large.pixels == 200).all()
    assert resized(Photo(photo.pixels), Fraction(5, 2)).alpha is None


@pytest.mark.parametrize(("scale", "shape"), [("2.7", (30, 38)), ("4", (44, 56)), ("0.5", (6, 7))])
def test_a_network_of_any_scale_enhances_the_image_at_its_final_size(
    upscale: Command, scale: str, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = create_model("imdn-as", 4, n_feats=16)
    save(network, "as.safetensors")
    image = imresize(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8), 2)[:11]
    cv2.imwrite("a.png", image[..., ::-1])
    stdout, _ = upscale("a.png", "-o", "b.png", "--weights", "as.safetensors", "--precision", "fp32", "--scale", scale)
    assert f"a.png (14x11) -> b.png ({shape[1]}x{shape[0]})" in stdout
    assert ("imdn-as any scale" if float(scale) > 1 else "resized without a network") in stdout
    large = imresize(image, float(scale))
    if float(scale) > 1:
        sr = Upscaler(network.at_scale(1), device="cpu")(large)
        large = finish(Photo(sr), Photo(large.copy())).pixels
    assert np.array_equal(cv2.imread("b.png")[..., ::-1], large)
