"""Sources of records in; their streams kept running, and their arrivals refined, until the process is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.bronze.ingest_records import Batches, discover, source_of, start
from pipelines.records import evolved, follow
from pipelines.run import advance, instances_of, only_writer, stage_named
from pipelines.stage import Context, Counts
from transformations.errors import ConfigurationError

log = logging.getLogger(__name__)


def ingest_until_stopped(context: Context, *, seconds: float, stop: threading.Event | None = None) -> dict[str, Counts]:
    """Run every source's stream with a trigger each `seconds`, and refine what came, as the workspace's only writer.

    Args:
        stop: ends it when set; SIGINT and SIGTERM set it. A batch under way is finished first, or else done again by
            the next run.

    Returns:
        What each source brought.

    Raises:
        ConfigurationError: there are no sources.
        LakeloopError: what a stream failed with, as a run would raise it.
    """
    if not context.settings.records:
        raise ConfigurationError("ingest-records --continuous: no sources. Name them under `records` in lakeloop.yml.")
    with only_writer(context.settings), _stopped_by_signals(stop or threading.Event()) as stopped:
        running = []
        try:
            for _, each in instances_of(stage_named("ingest-records"), context):
                source = evolved(each.lake, source_of(each))
                follow(each.lake, source.bronze)
                discover(each, source)
                batches = Batches(each, source)
                query = start(each, source, batches, trigger={"processingTime": f"{seconds} seconds"})
                running.append((each, source, batches, query))
            while True:
                has_ended = stopped.wait(seconds)
                for each, source, batches, query in running:
                    if batches.failure is not None:
                        raise batches.failure
                    failure = query.exception()
                    if failure is not None:
                        raise failure
                    if has_ended:
                        query.stop()
                    else:
                        discover(each, source)
                advance(context, stages=[stage_named("refine-records")])
                if has_ended:
                    return {source.name: batches.counts for _, source, batches, _ in running}
        finally:
            for *_, query in running:
                query.stop()


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set `stop` while this lasts; only where this is the process's main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
