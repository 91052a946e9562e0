"""The control groups of this process, with which a container limits its memory and its cores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def control_groups(
    controller: str, *, proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[int, Path]]:
    """Yield each group of this process that may limit what a controller controls: its version, 1 or 2, and its folder.

    Args:
        controller: ``"memory"`` or ``"cpu"``.
        proc: Where ``/proc`` is mounted.
        mount: Where the control groups are mounted.
    """
    membership = proc / "self" / "cgroup"
    groups = membership.read_text().splitlines() if membership.is_file() else ["0::/", f"1:{controller}:/"]
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        version, root = (1, mount / controller) if controllers else (2, mount)
        # A limit of an outer group holds for the inner ones. In a container, the path may be that of the host.
        inner = root / path.lstrip("/")
        for group in {root, *(folder for folder in (inner, *inner.parents) if root in folder.parents)}:
            yield version, group
