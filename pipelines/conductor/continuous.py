"""Ingests all record sources without end, and refines what arrives, until the process is told to stop."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipelines.bronze.ingest_records import Batches, start
from pipelines.conductor.run import run_under_lock
from pipelines.conductor.stages import stage_named
from pipelines.flow.lock import only_writer
from pipelines.flow.outcome import Failure, Outcome
from pipelines.flow.signals import stopped_by_signals
from pipelines.flow.stage import Context, Counts
from pipelines.records.source import RecordSource, evolved, follow
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

log = logging.getLogger(__name__)


def ingest_until_stopped(context: Context, *, seconds: float, stop: threading.Event | None = None) -> dict[str, Counts]:
    """Read every source and refine what arrived, every `seconds`, as the only writer of the workspace.

    Folders and Delta tables are looked at as a run looks at them; Kafka and Auto Loader are streams that go on.

    Args:
        seconds: the interval of looking, of the streams' triggers, and of refining.
        stop: ends it when set; SIGINT and SIGTERM set it. A batch that is running is finished, or else the next run
            does it again.

    Returns:
        The counts of each source, by its name.

    Raises:
        ConfigurationError: there are no sources.
        RefusedError: another process is writing to the workspace.
        Exception: the error of a source, as a run would raise it. It is raised at the end: after `stop` is set, or when
            all sources have failed.
    """
    if not context.settings.records:
        raise ConfigurationError("ingest-records --continuous: no sources. Name them under `records` in lakeloop.yml.")
    ingesting, refining = stage_named("ingest-records"), stage_named("refine-records")
    with only_writer(context.settings), stopped_by_signals(stop or threading.Event()) as stopped:
        context = replace(context, is_stopping=stopped.is_set)
        # What is read: each source until it fails. The streams among them run in the background.
        counts = {name: Counter({"records": 0, "files": 0, "columns": 0}) for name in context.settings.records}
        streams: dict[str, Running] = {}
        failures: list[Failure] = []

        def drop(failure: Failure) -> None:
            failures.append(failure)
            if failure.subject is not None:
                counts.pop(failure.subject.name, None)
                if failure.subject.name in streams:
                    streams.pop(failure.subject.name).query.stop()

        def failed(each: Context, error: Exception) -> None:
            failure = Failure(ingesting.command, error, each.subject)
            log.error("%s; the other sources go on", failure)
            drop(failure)

        def dropped() -> set[str]:
            return set(context.settings.records) - counts.keys()

        try:
            for each in ingesting.contexts(context):
                source = each.about(RecordSource)
                if source.settings.is_stream:
                    try:
                        streams[source.name] = Running.begin(each, seconds=seconds)
                    except Exception as error:
                        failed(each, error)
            has_ended = False
            while True:
                for stream in [*streams.values()]:
                    try:
                        stream.go_on(has_ended=has_ended)
                    except Exception as error:
                        failed(stream.context, error)
                if not has_ended:
                    looked = run_under_lock(context, stages=[ingesting], without=dropped() | streams.keys())
                    for outcome in looked.stages:
                        if outcome.subject is not None:
                            counts[outcome.subject.name].update(outcome.counts)
                    for failure in looked.failures:  # the run has logged them; so it does below
                        drop(failure)
                for failure in run_under_lock(context, stages=[refining], without=dropped()).failures:
                    drop(failure)
                if has_ended:
                    Outcome(context.run_id, (), 0.0, tuple(failures)).check()
                    ended = {name: stream.batches.counts for name, stream in streams.items()}
                    return {**counts, **ended}
                has_ended = stopped.wait(seconds) or not counts
        finally:
            for stream in streams.values():
                stream.query.stop()


@dataclass(frozen=True)
class Running:
    """The running stream of one source."""

    context: Context
    source: RecordSource
    batches: Batches
    query: StreamingQuery

    @classmethod
    def begin(cls, context: Context, *, seconds: float) -> Running:
        source = evolved(context.lake, context.about(RecordSource))
        follow(context.lake, source.bronze)
        batches = Batches(context, source)
        query = start(context, source, batches, trigger={"processingTime": f"{seconds} seconds"})
        return cls(context, source, batches, query)

    def go_on(self, *, has_ended: bool) -> None:
        """Look at the stream; or stop it, if `has_ended`.

        Raises:
            Exception: the error with which the stream failed.
        """
        failure = self.batches.failure or self.query.exception()
        if failure is not None:
            raise failure
        if has_ended:
            self.query.stop()
