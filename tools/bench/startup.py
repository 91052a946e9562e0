"""The time until ``fmen --help`` has answered, against ``python -c "import torch"``.

    python tools/bench/startup.py

Every timing starts a new process and waits for its end. The files are in the system's cache on both sides.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from statistics import median

from measure import Action, Report, in_turns, main


def start(*arguments: str) -> str:
    """Run Python and return its output.

    Raises:
        SystemExit: Its exit status is not 0.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout


def run(runs: int, rounds: int = 5, against: str = "import torch") -> Report:
    """Check and measure."""
    report = Report("startup")
    ours = partial(start, "-m", "fmen", "--help")
    report.checks["characters of help that fmen --help prints"] = len(ours())
    sides: dict[str, Action] = {
        "ours": ours,
        "theirs": partial(start, "-c", against),
        "interpreter": partial(start, "-c", "pass"),
    }
    times = [in_turns(sides, rounds=rounds) for _ in range(runs)]
    report.compare("fmen --help", f'python -c "{against}"', "s", times, ("ours", "theirs"), 0.25, "at most")
    report.facts["seconds that starting Python alone takes"] = round(median(time["interpreter"] for time in times), 4)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"rounds": 1, "against": "import json"})
