"""Progress of a run: a bar or lines on standard error for people, metrics.jsonl and TensorBoard for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tqdm import tqdm

from fmen.training.checkpoint import State
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.stages import Stage

SECONDS_BETWEEN_LINES = 5
"""The shortest time between two lines on standard error; a validation is always printed."""


class Clock:
    """The training time of a run, which includes the time before its checkpoint."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.started = time.perf_counter() - state.seconds
        self.since, self.since_step = time.perf_counter(), state.step

    def read(self) -> None:
        """Update ``state.seconds``."""
        self.state.seconds = time.perf_counter() - self.started

    def rate(self) -> float:
        """Return training steps per second since the last call."""
        now, step = time.perf_counter(), self.state.step
        rate = (step - self.since_step) / (now - self.since)
        self.since, self.since_step = now, step
        return round(rate, 3)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the block's time from the rate."""
        begun = time.perf_counter()
        yield
        self.since += time.perf_counter() - begun


class Logger:
    """Writes the metrics of a run.

    Args:
        run: The folder with ``metrics.jsonl`` and TensorBoard's files.
        recipe: Number of steps, and whether to write for TensorBoard.
        step: Steps done before. TensorBoard discards later points of an earlier process, which this run repeats.
        silent: Write nothing, for all processes but the first.
    """

    def __init__(self, run: Run, recipe: Recipe, *, step: int, silent: bool = False) -> None:
        self.run, self.recipe, self.silent = run, recipe, silent
        self.board = _open_board(run, step) if recipe.tensorboard and not silent else None
        self.bar: tqdm[Any] | None = None
        if not silent and sys.stderr.isatty():
            self.bar = tqdm(total=recipe.steps, initial=step, unit="step", dynamic_ncols=True, smoothing=0.05)
        self.shown: dict[str, str] = {}
        self.last_line = time.monotonic()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()

    def tick(self) -> None:
        """Advance the bar by one step."""
        if self.bar is not None:
            self.bar.update()

    def record(self, record: dict[str, float], stage: Stage) -> None:
        """Write one line of metrics: ``step`` and the values measured there, and the stage of a run with stages."""
        if self.silent:
            return
        place = ""
        if stage.count > 1:
            record = record | {"stage": stage.number}
            place = f"stage {stage.number}/{stage.count}  "
        self.run.log(record)
        for name, value in record.items():
            if self.board is not None and name != "step":
                self.board.add_scalar(name, value, record["step"])
        formats = {"loss": "loss {:.3f}", "lr": "lr {:.1e}", "steps_per_second": "{:.2f} steps/s", "psnr": "{:.2f} dB"}
        texts = {name: form.format(record[name]) for name, form in formats.items() if name in record}
        self.shown |= texts
        if self.bar is not None:  # The bar shows its own rate.
            self.bar.set_description_str(place.rstrip(), refresh=False)
            self.bar.set_postfix_str(", ".join(text for text in self.shown.values() if not text.endswith("/s")))
        elif "psnr" in record or time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            line = place + "  ".join([f"step {record['step']:>7}/{self.recipe.steps}", *texts.values()])
            print(line, file=sys.stderr, flush=True)


def _open_board(run: Run, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.folder / "tensorboard"), purge_step=step + 1)
