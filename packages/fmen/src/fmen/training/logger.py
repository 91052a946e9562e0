"""What a run says while it goes on: a bar or plain lines for people, metrics.jsonl and TensorBoard for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tqdm import tqdm

from fmen.training.checkpoint import State
from fmen.training.recipe import Recipe, RecipeError
from fmen.training.run_folder import Run


class Clock:
    """How long a run takes: it goes on where the checkpoint stopped."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.started = time.perf_counter() - state.seconds
        self.since, self.since_step = time.perf_counter(), state.step

    def read(self) -> None:
        """Bring ``state.seconds`` up to date."""
        self.state.seconds = time.perf_counter() - self.started

    def rate(self) -> float:
        """Training steps per second since the last call."""
        now, step = time.perf_counter(), self.state.step
        rate = (step - self.since_step) / (now - self.since)
        self.since, self.since_step = now, step
        return round(rate, 3)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is no training time."""
        begun = time.perf_counter()
        yield
        self.since += time.perf_counter() - begun


class Journal:
    """Follows the run's first process; the others keep silent.

    Args:
        run: Where ``metrics.jsonl`` lies.
        recipe: How many steps there are, and whether TensorBoard is wanted.
        step: Where the run starts.
        silent: Write nothing at all.

    Raises:
        RecipeError: TensorBoard is wanted and not installed.
    """

    def __init__(self, run: Run, recipe: Recipe, *, step: int, silent: bool = False) -> None:
        self.run, self.recipe, self.silent = run, recipe, silent
        self.board = _open_board(run) if recipe.tensorboard and not silent else None
        self.bar: tqdm[Any] | None = None
        if not silent and sys.stderr.isatty():
            self.bar = tqdm(total=recipe.steps, initial=step, unit="step", dynamic_ncols=True, smoothing=0.05)
        self.shown: dict[str, str] = {}
        self.last_line = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()

    def tick(self) -> None:
        """One more step is done."""
        if self.bar is not None:
            self.bar.update()

    def record(self, record: dict[str, float]) -> None:
        """Write one line of metrics; ``record`` has ``step`` and what was measured there."""
        if self.silent:
            return
        self.run.log(record)
        for name, value in record.items():
            if self.board is not None and name != "step":
                self.board.add_scalar(name, value, record["step"])
        formats = {"loss": "loss {:.3f}", "lr": "lr {:.1e}", "steps_per_second": "{:.2f} steps/s", "psnr": "{:.2f} dB"}
        news = {name: form.format(record[name]) for name, form in formats.items() if name in record}
        self.shown |= news
        if self.bar is not None:  # it has a rate of its own
            self.bar.set_postfix_str(", ".join(text for text in self.shown.values() if not text.endswith("/s")))
        elif "psnr" in record or time.monotonic() - self.last_line >= 5:  # a log file is no place for a line a second
            self.last_line = time.monotonic()
            line = "  ".join([f"step {record['step']:>7}/{self.recipe.steps}", *news.values()])
            print(line, file=sys.stderr, flush=True)


def _open_board(run: Run) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RecipeError(
            "tensorboard: true, but TensorBoard is not installed: pip install 'fmen[tensorboard]', or leave the key out"
        ) from None
    return SummaryWriter(str(run.folder / "tensorboard"))
