"""Progress of a run: a bar or lines on standard error for people, metrics.jsonl and TensorBoard for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tqdm import tqdm

from fmen.training.boards import Image, open_boards
from fmen.training.checkpoint import State
from fmen.training.pace import Pace, in_words
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.stages import Stage, stages_of

SECONDS_BETWEEN_LINES = 5
"""The shortest time between two lines on standard error; a validation is always printed."""


BAR = "{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"

FORMATS = {"loss": "loss {:.3f}", "lr": "lr {:.1e}", "steps_per_second": "{:.2f} steps/s", "psnr": "{:.2f} dB"}
"""How the values of a record are shown."""

FURTHER = "psnr/"
"""Start of the names of all PSNRs but the first: ``psnr/SET/PROTOCOL``."""


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
    """Writes the metrics of a run, and shows its progress.

    Args:
        run: The folder with ``metrics.jsonl`` and TensorBoard's files.
        recipe: Number of steps, and whether to write for TensorBoard.
        step: Steps done before. TensorBoard discards later points of an earlier process, which this run repeats.
        silent: Write nothing, for all processes but the first.
    """

    def __init__(self, run: Run, recipe: Recipe, *, step: int, silent: bool = False) -> None:
        self.run, self.recipe, self.silent, self.step = run, recipe, silent, step
        self.stages = stages_of(recipe)
        self.stage: Stage | None = None
        self.pace, self.told = Pace(), False
        self.boards = [] if silent else open_boards(run, recipe, step)
        self.bar: tqdm[Any] | None = None
        if not silent and sys.stderr.isatty():
            self.bar = tqdm(total=recipe.steps, initial=step, dynamic_ncols=True, bar_format=BAR)
        self.shown: dict[str, str] = {}
        self.last_line = time.monotonic()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        for board in self.boards:
            board.close()

    def say(self, line: str) -> None:
        """Print a line for people."""
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        elif not self.silent:
            print(line, file=sys.stderr, flush=True)

    def show(self, name: str, image: Image) -> None:
        """Add an SR image of a validation to the dashboards."""
        for board in self.boards:
            board.show(f"validation/{name}", image, self.step)

    def begin(self, stage: Stage) -> None:
        """Note the stage of the next step."""
        if self.stage is None or stage.number != self.stage.number:
            self.stage = stage
            self.pace.begin_stage()
            if self.recipe.compile:
                self.say("compiling the network, about a minute")

    def tick(self) -> None:
        """Advance the bar by one step."""
        self.step += 1
        self.pace.tick()
        left = self._time_left()
        if left and not self.told:
            self.told = True
            rate = self.pace.rate() or 0.0
            self.say(f"about {left} for {self.recipe.steps - self.step:,} more steps ({rate:.3g} steps/s)")
        if self.bar is not None:
            self._show(refresh=False)
            self.bar.update()

    def record(self, record: dict[str, float], stage: Stage) -> None:
        """Write one line of metrics: ``step`` and the values measured there, and the stage of a run with stages."""
        if self.silent:
            return
        place = f"stage {stage.number}/{stage.count}  " if stage.count > 1 else ""
        if place:
            record = record | {"stage": stage.number}
        self.run.log(record)
        for board in self.boards:
            board.record({name: value for name, value in record.items() if name != "step"}, int(record["step"]))
        texts = {name: form.format(record[name]) for name, form in FORMATS.items() if name in record}
        for name, value in record.items():
            if name.startswith(FURTHER):
                texts[name] = f"{name.removeprefix(FURTHER).replace('/', ' ')} {value:.2f} dB"
        self.shown |= texts
        if self.bar is not None:
            self.bar.set_description_str(place.rstrip(), refresh=False)
            self._show(refresh=True)
        elif "psnr" in record or time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            left = self._time_left()
            texts |= {"left": f"{left} left"} if left and record["step"] < self.recipe.steps else {}
            line = place + "  ".join([f"step {record['step']:>7}/{self.recipe.steps}", *texts.values()])
            print(line, file=sys.stderr, flush=True)

    def _time_left(self) -> str:
        """Return the expected time to the end, or "" before it is known."""
        left = self.pace.remaining(self.stages, self.stage, self.step) if self.stage else None
        return "" if left is None else in_words(left)

    def _show(self, *, refresh: bool) -> None:
        """Write the latest values, the rate and the time left behind the bar."""
        assert self.bar is not None
        rate, left = self.pace.rate(), self._time_left()
        now = [f"{rate:.3g} steps/s", f"{left} left"] if rate else ["measuring the rate"]
        latest = [text for name, text in self.shown.items() if name != "steps_per_second"]
        self.bar.set_postfix_str(", ".join([*latest, *now]), refresh=refresh)
