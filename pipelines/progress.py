"""How far a long step is: a bar on a terminal, or a line every 30 seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows steps one after another. Steps of unknown length (`total` None) show that they are alive."""

    def __init__(self, *, terminal: bool | None = None) -> None:
        self._terminal = sys.stderr.isatty() if terminal is None else terminal

    @contextmanager
    def step(self, title: str, *, total: int | None = None) -> Iterator[Step]:
        """A step of `total` units; call the yielded step's `advance` as they are done."""
        if not self._terminal:
            yield Step(title, total)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = [SpinnerColumn(), TextColumn("{task.description}")]
        counted = [BarColumn(), MofNCompleteColumn()] if total else []
        with Bars(*columns, *counted, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(title, total=total)
            step = Step(title, total)
            step.on_advance = lambda done: bars.update(task, completed=done)
            yield step


class Step:
    """The step that is going on. `done` counts its finished units."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total, self.done = title, total, 0
        self.on_advance = self._log
        self._last_line = time.monotonic()

    def advance(self, units: int = 1) -> None:
        self.done += units
        self.on_advance(self.done)

    def _log(self, done: int) -> None:
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            log.info("%s: %s%s", self.title, done, f" of {self.total}" if self.total else "")
