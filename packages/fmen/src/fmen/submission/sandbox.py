"""Run a script as on a machine where only torch, numpy, OpenCV and what they require are installed.

``run_isolated`` starts this file in a new process, as ``python -I sandbox.py WRITABLE SCRIPT [ARGUMENT]...``. There the
script's folder can be imported, and no other package; files can be written under WRITABLE only; network connections and
new processes are refused. An audit hook enforces this. It stops accidents, not a determined attacker; bubblewrap stops
the latter, where it is installed.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import math
import os
import re
import runpy
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import IO, Any

PROJECT_PACKAGES = ("fmen", "fmen_core", "fmen_data", "fmen_eval")
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
LARGEST_FILE = 4 * 2**30
"""Largest file that a stranger's code can write, in bytes."""
OUTPUT_KEPT = 2**16
"""Bytes at the end of a process's output that are read."""
PR_SET_PDEATHSIG = 1
"""Of Linux's ``prctl``: the signal that a process gets when its parent dies."""
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def run_isolated(
    script: Path, arguments: Sequence[str], *, writable: Path, threads: int, cuda: bool, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in a new process that cannot import this project's packages.

    Args:
        script: A Python file; its folder is added to the import path.
        arguments: Its command line.
        writable: The folder that the process may write to.
        threads: As in ``run_fresh``.
        cuda: As in ``run_fresh``.
        timeout: As in ``run_fresh``.

    Raises:
        subprocess.TimeoutExpired: ``timeout`` has passed.
    """
    program = [str(Path(__file__).resolve()), str(writable), str(script), *arguments]
    return run_fresh(program, folder=writable, threads=threads, cuda=cuda, timeout=timeout)


def run_fresh(
    program: Sequence[str],
    *,
    folder: Path,
    threads: int,
    cuda: bool,
    timeout: float | None = None,
    readable: Sequence[Path] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a Python file in a new process, isolated from the user's environment (``python -I``).

    Args:
        program: The file and its arguments.
        folder: Its working folder.
        threads: Number of CPU threads; results are bitwise equal to those of this process only with as many threads.
        cuda: Whether GPUs are visible.
        timeout: Time limit in seconds.
        readable: If given, the code is a stranger's. CPU time, memory and file sizes are limited, except on Windows.
            With bubblewrap, the process sees only the system's libraries, Python, these folders (read-only) and
            ``folder``, and it has no network and an empty environment.

    Raises:
        subprocess.TimeoutExpired: ``timeout`` has passed.
    """
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if not cuda:
        own["CUDA_VISIBLE_DEVICES"] = ""
    command, environment = [sys.executable, "-I", *program], dict(os.environ) | own
    limits = None
    if readable is not None:
        if find_spec("resource"):  # Not on Windows.
            limits = partial(limit_resources, timeout, cuda)
        bubblewrap = find_bubblewrap()
        if bubblewrap:
            environment = own
            command = [bubblewrap, *walls(folder, readable, cuda), "--", *command]
    # The output goes to files: a pipe's would be in the memory of this process, without a limit.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, exit_on_sigterm():
        run = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=err,
            timeout=timeout,
            check=False,
            preexec_fn=limits,
        )
        return subprocess.CompletedProcess(command, run.returncode, end_of(out), end_of(err))


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into ``SystemExit``, upon which ``subprocess.run`` ends its process and folders are removed."""
    # Python allows handlers only in the main thread.
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_of(file: IO[bytes]) -> str:
    """Return the last 64 KiB of a file as text."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - OUTPUT_KEPT))
    return file.read().decode(errors="replace")


@cache
def find_bubblewrap() -> str | None:
    """Return the path of ``bwrap``; None if it is missing or if this system does not let it create namespaces."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    trial = subprocess.run([program, "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, check=False)
    return program if trial.returncode == 0 else None


def walls(folder: Path, readable: Sequence[Path], cuda: bool) -> list[str]:
    """Return the options of ``bwrap`` for a process that can write to ``folder`` only."""
    python = {Path(sys.prefix), Path(sys.base_prefix), *map(Path, site.getsitepackages())}
    system = map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"))
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    options += ["--tmpfs", "/tmp", "--setenv", "HOME", "/tmp"]
    for path in dict.fromkeys([*system, *sorted(python), *readable]):
        if path.exists():
            options += ["--ro-bind", str(path), str(path)]
    if cuda:
        for path in (*Path("/dev").glob("nvidia*"), Path("/sys")):
            options += ["--dev-bind", str(path), str(path)]
    return [*options, "--bind", str(folder), str(folder), "--chdir", str(folder)]


def limit_resources(timeout: float | None, cuda: bool) -> None:
    """Limit this process: 4 GiB per file, three quarters of the memory, and all CPUs for ``timeout`` seconds.

    On Linux, it ends with its parent.
    """
    import resource

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    limits = {resource.RLIMIT_FSIZE: LARGEST_FILE, resource.RLIMIT_CORE: 0}
    if timeout is not None:
        # Only a process that is left behind can use as much: the parent stops this one after the timeout.
        limits[resource.RLIMIT_CPU] = (math.ceil(timeout) + 1) * (os.cpu_count() or 1)
    if not cuda:  # CUDA reserves addresses for all memory of the machine.
        limits[resource.RLIMIT_AS] = memory
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


class _Blocker(MetaPathFinder):
    """An import finder that finds nothing and refuses packages.

    Args:
        allowed: The top-level names that can be imported; None for all but this project's packages.
    """

    def __init__(self, allowed: frozenset[str] | None) -> None:
        self.allowed = allowed

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Refuse ``name`` if it is not allowed; otherwise leave it to the other finders."""
        top = name.partition(".")[0]
        if top in PROJECT_PACKAGES or (self.allowed is not None and top not in self.allowed):
            raise ModuleNotFoundError(f"{name} is not part of the package", name=name)


def block_project_packages(allowed: frozenset[str] | None = None) -> None:
    """Make every later import of this project's packages fail, and verify it.

    Args:
        allowed: The top-level names that can still be imported; None for all others.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] in PROJECT_PACKAGES]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Blocker(allowed))
    for name in PROJECT_PACKAGES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"sandbox: {name} can still be imported")


def organisers_modules(script: Path) -> frozenset[str]:
    """Return the top-level names that a script of a package can import: its own folder's, and what PyTorch brings."""
    beside = {path.name.removesuffix(".py") for path in script.parent.iterdir()}
    loaded = {name.partition(".")[0] for name in sys.modules}
    return frozenset({*sys.stdlib_module_names, *beside, *loaded, *requirements("torch")})


def requirements(distribution: str) -> set[str]:
    """Return the names of the distributions that one requires, directly or not, as their packages are spelled."""
    found, left = set(), [distribution]
    while left:
        try:
            lines = importlib.metadata.requires(left.pop()) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        names = {re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line}
        left += [name for name in names if name.replace("-", "_").lower() not in found]
        found |= {name.replace("-", "_").lower() for name in names}
    return found


def guard(writable: Path) -> None:
    """Refuse network connections, new processes, and changes to files outside ``writable``."""
    root = str(writable.resolve())

    def inside(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a mode, or a file descriptor, checked when it was opened
        real = os.path.realpath(os.fsdecode(path))
        return real == root or real.startswith(root + os.sep) or real == os.devnull

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            raise PermissionError(f"the package's code uses {event}, which is not allowed here")
        if event == "open":
            path, mode, flags = arguments
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool(flags & _WRITE_FLAGS)
            if writes and not inside(path):
                raise PermissionError(f"the package's code writes to {path!r}, outside its own folder")
        elif event in _CHANGES and not all(map(inside, arguments)):
            raise PermissionError(f"the package's code changes {arguments[0]!r}, outside its own folder")

    sys.addaudithook(hook)


def main() -> None:
    """Block imports, guard the system, run the script."""
    writable, script, *arguments = sys.argv[1:]
    sys.dont_write_bytecode = True
    for name in ("numpy", "cv2", "torch"):  # before the guard, which they would violate
        importlib.import_module(name)
    block_project_packages(organisers_modules(Path(script)))
    guard(Path(writable))
    sys.path.insert(0, str(Path(script).resolve().parent))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
