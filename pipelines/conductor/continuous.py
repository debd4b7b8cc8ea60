"""Runs the streams of all record sources without end, and refines what arrives, until the process is told to stop."""

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
    """Run every source's stream, and refine what arrived every `seconds`, as the only writer of the workspace.

    Args:
        seconds: the interval of the streams' triggers, of looking for files, and of refining.
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
                for failure in outcome.failures:  # the run has logged them
                    drop(failure)
                if has_ended:
                    Outcome(context.run_id, (), 0.0, tuple(failures)).check()
                    return {name: stream.batches.counts for name, stream in running.items()}
        finally:
            for stream in running.values():
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
        discover(context, source)
        batches = Batches(context, source)
        query = start(context, source, batches, trigger={"processingTime": f"{seconds} seconds"})
        return cls(context, source, batches, query)

    def go_on(self, *, has_ended: bool) -> None:
        """Look for new files; or stop the stream, if `has_ended`.

        Raises:
            Exception: the error with which the stream failed.
        """
        failure = self.batches.failure or self.query.exception()
        if failure is not None:
            raise failure
        if has_ended:
            self.query.stop()
        else:
            discover(self.context, self.source)
