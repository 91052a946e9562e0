"""Stopping a run after its current step when a signal arrives."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

ANSWER = "\nstopping after this step; another Ctrl-C stops at once\n"


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets ``signal``; a second one has its usual effect.

    Args:
        silent: Do not answer the signal on standard error.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def number(self) -> int:
        """Return the signal's number, or 0."""
        return self.signal or 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there.
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        if not self.silent and sys.__stderr__:  # Not through Python's buffer: the signal may have interrupted a print.
            os.write(sys.__stderr__.fileno(), ANSWER.encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
