"""The run: executes those stages whose sources have changed, in the order of the data flow.

If a stage fails, the stages that read its tables do not run; all others do. For example, a missing folder of one source
stops neither the other sources nor the documents. When the rest is done, the run ends with the error.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import zip_longest

from pipelines.conductor.stages import STAGES
from pipelines.flow.lock import only_writer
from pipelines.flow.outcome import Failure, Outcome, StageOutcome
from pipelines.flow.stage import Context, Counts, Stage, Subject, Versions, Work, everything
from pipelines.flow.states import STAGE_RUNS, State, TableMark, mark_now
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.session import get_spark
from pipelines.lakehouse.table_log import commit_id, is_lost_history
from pipelines.lakehouse.tables import Lakehouse
from pipelines.progress import Progress
from pipelines.records.source import declare, record_source
from pipelines.settings.sections import Settings
from transformations.errors import LakeloopError, SparkLostError

log = logging.getLogger(__name__)


def new_context(settings: Settings, *, progress: Progress | None = None, force: bool = False) -> Context:
    """A context with a new run id, for one run. No table and no session is opened yet."""
    lake = open_lakehouse(settings, spark=lambda: get_spark(settings))
    for name in settings.records:
        declare(lake, record_source(settings, name))
    return Context(settings, lake, new_run_id(), progress or Progress(), force)


def new_run_id() -> str:
    """A new run id: unique, and sorted by time (to the second)."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + uuid.uuid4().hex[:8]


def run_stages(context: Context, *, stages: Sequence[Stage] = STAGES) -> Outcome:
    """Run each of `stages` that is due, in order, as the only writer of the workspace.

    Raises:
        RefusedError: another process is writing to this workspace.
        Exception: the error of a failed stage. All stages that do not read its tables were run.
    """
    outcome = run_to_end(context, stages=stages)
    outcome.check()
    return outcome


def run_to_end(context: Context, *, stages: Sequence[Stage] = STAGES) -> Outcome:
    """`run_stages`, but failures of stages are in the outcome and are not raised."""
    with only_writer(context.settings):
        return run_under_lock(context, stages=stages)


def advance(context: Context, *, stages: Sequence[Stage]) -> Outcome:
    """`run_stages` for a caller that holds the workspace's lock already."""
    outcome = run_under_lock(context, stages=stages)
    outcome.check()
    return outcome


def run_under_lock(context: Context, *, stages: Sequence[Stage], without: Collection[str] = ()) -> Outcome:
    """`run_to_end` for a caller that holds the workspace's lock already.

    Args:
        without: names of subjects for which no stage is run.
    """
    start = time.monotonic()
    context.states.reload()
    for stage in stages:
        if stage.check is not None:
            stage.check(context)
    outcomes: list[StageOutcome] = []
    failures: list[Failure] = []
    behind: list[
        tuple[str, Subject | None]
    ] = []  # tables that this run could not bring up to date, and for which subject

    def failed(stage: Stage, each: Context, error: Exception | None) -> None:
        failures.append(Failure(stage.command, error, each.subject))
        behind.extend((table, each.subject) for table in stage.targets_of(each))
        is_known = error is None or isinstance(error, LakeloopError)
        log.error("%s", failures[-1], exc_info=None if is_known else error)

    for stage in stages:
        try:
            contexts = stage.contexts(context)
        except Exception as error:
            failed(stage, context, error)
            continue
        for each in contexts:
            if each.subject is not None and each.subject.name in without:
                continue
            if _reads_what_is_behind(stage, each, behind):
                failed(stage, each, None)
                continue
            try:
                outcome = _run_if_due(stage, each)
            except Exception as error:
                failed(stage, each, error)
                if _is_without_spark(error):
                    return Outcome(context.run_id, tuple(outcomes), time.monotonic() - start, tuple(failures))
                continue
            if outcome is not None:
                outcomes.append(outcome)
    return Outcome(context.run_id, tuple(outcomes), time.monotonic() - start, tuple(failures))


def _reads_what_is_behind(stage: Stage, context: Context, behind: Sequence[tuple[str, Subject | None]]) -> bool:
    """Whether a source of the stage was not brought up to date, for its subject: an index does not wait for a failed
    embedding of another model.
    """
    sources, own = stage.sources_of(context), context.subject

    def concerns(subject: Subject | None) -> bool:
        return own is None or subject is None or subject.kind != own.kind or subject.key == own.key

    return any(table in sources and concerns(subject) for table, subject in behind)


def _run_if_due(stage: Stage, context: Context) -> StageOutcome | None:
    work = stage.look(context)
    return None if work is None else run_stage(stage, context, work)


def _is_without_spark(error: BaseException | None) -> bool:
    """Whether an error says that Spark is gone: every other stage that needs it would fail too."""
    while error is not None:
        if isinstance(error, SparkLostError) or type(error).__name__ == "Py4JNetworkError":
            return True
        error = error.__cause__ or error.__context__
    return False


def run_stage(stage: Stage, context: Context, work: Work) -> StageOutcome:
    """Do the work that `look` found, and record how far the stage has come.

    If versions that it would read are gone, everything is read and compared instead.

    Raises:
        DamagedTableError: it failed, and files of one of its sources or targets are missing or broken.
    """
    for table, versions in zip(stage.sources_of(context), work.versions, strict=False):
        log.info("%s: versions (%s, %s] of %s", stage.command, versions.since, versions.until, table)
    try:
        outcome = _run_stage(stage, context, work)
    except LakeloopError:
        raise
    except Exception as error:
        found = context.lake.damage([*stage.sources_of(context), *stage.targets_of(context)], named_in=str(error))
        if found is None:
            raise
        raise found from error
    log.info("%s: %s in %.1f s", stage.command, dict(outcome.counts), outcome.seconds)
    return outcome


def _run_stage(stage: Stage, context: Context, work: Work) -> StageOutcome:
    started_at, start = context.now(), time.monotonic()
    try:
        counts = _worked(stage, context, work)
    except Exception as error:
        if not any(versions.since is not None for versions in work.versions) or not is_lost_history(error):
            raise
        log.warning("%s: the history of what it reads is gone; comparing everything", stage.command)
        context.lake.refresh()
        work = everything(stage, context)
        counts = _worked(stage, context, work)
    seconds = time.monotonic() - start
    if STAGE_RUNS not in stage.sources:  # a record of a stage that reads ops.stage_runs would make it due again
        record(stage, context, work, counts=counts, started_at=started_at, seconds=seconds)
    return StageOutcome(stage.command, counts, seconds, context.subject)


def _worked(stage: Stage, context: Context, work: Work) -> Counts:
    try:
        return stage.work(context, work)
    finally:
        context.frames.release_all()


def record(stage: Stage, context: Context, work: Work, *, counts: Counts, started_at: datetime, seconds: float) -> None:
    """Append a row to ops.stage_runs; then write to ops.stage_state how far the stage came, and what its targets are.

    If the process is killed between the two, the next run repeats the work, which then changes nothing, and logs it a
    second time.
    """
    lake, definition = context.lake, stage.definition(context)
    subject = context.subject.key if context.subject else ""
    targets = stage.targets_of(context)
    if targets:
        lake.create(targets[0])
    sources = [
        _mark_of(lake, table or "", versions)
        for table, versions in zip_longest(stage.sources_of(context), work.versions)
        if versions is not None
    ]
    first = work.versions[0] if work.versions else None
    row = {
        "run_id": context.run_id,
        "stage": stage.command,
        "subject": subject,
        "definition": definition,
        "source_id": first.table_id if first else None,
        "from_version": first.since if first else None,
        "to_version": first.until if first else None,
        "counts": list(counts.items()),
        "started_at": started_at,
        "seconds": seconds,
    }
    lake.append_arrow(STAGE_RUNS, [row])
    lake.look_at(targets)
    left = [mark for mark in (mark_now(lake, table) for table in targets) if mark is not None]
    context.states.put(
        State(
            stage.command,
            subject,
            definition,
            tuple(sources),
            tuple(left),
            stage.position(context),
            context.run_id,
            started_at,
            dict(counts),
        )
    )


def _mark_of(lake: Lakehouse, table: str, versions: Versions) -> TableMark:
    """How far a source was read. A source that did not exist when `look` ran has the id that it has now."""
    if not table:
        return TableMark(table, versions.table_id, versions.until, None)
    head = None if versions.table_id else lake.head(table)
    table_id = head.table_id if head else versions.table_id
    return TableMark(table, table_id, versions.until, commit_id(lake, table, versions.until))
