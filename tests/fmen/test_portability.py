"""Windows and macOS lack modules, functions and files that Linux has; no command needs them to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import builtins, importlib, io, os, pathlib, pkgutil, signal, sys

PACKAGES = ("fmen_core", "fmen_data", "fmen_eval", "fmen")
UNIX_MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
UNIX_FUNCTIONS = ("fork", "forkpty", "getloadavg", "getuid", "geteuid", "killpg", "nice", "register_at_fork",
                  "sched_getaffinity", "sched_setaffinity", "setsid", "sysconf", "uname")
UNIX_SIGNALS = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pthread_sigmask",
                "setitimer", "siginterrupt", "sigwait")


def import_all():
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith(("__main__", "spandrel")):  # spandrel is an extra
                importlib.import_module(module.name)


import_all()  # PyTorch and others choose by the platform themselves; they are imported before anything is hidden.
for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
    del sys.modules[name]

sys.modules.update(dict.fromkeys(UNIX_MODULES))
for module, names in ((os, UNIX_FUNCTIONS), (signal, UNIX_SIGNALS)):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def without_proc(function, answer):
    def replacement(path, *arguments, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc", "/sys/fs/cgroup")):
            if answer is None:
                raise FileNotFoundError(path)
            return answer
        return function(path, *arguments, **options)
    return replacement


builtins.open = io.open = without_proc(io.open, None)
for name in ("exists", "is_file", "is_dir"):
    setattr(pathlib.Path, name, without_proc(getattr(pathlib.Path, name), False))

import_all()
"""
"""Imports every module of the four packages as on a system without what Linux alone has."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ``fmen`` prints on such a system. One process for all commands: importing everything takes seconds."""
    commands = (["--help"], ["train", "--help"], ["submit", "check", "--help"], ["models"], ["doctor"])
    calls = "".join(f"app({command}, standalone_mode=False)\n" for command in commands)
    return run(f"{PROGRAM}\nfrom fmen.cli.main import app\n{calls}", tmp_path_factory.mktemp("work"))


def run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_and_every_help_is_shown(output: str) -> None:
    assert output.count("Usage:") == 3


def test_the_networks_are_listed(output: str) -> None:
    assert "\nfmen-s " in output and "\nspan " in output


def test_the_doctor_names_a_processor_and_free_memory_without_proc(output: str) -> None:
    lines = [line.split(maxsplit=2) for line in output.splitlines()]
    found = {line[1]: line[2] for line in lines if len(line) == 3 and line[0] in ("ok", "--")}
    assert "cores:" in found["cpu"]
    assert found["memory"] == "2.1 GB free", "the assumption where the system does not tell"
    assert found["bf16"].startswith("not supported")


def test_a_strangers_code_runs_where_its_resources_cannot_be_limited(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("print('hello')")
    program = """
import sys
sys.modules["resource"] = None
from pathlib import Path
from fmen.submission.sandbox import run_fresh
done = run_fresh(["hello.py"], folder=Path.cwd(), threads=1, cuda=False, readable=[])
print(done.stdout or done.stderr)
"""
    assert run(program, tmp_path).strip() == "hello"
