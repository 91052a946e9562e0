"""The time until ``fmen --help`` has answered, against ``python -c "import torch"``.

    python tools/bench/startup.py

Every timing starts a new process and waits for its end. The files are in the system's cache on both sides.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from measure import Action, Report, in_turns, main

PYTHON = sys.executable
FMEN = Path(PYTHON).with_name("fmen")  # what pip installs beside the interpreter


def ours() -> list[str]:
    """Return the measured command: the installed script, or the module."""
    return [str(FMEN), "--help"] if FMEN.is_file() else [PYTHON, "-m", "fmen", "--help"]


def start(command: Sequence[str]) -> str:
    """Run a command and return its output.

    Raises:
        SystemExit: Its exit status is not 0.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout


def run(runs: int, rounds: int = 5, against: str = "import torch") -> Report:
    """Check and measure."""
    report = Report("startup")
    text = start(ours())
    if "validate" not in text:
        raise SystemExit("fmen --help does not list its commands")
    report.checks["exit status of fmen --help"] = 0
    report.checks["characters of help that it prints"] = len(text)
    sides: dict[str, Action] = {
        "ours": lambda: start(ours()),
        "theirs": lambda: start([PYTHON, "-c", against]),
        "interpreter": lambda: start([PYTHON, "-c", "pass"]),
    }
    times = [in_turns(sides, rounds=rounds) for _ in range(runs)]
    report.compare("fmen --help", f'python -c "{against}"', "s", times, ("ours", "theirs"), 0.25, "at most")
    report.facts["seconds that starting Python alone takes"] = round(median(time["interpreter"] for time in times), 4)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"rounds": 1, "against": "import json"})
