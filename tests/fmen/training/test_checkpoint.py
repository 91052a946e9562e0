"""Checkpoints on a disk that damages them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmen.sources.runs import RunError
from fmen.training.checkpoint import is_intact, with_checksum
from fmen.training.loop import train
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run, newest_run, resumed_recipe

RecipeMaker = Callable[..., Recipe]


def flip(path: Path, place: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << (place % 8)
    path.write_bytes(content)


def places(path: Path) -> dict[str, int]:
    """Name positions in a checkpoint: every kind of record, pixels of every part of the state, and the checksum."""
    size = path.stat().st_size
    found = {"first": 0, "signature of the end": size - 38, "length of the checksum": size - 17}
    found |= {"checksum": size - 16, "last": size - 1} | {f"{part}/16": size * part // 16 for part in range(1, 16)}
    with zipfile.ZipFile(path) as archive:
        return found | {entry.filename: entry.header_offset + 14 for entry in archive.infolist()[::20]}


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1, ema=0.9), run)
    content = run.resume.read_bytes()
    assert is_intact(content)
    found = places(run.resume)
    assert len(found) >= 24
    for name, place in found.items():
        flip(run.resume, place)
        assert not is_intact(run.resume.read_bytes()), name
        run.resume.write_bytes(content)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny: RecipeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    recipe = tiny(steps=5, save_every=1, log_every=1, keep_checkpoints=3)
    train(recipe, whole)
    train(recipe.model_copy(update={"steps": 4, "schedule_steps": 5}), run)
    flip(run.resume, run.resume.stat().st_size // 2)
    capsys.readouterr()
    train(resumed_recipe(run, {"steps": 5}), run, resume=True)
    assert f"note: {run.resume} is damaged (wrong checksum); continuing from the one before" in capsys.readouterr().err
    assert [record["step"] for record in run.records()] == [1, 2, 3, 4, 5]
    found, expected = (torch.load(each.resume, weights_only=True)["model"] for each in (run, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (run.folder / "resume.damaged").is_file()
    assert [torch.load(path, weights_only=True)["step"] for path in run.checkpoints()] == [5, 4, 3]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_in_one_line(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=2, save_every=1), run)
    for path in run.checkpoints():
        flip(path, 1000)
    with pytest.raises(RunError, match=r"resume-1\.pt: damaged \(wrong checksum\), and none is older") as caught:
        train(run.recipe(), run, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_checkpoints_stay_as_the_recipe_says(tiny: RecipeMaker, tmp_path: Path, keep: int) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=5, save_every=1, keep_checkpoints=keep), run)
    assert sorted(run.folder.glob("resume*")) == sorted(run.checkpoints())
    assert [torch.load(path, weights_only=True)["step"] for path in run.checkpoints()] == [5, 4, 3][:keep]
    fewer = resumed_recipe(run, {"steps": 6, "schedule_steps": 6, "keep_checkpoints": 1})
    train(fewer, run, resume=True)
    assert list(run.folder.glob("resume*")) == [run.resume]


def test_a_run_is_found_and_resumed_that_was_killed_between_two_checkpoints(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "one")
    train(tiny(steps=2, save_every=1), run)
    run.resume.unlink()
    assert newest_run(tmp_path / "runs").folder == run.folder
    assert train(run.recipe(), run, resume=True).step == 2
    assert run.resume.is_file()


def test_a_checkpoint_without_a_checksum_is_read(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    torch.save(torch.load(run.resume, weights_only=True), run.resume)
    assert not zipfile.ZipFile(run.resume).comment
    assert train(resumed_recipe(run, {"steps": 2, "schedule_steps": 2}), run, resume=True).step == 2
    assert is_intact(with_checksum(b"PK\5\6" + bytes(18)))
