"""Remote files through fsspec's file system in memory. Skipped where pyarrow is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

import cv2
import numpy as np
import pytest

from fmen.upscaling import storage
from fmen_data import DataError

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'fmen[ray]'")
fsspec = pytest.importorskip("fsspec")

Command = Callable[..., tuple[str, str]]


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    """The files of the file system in memory, by name."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system.store
    system.store.clear()


def image(level: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((8, 9, 3), level, np.uint8))[1].tobytes())


@pytest.mark.usefixtures("memory")
def test_files_are_written_read_and_found() -> None:
    for name in ("in/b.png", "in/sub/a c#.png", "in/sub/.hidden.png"):
        storage.write(f"memory://{name}", image(7))
    assert storage.read("memory://in/sub/a c#.png") == image(7)
    found = list(storage.walk("memory://in"))
    assert [(uri, relative) for uri, relative, _ in found] == [
        ("memory://in/b.png", PurePosixPath("b.png")),
        ("memory://in/sub/.hidden.png", PurePosixPath("sub/.hidden.png")),
        ("memory://in/sub/a c#.png", PurePosixPath("sub/a c#.png")),
    ]
    assert found[0][2][0] == len(image(7)) and found[0][2][1] > 10**18
    assert list(storage.names_in("memory://in")) == ["b.png"]
    assert storage.names_in("memory://nowhere") == {}
    assert [relative for _, relative, _ in storage.walk("memory://in/b.png")] == [PurePosixPath("b.png")]


@pytest.mark.usefixtures("memory")
def test_failures_are_a_line_with_the_name() -> None:
    with pytest.raises(DataError, match="memory://none: no such file or folder"):
        list(storage.walk("memory://none"))
    with pytest.raises(DataError, match=r"cannot read memory://none.png: .*; check the name"):
        storage.read("memory://none.png")
    with pytest.raises(DataError, match=r"cannot read wrong://bucket/a.png: .*wrong"):
        storage.read("wrong://bucket/a.png")


def test_both_ends_of_a_run_may_be_remote(upscale: Command, memory: dict[str, bytes]) -> None:
    for name in ("in/a.png", "in/sub/b.png", "in/.c.png"):
        storage.write(f"memory://{name}", image(100))
    stdout, _ = upscale("memory://in", "-o", "memory://out", "--scale", "2")
    assert "memory://in/sub/b.png (9x8) -> memory://out/sub/b.png (18x16)" in stdout
    assert {"/out/a.png", "/out/sub/b.png"} == {name for name in memory if name.startswith("/out") and "/." not in name}
    assert storage.read("memory://out/a.png").startswith(b"\x89PNG")
    assert "2 of 2 exist already" in upscale("memory://in/", "-o", "memory://out/", "--scale", "2")[0]
    storage.write("memory://in/a.png", image(200))
    stdout, _ = upscale("memory://in", "-o", "memory://out", "--scale", "2")
    assert "1 of 2 exist already" in stdout and "memory://in/a.png" in stdout
    upscale("memory://in/a.png", "-o", "one.png", "--scale", "2")
    assert abs(int(cv2.imread("one.png")[0, 0, 0]) - 200) <= 1


def test_file_uris_are_local_paths(upscale: Command) -> None:
    from pathlib import Path

    Path("a b.png").write_bytes(image(3))
    upscale(f"file://{Path.cwd()}/a%20b.png", "-o", f"file://{Path.cwd()}/out.png", "--scale", "2")
    assert Path("out.png").is_file()
