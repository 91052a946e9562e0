"""Which weights ``fmen upscale`` uses: those for clean images, those for degraded ones, or a blend."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.upscaling.condition import degradation_of, jpeg_quality, noise_sigma
from fmen.upscaling.photo import Photo, read_photo
from fmen_core import FMENTraining, pretrained, reparameterize, save
from fmen_data import imresize, read_image
from fmen_data.sample import sample_images

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def photo() -> Pixels:
    """A photograph without noise, 112x160 pixels, with its texture."""
    return imresize(read_image(sample_images("val")[0]), 0.5)[:112, :160]


def noisy(pixels: Pixels, sigma: float, *, gray: bool = False) -> Pixels:
    shape = (*pixels.shape[:2], 1) if gray else pixels.shape
    noise = np.random.default_rng(0).normal(0, sigma, shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Pixels) -> Path:
    """A working folder with a clean, a noisy and a compressed image; small networks are bundled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "BUNDLED", tmp_path / "bundled")
    torch.set_num_threads(1)
    (tmp_path / "bundled").mkdir()
    for seed, name in enumerate(("fmen-s_x2", "fmen-s_x3", "fmen-s_x4", "fmen-s_x4_real")):
        torch.manual_seed(seed)
        scale = int(name[8])
        model = FMENTraining(scale=scale, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
        with torch.no_grad():
            model.tail[0].bias += 128
        save(reparameterize(model), tmp_path / "bundled" / f"{name}.safetensors")
    small = photo[:32, :40]
    Image.fromarray(small).save("clean.png")
    Image.fromarray(noisy(small, 9)).save("noisy.png")
    Path("compressed.jpg").write_bytes(jpeg(small, 60))
    return tmp_path


def fmen(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["upscale", *arguments, "--device", "cpu", "--precision", "fp32"])
    assert result.exit_code == status, result.output
    return result.output


def test_noisy_and_compressed_images_get_the_weights_for_them(work: Path) -> None:
    (work / "in").mkdir()
    for name in ("clean.png", "noisy.png", "compressed.jpg"):
        (work / name).rename(work / "in" / name)
    with Image.open(work / "in" / "clean.png") as image:
        (work / "in" / "light.jpg").write_bytes(jpeg(np.asarray(image), 93))
    said = fmen("in", "-o", "auto")
    assert "weights fmen-s_x4 (bundled): fmen x4, fp32 on cpu" in said
    assert "weights fmen-s_x4_real (bundled): for noisy images and JPEGs of quality below 90; blended by half" in said
    assert "in/clean.png (40x32) -> auto/clean.png (160x128)\n" in said
    assert "-> auto/compressed.png (160x128), weights real: JPEG of quality 60" in said
    assert "-> auto/noisy.png (160x128), weights real: noise of about 9 gray levels" in said
    assert "-> auto/light.png (160x128), weights half real: JPEG of quality 93" in said
    for weights in ("clean", "real"):
        assert "real:" not in fmen("in", "-o", weights, "--weights", weights)
    assert "real:" not in fmen("in", "-o", "half", "--denoise", "0.5")
    for name, used, other in (
        *(("clean", "clean", "real"), ("noisy", "real", "clean"), ("compressed", "real", "clean")),
        *(("light", "half", "clean"), ("light", "half", "real")),
    ):
        found = (work / "auto" / f"{name}.png").read_bytes()
        assert found == (work / used / f"{name}.png").read_bytes()
        assert found != (work / other / f"{name}.png").read_bytes()


@pytest.mark.parametrize("size", [["--scale", "2"], ["--outscale", "2"], ["--width", "80"]])
@pytest.mark.parametrize("weights", [[], ["--weights", "real"], ["--weights", "auto"], ["--denoise", "0.5"]])
def test_the_weights_for_degraded_images_reach_every_size(work: Path, size: list[str], weights: list[str]) -> None:
    assert "(80x64)" in fmen("compressed.jpg", "-o", "big.png", *size, *weights)
    with Image.open("big.png") as image:
        assert image.size == (80, 64)


def test_the_weights_of_a_run_precede_and_auto_chooses_the_bundled_ones(work: Path) -> None:
    run = work / "runs" / "r"
    run.mkdir(parents=True)
    (run / "best.safetensors").write_bytes((work / "bundled" / "fmen-s_x4.safetensors").read_bytes())
    (run / "recipe.yaml").write_text("")
    assert "weights runs/r/best.safetensors" in (said := fmen("compressed.jpg", "-o", "big.png"))
    assert "real" not in said
    said = fmen("compressed.jpg", "-o", "big.png", "--weights", "auto")
    assert "weights fmen-s_x4 (bundled)" in said and "weights real: JPEG of quality 60" in said


def test_denoise_blends_from_the_clean_weights_to_the_others(work: Path) -> None:
    def result(*options: str) -> npt.NDArray[np.float64]:
        said = fmen("noisy.png", "-o", "big.png", *options)
        assert "exists already" not in said
        with Image.open("big.png") as image:
            return np.asarray(image, np.float64)

    clean, real = result("--weights", "clean"), result("--weights", "real")
    assert np.array_equal(result("--denoise", "0"), clean) and np.array_equal(result("--denoise", "1"), real)
    half = result("--denoise", "0.5")
    assert not np.array_equal(half, clean) and not np.array_equal(half, real)
    said = fmen("noisy.png", "-o", "big.png", "--denoise", "0.25")
    assert "weights 0.75 of fmen-s_x4 (bundled) and 0.25 of fmen-s_x4_real (bundled): fmen x4" in said
    assert "exists already" in fmen("noisy.png", "-o", "big.png", "--denoise", "0.25")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--denoise", "0.5", "--weights", "real"], "--denoise blends two bundled networks; leave --weights and"),
        (["--denoise", "1.5"], "Input should be less than or equal to 1"),
        (["--weights", "real", "--model", "imdn"], "--weights real is of fmen-s; leave --model out"),
    ],
)
def test_contradicting_options_are_refused(work: Path, options: list[str], said: str) -> None:
    assert said in " ".join(fmen("clean.png", "-o", "big.png", *options, status=2).replace("│", "").split())


def test_without_weights_for_degraded_images_every_image_gets_the_others(work: Path) -> None:
    (work / "bundled" / "fmen-s_x4_real.safetensors").unlink()
    assert "real" not in fmen("compressed.jpg", "-o", "big.png")
    said = fmen("compressed.jpg", "-o", "big.png", "--weights", "real", status=2)
    assert "the package has no weights fmen-s_x4_real; bundled are fmen-s_x2, fmen-s_x3, fmen-s_x4" in said


@pytest.mark.parametrize("quality", [20, 30, 50, 75, 90, 95, 98])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(photo: Pixels, quality: int) -> None:
    table = read_photo(jpeg(photo, quality), "x.jpg").luma_table
    assert table is not None and jpeg_quality(table) == pytest.approx(quality, abs=1)


@pytest.mark.parametrize(("quality", "share"), [(50, 1), (89, 1), (90, 0.5), (97, 0.5), (98, None)])
def test_the_share_of_the_weights_follows_from_the_quality_of_a_jpeg(
    photo: Pixels, quality: int, share: float | None
) -> None:
    found = degradation_of(read_photo(jpeg(photo, quality), "x.jpg"))
    assert found == (None if share is None else (f"JPEG of quality {quality}", share))


@pytest.mark.parametrize("sigma", [3, 8, 15])
def test_noise_is_estimated_to_within_a_fifth(photo: Pixels, sigma: int) -> None:
    colour, green = noise_sigma(noisy(photo, sigma))
    assert colour == pytest.approx(sigma, rel=0.2) and green > 0.8 * sigma
    assert noise_sigma(noisy(photo, sigma).astype(np.uint16) * 257)[0] == pytest.approx(colour, rel=1e-3)
    assert noise_sigma(noisy(photo, sigma, gray=True))[0] < 1


def test_gray_noise_is_found_and_texture_is_not_taken_for_noise(photo: Pixels) -> None:
    assert degradation_of(Photo(photo)) is None
    assert degradation_of(Photo(noisy(photo, 12, gray=True))) == ("noise of about 13 gray levels", 1)
    assert degradation_of(Photo(noisy(photo, 1))) is None


def test_noise_is_measured_in_a_part_of_a_large_photograph(photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = noise_sigma(noisy(photo, 8))
    monkeypatch.setattr("fmen.upscaling.condition.MEASURED_PIXELS", photo.size // 12)
    part = noise_sigma(noisy(photo, 8))
    assert part != whole and part == pytest.approx(whole, rel=0.2)


@pytest.mark.parametrize("shape", [(7, 90), (8, 8), (1, 1)])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_small_and_flat_images_have_no_noise(shape: tuple[int, int], level: int) -> None:
    assert noise_sigma(np.full((*shape, 3), level, np.uint8)) == (0.0, 0.0)
