"""The time until ``fmen --help`` has answered, against ``python -c "import torch"``.

    python tools/bench/startup.py

Every timing starts a new process, as a user does, and waits for its end. The files have been read before, so that they
come from the system's cache on either side.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from measure import Comparison, Report, in_turns, options

PYTHON = sys.executable
FMEN = Path(PYTHON).with_name("fmen")  # what pip installs beside the interpreter


def ours() -> list[str]:
    """The command that is measured; where no script is installed, the module."""
    return [str(FMEN), "--help"] if FMEN.is_file() else [PYTHON, "-m", "fmen", "--help"]


def start(command: Sequence[str]) -> str:
    """Run a command to its end; what it printed.

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
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: start(ours()),
        "theirs": lambda: start([PYTHON, "-c", against]),
        "interpreter": lambda: start([PYTHON, "-c", "pass"]),
    }
    times = [in_turns(sides, rounds=rounds, warmup=1) for _ in range(runs)]
    report.comparisons.append(
        Comparison(
            "fmen --help",
            f'python -c "{against}"',
            "s",
            [time["ours"] for time in times],
            [time["theirs"] for time in times],
            target=0.25,
            goal="at most",
        )
    )
    report.facts["seconds that starting Python alone takes"] = round(median(time["interpreter"] for time in times), 4)
    return report


def main() -> None:
    """The command line."""
    chosen = options(__doc__)
    report = run(chosen.runs)
    report.show()
    report.write(chosen.json)


if __name__ == "__main__":
    main()
