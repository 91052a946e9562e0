"""Run a script as a stranger would who has torch, numpy and OpenCV, but none of our packages.

``run_isolated`` starts this very file in a fresh process, as ``python -I isolated.py WRITABLE SCRIPT [ARGUMENT]...``.
There the script's own folder is importable and the packages of this project are not; files can be written under
WRITABLE alone; network connections and new processes are refused. That stops accidents and careless code; against a
determined attacker it is no wall.
"""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

OURS = ("fmen", "fmen_core", "fmen_data", "fmen_eval")
_FORBIDDEN = frozenset(
    [
        *("os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.startfile"),
        *("os.system", "pty.spawn", "subprocess.Popen"),
        *("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto"),
    ]
)
_CHANGES = frozenset(
    ["os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"]
)
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def run_isolated(
    script: Path, arguments: Sequence[str], *, writable: Path, threads: int, cuda: bool, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in a fresh process that cannot import our packages.

    Args:
        script: A Python file; its folder is put on the import path.
        arguments: Its command line.
        writable: The folder tree that the process may write to.
        threads: As in ``run_fresh``.
        cuda: As in ``run_fresh``.
        timeout: As in ``run_fresh``.

    Raises:
        subprocess.TimeoutExpired: It took longer.
    """
    program = [str(Path(__file__).resolve()), str(writable), str(script), *arguments]
    return run_fresh(program, folder=writable, threads=threads, cuda=cuda, timeout=timeout)


def run_fresh(
    program: Sequence[str], *, folder: Path, threads: int, cuda: bool, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python file in a fresh process that ignores the user's environment (``python -I``).

    Args:
        program: The file and its arguments.
        folder: Its working folder.
        threads: Threads for the arithmetic; with as many as here, the CPU computes the same floats as here.
        cuda: Whether it may see a GPU.
        timeout: Seconds after which it is killed.

    Raises:
        subprocess.TimeoutExpired: It took longer.
    """
    environment = dict(os.environ) | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if not cuda:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-I", *program]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


class _Blocker(MetaPathFinder):
    """Finds nothing, and forbids what is ours."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Refuse ``name`` if it is one of ours; otherwise let the other finders look."""
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"{name} is not part of the package", name=name)


def hide_our_packages() -> None:
    """Make every import of one of our packages fail from here on, and prove it."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Blocker())
    for name in OURS:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"isolated: {name} can still be imported")


def guard(writable: Path) -> None:
    """Refuse network connections, new processes, and changes to files outside ``writable``."""
    root = str(writable.resolve())

    def inside(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a mode, or a file descriptor that was judged when it was opened
        real = os.path.realpath(os.fsdecode(path))
        return real == root or real.startswith(root + os.sep) or real == os.devnull

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            raise PermissionError(f"the package's code asks for {event}, which is not allowed here")
        if event == "open":
            path, mode, flags = arguments
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITE_FLAGS)
            if writes and not inside(path):
                raise PermissionError(f"the package's code writes to {path!r}, outside its own folder")
        elif event in _CHANGES and not all(map(inside, arguments)):
            raise PermissionError(f"the package's code changes {arguments[0]!r}, outside its own folder")

    sys.addaudithook(hook)


def main() -> None:
    """Hide, guard, run."""
    writable, script, *arguments = sys.argv[1:]
    sys.dont_write_bytecode = True
    for name in ("numpy", "cv2", "torch"):  # while they may still look around on this machine
        importlib.import_module(name)
    hide_our_packages()
    guard(Path(writable))
    sys.path.insert(0, str(Path(script).resolve().parent))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
