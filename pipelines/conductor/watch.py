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

from pipelines.conductor.run import new_context, new_run_id, run_to_end
from pipelines.flow.outcome import Outcome
from pipelines.flow.signals import stopped_by_signals
from pipelines.flow.stage import Context, Stage
from pipelines.lakehouse.held_frames import HeldFrames
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, LakeloopError, MissingDependencyError, RefusedError

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
    settings: Callable[[], Settings] | None = None,
    stop: threading.Event | None = None,
) -> Watched:
    """Run the stages that are due now, and again whenever a file of a landing folder changes.

    Args:
        seconds: after this long without a change there is a run too: for changes that no file shows (of a table, a
            topic, a dead letter that is due), and for file systems that do not report changes.
        on_round: called after each run that did something or failed. A failure does not end the watch: the next run
            goes on from there.
        settings: reads the settings; asked before each run, so that the watch follows an edit of lakeloop.yml.
        stop: ends the watch when set; SIGINT and SIGTERM set it. A run that has begun is finished first.

    Raises:
        ConfigurationError: a folder to watch does not exist when the watch begins.
        MissingDependencyError: watchfiles is not installed.
    """
    if find_spec("watchfiles") is None:
        raise MissingDependencyError.for_extra("watchfiles", "watch")
    for folder in watched_folders(context.settings):
        if not folder.is_dir():
            raise ConfigurationError(f"run --watch: there is no folder {folder} to watch. Create it, and run again.")
    watched = Watched()
    with stopped_by_signals(stop or threading.Event()) as stopped:
        while not stopped.is_set():
            folders = watched_folders(context.settings)
            for files in _changes(context.settings, folders, seconds=seconds, stop=stopped):
                current = _with_settings(context, settings)
                if current is None:
                    continue
                context = current
                outcome = _run(context, stages, stopped)
                if outcome is not None and (outcome.stages or outcome.failures):
                    watched.runs, watched.last = watched.runs + 1, outcome
                    on_round(Round(files, outcome))
                if watched_folders(context.settings) != folders:
                    break
    return watched


def watched_folders(settings: Settings) -> list[Path]:
    """The landing folder of documents, and the folders of record files. A bucket is not watched, but looked at."""
    of_files = [source.location for source in settings.records.values() if source.format in ("csv", "json", "parquet")]
    landing = settings.landing_path
    return sorted({*([landing] if isinstance(landing, Path) else []), *map(settings.path, of_files)})


def _with_settings(context: Context, settings: Callable[[], Settings] | None) -> Context | None:
    """The context, a new one if the settings have changed, or None if they cannot be read."""
    try:
        current = context.settings if settings is None else settings()
    except LakeloopError as error:
        log.warning("the watch waits until the settings can be read: %s", error)
        return None
    if current == context.settings:
        return context
    log.info("the settings have changed; the watch goes on with the new ones")
    return new_context(current, progress=context.progress, force=context.force)


def _changes(
    settings: Settings, folders: Sequence[Path], *, seconds: float, stop: threading.Event
) -> Iterator[tuple[str, ...]]:
    """Yield once at the start, without files. Then yield the files that changed, or no files if the time is over.

    End if one of the folders is another one now: what watches it does not see the new one.
    """
    identities = _identities(folders)
    existing = [folder for folder, identity in zip(folders, identities, strict=True) if identity is not None]
    # A landing folder may be the workspace itself, and what a run writes there is no arrival.
    own = [Path(place) for place in settings.own_places]
    own = [place for place in own if any(place != folder and place.is_relative_to(folder) for folder in folders)]

    def name(path: str) -> str:
        folder = next((folder for folder in folders if Path(path).is_relative_to(folder)), Path(path).parent)
        return str(Path(path).relative_to(folder))

    def is_arrival(_: object, path: str) -> bool:
        is_hidden = any(part.startswith((".", "~$")) for part in Path(name(path)).parts)
        return not is_hidden and not any(Path(path).is_relative_to(place) for place in own)

    changes = _events(existing, stop=stop, pause=min(seconds, 1.0), is_arrival=is_arrival)
    next(changes, None)
    yield ()
    last = time.monotonic()
    for found in changes:
        if stop.is_set() or _identities(folders) != identities:
            return
        if not found and time.monotonic() - last < seconds:
            continue
        yield tuple(sorted({name(path) for _, path in found}))
        last = time.monotonic()


def _events(
    folders: Sequence[Path], *, stop: threading.Event, pause: float, is_arrival: Callable[[Any, str], bool]
) -> Iterator[set[tuple[Any, str]]]:
    """What watchfiles says of changed files; nothing after each `pause` (seconds) without a change."""
    if not folders:
        while not stop.wait(pause):
            yield set()
        return
    from watchfiles import watch as watch_files

    # The watcher keeps watching during a run, so a file that comes in that time starts the next run.
    yield from watch_files(
        *folders,
        debounce=_LONGEST_MILLISECONDS,
        step=_QUIET_MILLISECONDS,
        stop_event=stop,
        rust_timeout=int(pause * 1000),
        yield_on_timeout=True,
        raise_interrupt=False,
        watch_filter=is_arrival,
    )


def _identities(folders: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Device and inode of each folder; None if it does not exist."""
    found: list[tuple[int, int] | None] = []
    for folder in folders:
        try:
            status = folder.stat()
            found.append((status.st_dev, status.st_ino))
        except OSError:
            found.append(None)
    return found


def _run(context: Context, stages: Sequence[Stage], stop: threading.Event) -> Outcome | None:
    """One run with a new id, as soon as no other process writes; None if `stop` was set before that."""
    has_warned = False
    while not stop.is_set():
        try:
            return run_to_end(replace(context, run_id=new_run_id(), frames=HeldFrames()), stages=stages)
        except RefusedError as error:  # another process is writing
            if not has_warned:
                log.warning("the watch waits until the other process has ended: %s", error)
                has_warned = True
            stop.wait(_BUSY_SECONDS)
    return None
