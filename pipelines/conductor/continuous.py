"""Sources of records in; their streams kept running, and their arrivals refined, until the process is told to stop."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.bronze.ingest_records import Batches, discover, start
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
    """Run every source's stream with a trigger each `seconds`, and refine what came, as the workspace's only writer.

    Args:
        stop: ends it when set; SIGINT and SIGTERM set it. A batch under way is finished first, or else done again by
            the next run.

    Returns:
        What each source brought.

    Raises:
        ConfigurationError: there are no sources.
        Exception: what a source failed with, as a run would raise it; once the others are told to stop, or all failed.
    """
    if not context.settings.records:
        raise ConfigurationError("ingest-records --continuous: no sources. Name them under `records` in lakeloop.yml.")
    with only_writer(context.settings), stopped_by_signals(stop or threading.Event()) as stopped:
        running: dict[str, Running] = {}
        failures: list[Failure] = []

        def drop(failure: Failure) -> None:
            failures.append(failure)
            if failure.subject is not None and failure.subject.name in running:
                running.pop(failure.subject.name).query.stop()

        def failed(each: Context, error: Exception) -> None:
            failure = Failure("ingest-records", error, each.subject)
            log.error("%s; the other sources go on", failure)
            drop(failure)

        try:
            for each in stage_named("ingest-records").contexts(context):
                try:
                    stream = Running.begin(each, seconds=seconds)
                    running[stream.source.name] = stream
                except Exception as error:
                    failed(each, error)
            while True:
                has_ended = stopped.wait(seconds) or not running
                for stream in [*running.values()]:
                    try:
                        stream.go_on(has_ended=has_ended)
                    except Exception as error:
                        failed(stream.context, error)
                broken = {failure.subject.name for failure in failures if failure.subject}
                outcome = run_under_lock(context, stages=[stage_named("refine-records")], without=broken)
                for failure in outcome.failures:  # the run has told of them
                    drop(failure)
                if has_ended:
                    Outcome(context.run_id, (), 0.0, tuple(failures)).check()
                    return {name: stream.batches.counts for name, stream in running.items()}
        finally:
            for stream in running.values():
                stream.query.stop()


@dataclass(frozen=True)
class Running:
    """One source's stream."""

    context: Context
    source: RecordSource
    batches: Batches
    query: StreamingQuery

    @classmethod
    def begin(cls, context: Context, *, seconds: float) -> Running:
        source = evolved(context.lake, context.about(RecordSource))
        follow(context.lake, source.bronze)
        discover(context, source)
        batches = Batches(context, source)
        query = start(context, source, batches, trigger={"processingTime": f"{seconds} seconds"})
        return cls(context, source, batches, query)

    def go_on(self, *, has_ended: bool) -> None:
        """Look for what arrived, or stop. Raises what the stream failed with."""
        failure = self.batches.failure or self.query.exception()
        if failure is not None:
            raise failure
        if has_ended:
            self.query.stop()
        else:
            discover(self.context, self.source)
