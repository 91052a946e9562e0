"""Validation of an upscaler over a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fmen_eval import EvaluationError, psnr, ssim, validate
from fmen_eval.validation import ImageResult, ValidationResult

Pair = tuple[str, NDArray[np.uint8], NDArray[np.uint8]]


def nearest(lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return lr.repeat(2, axis=0).repeat(2, axis=1)


@pytest.fixture
def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    made = []
    for name in ("a", "bird"):
        hr = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        made.append((name, np.ascontiguousarray(hr[::2, ::2]), hr))
    return made


def test_validation_measures_every_image_with_the_scale_as_border(pairs: list[Pair]) -> None:
    result = validate(nearest, pairs, scale=2, progress=False)
    assert [image.name for image in result.images] == ["a", "bird"]
    for image, (_, lr, hr) in zip(result.images, pairs, strict=True):
        assert image.psnr == psnr(nearest(lr), hr, border=2)
        assert image.ssim == ssim(nearest(lr), hr, border=2)
        assert image.seconds > 0
    assert result.psnr == pytest.approx(np.mean([image.psnr for image in result.images]))
    assert result.ssim == pytest.approx(np.mean([image.ssim for image in result.images]))


def test_seconds_are_those_of_the_upscaler_alone(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fmen_eval.validation.time.perf_counter", lambda: now[0])

    def slow_reading() -> Iterator[Pair]:
        for pair in pairs:
            now[0] += 100
            yield pair

    def upscaler(lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        now[0] += 3
        return nearest(lr)

    assert [image.seconds for image in validate(upscaler, slow_reading(), scale=2, progress=False).images] == [3, 3]


def test_json_follows_the_contract(pairs: list[Pair]) -> None:
    result = validate(nearest, pairs, scale=2, protocol="paper", progress=False)
    data = json.loads(json.dumps(result.to_dict(model="nearest", weights="none.pth")))
    assert list(data) == ["model", "weights", "protocol", "scale", "mean", "images"]
    assert data["mean"] == {"psnr": result.psnr, "ssim": result.ssim}
    assert (data["model"], data["weights"], data["protocol"], data["scale"]) == ("nearest", "none.pth", "paper", 2)
    assert list(data["images"][0]) == ["name", "psnr", "ssim", "seconds"]


def test_table_has_a_line_per_image_and_the_mean(pairs: list[Pair]) -> None:
    result = validate(nearest, pairs, scale=2, progress=False)
    lines = result.table().splitlines()
    assert [line.split()[0] for line in lines if not line.startswith("-")] == ["image", "a", "bird", "mean"]
    assert f"{result.psnr:.4f}" in lines[-1]
    assert len({len(line) for line in lines}) == 1


def test_ssim_can_be_left_out(pairs: list[Pair]) -> None:
    result = validate(nearest, pairs, scale=2, progress=False, measure_ssim=False)
    assert result.ssim is None
    assert " - " in result.table()
    assert result.to_dict(model="m", weights="w")["mean"]["ssim"] is None


def test_sr_images_are_handed_out(pairs: list[Pair]) -> None:
    seen: dict[str, NDArray[np.uint8]] = {}
    validate(nearest, pairs, scale=2, progress=False, on_image=seen.__setitem__)
    assert list(seen) == ["a", "bird"]
    assert (seen["bird"] == nearest(pairs[1][1])).all()


def test_a_progress_bar_shows_the_running_psnr(pairs: list[Pair], capsys: pytest.CaptureFixture[str]) -> None:
    result = validate(nearest, pairs, scale=2)
    assert f"PSNR {result.psnr:.3f} dB" in capsys.readouterr().err


def test_an_image_that_does_not_fit_is_named(pairs: list[Pair]) -> None:
    with pytest.raises(EvaluationError, match=r"bird: the SR image is 20x15, the HR image 40x30"):
        validate(lambda lr: lr if lr is pairs[1][1] else nearest(lr), pairs, scale=2, progress=False)


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no images"):
        validate(nearest, [], scale=2, progress=False)


def test_the_table_is_exact() -> None:
    images = (ImageResult("a", 30.25, 0.875, 0.5), ImageResult("butterfly", 40.5, 0.75, 1.25))
    assert ValidationResult("ntire", 4, images).table().splitlines() == [
        "image      PSNR dB    SSIM  seconds",
        "a          30.2500  0.8750    0.500",
        "butterfly  40.5000  0.7500    1.250",
        "-----------------------------------",
        "mean       35.3750  0.8125    0.875",
    ]
