"""Keeps a workspace up to date: watches its folders and runs the stages after each change, until told to stop.

The Spark session, the models and the opened tables stay in memory between runs, so that a change costs only its own
work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.conductor.run import new_run_id, run_to_end
from pipelines.flow.outcome import Outcome
from pipelines.flow.signals import stopped_by_signals
from pipelines.flow.stage import Context, Stage
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, MissingDependencyError, RefusedError

log = logging.getLogger(__name__)
# A file is often written in pieces: a run begins only after this long without another change.
_QUIET_MILLISECONDS = 100
# If changes never stop, a run begins after this long all the same.
_LONGEST_MILLISECONDS = 1600
_BUSY_SECONDS = 1.0


@dataclass(frozen=True)
class Round:
    """One run of the watch: the changed files that started it (none: the time was over), and its outcome."""

    files: tuple[str, ...]
    outcome: Outcome


@dataclass
class Watched:
    """How many runs did something or failed, and what the last of them did."""

    runs: int = 0
    last: Outcome | None = None


def watch(
    context: Context,
    *,
    stages: Sequence[Stage],
    seconds: float,
    on_round: Callable[[Round], None],
    stop: threading.Event | None = None,
) -> Watched:
    """Run the stages that are due now, and again whenever a file of a landing folder changes.

    Args:
        seconds: after this long without a change there is a run too: for changes that no file shows (of a table, a
            topic, a dead letter that is due), and for file systems that do not report changes.
        on_round: called after each run that did something or failed. A failure does not end the watch: the next run
            goes on from there.
        stop: ends the watch when set; SIGINT and SIGTERM set it. A run that has begun is finished first.

    Raises:
        ConfigurationError: a folder to watch does not exist.
        MissingDependencyError: watchfiles is not installed.
    """
    if find_spec("watchfiles") is None:
        raise MissingDependencyError.for_extra("watchfiles", "watch")
    folders = watched_folders(context.settings)
    watched = Watched()
    with stopped_by_signals(stop or threading.Event()) as stopped:
        for files in _changes(context.settings, folders, seconds=seconds, stop=stopped):
            outcome = _run(context, stages, stopped)
            if outcome is not None and (outcome.stages or outcome.failures):
                watched.runs, watched.last = watched.runs + 1, outcome
                on_round(Round(files, outcome))
    return watched


def watched_folders(settings: Settings) -> list[Path]:
    """The landing folder of documents and the folders of record files, sorted, each once.

    Raises:
        ConfigurationError: one of them does not exist.
    """
    of_files = [source.location for source in settings.records.values() if source.format in ("csv", "json", "parquet")]
    folders = [settings.landing_path, *map(settings.path, of_files)]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(f"run --watch: there is no folder {folder} to watch. Create it, and run again.")
    return sorted({*folders})


def _changes(
    settings: Settings, folders: Sequence[Path], *, seconds: float, stop: threading.Event
) -> Iterator[tuple[str, ...]]:
    """First an empty tuple; then, for each run, the names of the changed files (none if `seconds` have passed)."""
    from watchfiles import watch as watch_files

    # The landing folder may be the workspace itself; what a run writes there must not start another run.
    own = [settings.path(settings.lakehouse), settings.log_path.parent, settings.path(settings.index.uri)]

    def name(path: str) -> str:
        folder = next((folder for folder in folders if Path(path).is_relative_to(folder)), Path(path).parent)
        return str(Path(path).relative_to(folder))

    def is_arrival(_: object, path: str) -> bool:
        is_hidden = any(part.startswith((".", "~$")) for part in Path(name(path)).parts)
        return not is_hidden and not any(Path(path).is_relative_to(folder) for folder in own)

    # The watch begins here and goes on during runs, so that a file that arrives during a run starts the next one.
    changes: Any = watch_files(
        *folders,
        debounce=_LONGEST_MILLISECONDS,
        step=_QUIET_MILLISECONDS,
        stop_event=stop,
        rust_timeout=int(min(seconds, 1.0) * 1000),
        yield_on_timeout=True,
        raise_interrupt=False,
        watch_filter=is_arrival,
    )
    next(changes, None)
    yield ()
    last = time.monotonic()
    for found in changes:
        if not found and time.monotonic() - last < seconds:
            continue
        if stop.is_set():
            return
        yield tuple(sorted({name(path) for _, path in found}))
        last = time.monotonic()


def _run(context: Context, stages: Sequence[Stage], stop: threading.Event) -> Outcome | None:
    """One run with a new id, as soon as no other process writes; None if `stop` was set before that."""
    has_warned = False
    while not stop.is_set():
        try:
            return run_to_end(replace(context, run_id=new_run_id(), persisted=[]), stages=stages)
        except RefusedError as error:  # another process is writing
            if not has_warned:
                log.warning("%s It is tried again until then.", error)
                has_warned = True
            stop.wait(_BUSY_SECONDS)
    return None
