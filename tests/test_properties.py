"""Properties that hold for every input; ``FMEN_EXAMPLES`` sets the number of inputs that hypothesis tries."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fmen.training.recipe import Recipe, RecipeError, dump_recipe, load_recipe, make_recipe
from fmen_core import create_model, expand, load, reparameterize, save
from fmen_core.blocks.by_name import BLOCKS
from fmen_data import PatchCache, PatchSampler, imresize, open_dataset, prepare_cache, write_image

EXAMPLES = int(os.environ.get("FMEN_EXAMPLES", "15"))
some = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FMEN_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    """The slow, exact resampling that ``test_bicubic.py`` compares with."""
    path = Path(__file__).parent / "fmen_data/test_bicubic.py"
    spec = importlib.util.spec_from_file_location("bicubic_oracle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@some
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    scale=st.one_of(st.sampled_from([1 / 4, 1 / 3, 1 / 2, 2, 3, 4]), st.floats(0.2, 4.5)),
)
def test_imresize_equals_the_slow_one(oracle: ModuleType, seed: int, height: int, width: int, scale: float) -> None:
    image = noise(seed, height, width)
    np.testing.assert_array_equal(imresize(image, scale), oracle.slow_imresize(image, scale))


@some
@given(
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**40),
    patch=st.integers(1, 6),
    batch=st.integers(1, 6),
    world=st.integers(1, 4),
    scale=st.sampled_from([2, 3, 4]),
)
def test_patches_are_aligned_and_do_not_depend_on_the_processes(
    seed: int, step: int, patch: int, batch: int, world: int, scale: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        rows, columns = np.mgrid[0:10, 0:9]
        lr = np.stack([rows * 16, columns * 16, rows * 0], 2).astype(np.uint8)
        write_image(Path(name, "HR/a.png"), lr.repeat(scale, 0).repeat(scale, 1))
        write_image(Path(name, f"LR_bicubic/X{scale}/ax{scale}.png"), lr)
        cache = PatchCache(prepare_cache(open_dataset(name, scale=scale), Path(name, "c.h5"), progress=False))
        sampler = PatchSampler([cache], patch=patch, batch=batch * world, seed=seed)
        small, large = sampler.batch(step)
        assert torch.equal(small.repeat_interleave(scale, 2).repeat_interleave(scale, 3), large)
        for rank in range(world):
            part, _ = sampler.batch(step, rank=rank, world_size=world)
            assert torch.equal(part, small[rank::world])
        cache.close()


def randomise(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.2, 0.8, generator=generator)
                tensor.mul_(torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1 if tensor.ndim > 1 else 1)
    return model.double().eval()


@some
@given(
    seed=st.integers(0, 2**32),
    block=st.sampled_from(sorted(BLOCKS)),
    channels=st.integers(1, 6),
    ratio=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_every_block_equals_its_merged_convolution_border_included(
    seed: int, block: str, channels: int, ratio: int, height: int, width: int
) -> None:
    module = randomise(BLOCKS[block](channels, ratio), seed)
    x = torch.randn(1, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expanded = module.expanded(x)  # type: ignore[operator]
        merged = module.fused()(x)  # type: ignore[operator]
    torch.testing.assert_close(merged, expanded, rtol=1e-12, atol=1e-12 * max(1.0, float(expanded.abs().max())))


sizes = st.fixed_dictionaries(
    {
        "scale": st.sampled_from([2, 3, 4]),
        "n_feats": st.integers(2, 8),
        "mid_feats": st.integers(5, 8),
        "down_blocks": st.integers(1, 3),
    }
).flatmap(
    lambda chosen: st.tuples(*[st.integers(1, 2)] * (chosen["down_blocks"] + 1)).map(
        lambda up: {**chosen, "up_blocks": up}
    )
)


@some
@given(arguments=sizes, seed=st.integers(0, 2**32))
def test_an_fmen_of_any_size_is_recognised_merged_and_expanded(arguments: dict[str, object], seed: int) -> None:
    model = create_model("fmen", form="training", **arguments).eval()
    inference = reparameterize(model)
    x = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(seed)) * 255
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        for form in (model, inference, expand(inference)):
            save(form, Path(name, "a.safetensors"))
            loaded = load(Path(name, "a.safetensors"))
            torch.testing.assert_close(loaded(x), model(x), rtol=1e-3, atol=0.05)
            assert loaded.sizes == form.sizes


@some
@given(
    keys=st.dictionaries(
        st.sampled_from(sorted(Recipe.model_fields)),
        st.one_of(st.integers(-5, 10**6), st.floats(allow_nan=True), st.text(max_size=5), st.booleans(), st.none()),
        max_size=5,
    )
)
def test_a_recipe_is_refused_in_one_line_or_survives_a_round_trip(keys: dict[str, object]) -> None:
    try:
        recipe = make_recipe({"steps": 10, "learning_rate": 1e-3, **keys})
    except RecipeError as error:
        assert "\n" not in str(error)
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "recipe.yaml")
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe
