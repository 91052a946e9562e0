"""Damaged files of every kind are refused in one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("fuzz")


def test_a_few_hundred_damaged_files_cause_no_traceback(tool: ModuleType) -> None:
    summaries = tool.fuzz(15 * 21, seed=3, progress=False)
    assert len(summaries) == 21 and all(found.tries == 15 for found in summaries.values())
    assert {name: found.tracebacks for name, found in summaries.items() if found.tracebacks} == {}
    refused = sum(found.refused for found in summaries.values())
    assert refused > 150


def test_files_with_checksums_never_give_another_result(tool: ModuleType) -> None:
    names = ["png for training", "png to upscale", "cache", "safetensors", "pth", "checkpoint", "zip"]
    summaries = tool.fuzz(10 * len(names), seed=4, only=names, progress=False)
    assert {name: found.changed for name, found in summaries.items()} == dict.fromkeys(names, 0)


def test_every_way_of_damage_occurs(tool: ModuleType) -> None:
    content = bytes(range(1, 256)) * 4
    results = [tool.damage(content, random.Random(seed)) for seed in range(60)]
    assert all(result != content for result in results)
    assert any(content.startswith(result) and len(result) < len(content) for result in results)
    assert any(len(result) == len(content) and bytes(2) in result for result in results)
    assert any(len(result) > len(content) for result in results)


def test_a_bug_in_a_reader_is_reported(tool: ModuleType, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise tool.UserError("one\ntwo")

    summary = tool.Summary()
    bug = tool.Kind("bug", b"abc", "a.txt", lambda path: 1 / 0)
    tool.attempt(bug, b"ab", None, tmp_path, summary)
    lines = tool.Kind("lines", b"abc", "a.txt", refuse)
    tool.attempt(lines, b"ab", None, tmp_path, summary)
    assert "ZeroDivisionError" in summary.tracebacks[0] and "several lines" in summary.tracebacks[1]
    assert (summary.tries, summary.refused, summary.accepted) == (2, 1, 0)
