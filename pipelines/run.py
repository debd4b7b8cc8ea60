"""The stages in the order of the data flow; runs those whose input has moved, and no other.

A stage that fails stops what reads its table, and nothing else: a source whose folder is gone keeps no other source,
and no document, from its way. The run ends with the error all the same, once the rest is done.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from pipelines.index_state import states
from pipelines.lakehouse import Lakehouse
from pipelines.models.embedders import chunk_limits, embedding_model, text_reader
from pipelines.outcome import Failure, Outcome, StageOutcome
from pipelines.progress import Progress
from pipelines.records import declare, record_source, refining
from pipelines.session import get_spark
from pipelines.settings import Settings
from pipelines.stage import Context, Stage, Window, due, run_stage
from pipelines.stores import open_store
from transformations.errors import (
    ConfigurationError,
    LakeloopError,
    RefusedError,
)

log = logging.getLogger(__name__)

# The number in a definition is the version of the stage's code: raise it when the same input gives other output, and
# everything is computed and compared again (embeddings come from the cache).
STAGES: tuple[Stage, ...] = (
    Stage("ingest-documents", "", "bronze.documents", "pipelines.bronze.ingest_documents"),
    Stage("ingest-records", "", "bronze.records_*", "pipelines.bronze.ingest_records", is_per_source=True),
    Stage(
        "refine-documents",
        "bronze.documents",
        "silver.documents",
        "pipelines.silver.refine_documents",
        lambda s: (
            f"5 {s.refine.model_dump_json(exclude={'near_duplicates'})} clusters={s.refine.near_duplicates != 'off'}"
        ),
        also=("silver.documents_history", "silver.documents_quarantine"),
    ),
    Stage(
        "refine-records",
        "bronze.records_*",
        "silver.records_*",
        "pipelines.silver.refine_records",
        lambda s: f"4 {refining(s)}",
        is_per_source=True,
        also=("silver.records_*_history", "silver.records_*_quarantine"),
    ),
    Stage("build-features", "", "gold.features_*", "pipelines.gold.build_features"),
    Stage(
        "chunk-documents",
        "silver.documents",
        "silver.chunks",
        "pipelines.silver.chunk_documents",
        lambda s: (
            f"3 limits={chunk_limits(s)} tokenizer={text_reader(embedding_model(s)).label} "
            f"of_all={s.refine.near_duplicates != 'serve_one'}"
        ),
        also=("silver.chunks_quarantine",),
    ),
    Stage(
        "embed-chunks",
        "silver.chunks",
        "gold.chunk_index",
        "pipelines.gold.embed_chunks",
        lambda s: f"1 model={embedding_model(s).label}",
        is_per_model=True,
    ),
    Stage("sync-index", "gold.chunk_index", "", "pipelines.index.sync_index", is_per_model=True),
    Stage("answer-questions", "inference.requests", "inference.inference_log", "pipelines.inference.answer_questions"),
    Stage(
        "monitor",
        "inference.inference_log",
        "monitoring.inference_log_profile_metrics",
        "pipelines.monitoring.monitor",
        also=("monitoring.llm_quality_metrics", "monitoring.retrieval_metrics"),
    ),
    Stage("report", "ops.stage_runs", "", "pipelines.monitoring.report"),
)
# What a document goes through until the index serves it.
_OF_DOCUMENTS = ("ingest-documents", "refine-documents", "chunk-documents", "embed-chunks", "sync-index")
DOCUMENT_STAGES: tuple[Stage, ...] = tuple(stage for stage in STAGES if stage.command in _OF_DOCUMENTS)


def new_context(settings: Settings, *, progress: Progress | None = None, force: bool = False) -> Context:
    """A context with an id of its own for one run. Nothing is opened yet."""
    run_id = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + uuid.uuid4().hex[:8]
    lake = Lakehouse(settings, spark=lambda: get_spark(settings))
    for name in settings.records:
        declare(lake, record_source(settings, name))
    return Context(settings, lake, run_id, progress or Progress(), force)


def stage_named(command: str) -> Stage:
    by_command = {stage.command: stage for stage in STAGES}
    if command not in by_command:
        raise ConfigurationError.unknown_name("stage", command, by_command)
    return by_command[command]


def run_stages(context: Context, *, stages: Sequence[Stage] = STAGES) -> Outcome:
    """Run each of `stages` that is due, in order, as the only writer of the workspace.

    Raises:
        RefusedError: another run is going on in this workspace.
        Exception: what a stage failed with. All that does not read its table was run.
    """
    outcome = run_to_end(context, stages=stages)
    outcome.check()
    return outcome


def run_to_end(context: Context, *, stages: Sequence[Stage] = STAGES) -> Outcome:
    """`run_stages`, with what failed in the outcome: nothing is raised for it."""
    with only_writer(context.settings):
        return run_under_lock(context, stages=stages)


def advance(context: Context, *, stages: Sequence[Stage]) -> Outcome:
    """`run_stages` for a caller that holds the workspace's lock already."""
    outcome = run_under_lock(context, stages=stages)
    outcome.check()
    return outcome


def run_under_lock(context: Context, *, stages: Sequence[Stage]) -> Outcome:
    """`run_to_end` for a caller that holds the workspace's lock already."""
    start = time.monotonic()
    if any(stage.command == "sync-index" for stage in stages):
        # A wrong option, or a missing library, is told before an hour of embedding.
        open_store(context.settings, dimension=embedding_model(context.settings).dimension).close()
    outcomes: list[StageOutcome] = []
    failures: list[Failure] = []
    behind: set[tuple[str, str | None]] = set()  # tables (of a model) that are not what they should be after this run

    def failed(stage: Stage, source: str | None, error: Exception | None, *, model: str | None = None) -> None:
        failures.append(Failure(stage.command, error, source))
        if stage.target:
            behind.add((stage.target, model))
        is_known = error is None or isinstance(error, LakeloopError)
        log.error("%s", failures[-1], exc_info=None if is_known else error)

    for stage in stages:
        try:
            instances = instances_of(stage, context)
        except Exception as error:
            failed(stage, None, error)
            continue
        for one, each in instances:
            source, model = _source_of(one, each), _model_of(one, each)
            # What one model lacks keeps no index of another from its way.
            if any(table == one.source and (None in (of, model) or of == model) for table, of in behind):
                failed(one, source, None, model=model)
                continue
            try:
                outcome = _run_if_due(one, each, source=source)
            except Exception as error:
                failed(one, source, error, model=model)
                if _is_without_java(error):
                    return Outcome(context.run_id, tuple(outcomes), time.monotonic() - start, tuple(failures))
                continue
            if outcome is not None:
                outcomes.append(outcome)
    return Outcome(context.run_id, tuple(outcomes), time.monotonic() - start, tuple(failures))


def _run_if_due(stage: Stage, context: Context, *, source: str | None) -> StageOutcome | None:
    window = window_of(stage, context)
    if window is None:
        return None
    log.info("%s: versions (%s, %s] of %s", stage.command, window.since, window.until, stage.source or "-")
    work = import_module(stage.module).run
    counts, seconds = run_stage(stage, context, window=window, work=work)
    log.info("%s: %s in %.1f s", stage.command, dict(counts), seconds)
    return StageOutcome(stage.command, counts, seconds, _model_of(stage, context), source)


def _model_of(stage: Stage, context: Context) -> str | None:
    """The embedding model that the stage runs for: the rows of others in the same table are not its own."""
    return context.settings.embedding.model if stage.is_per_model else None


def _source_of(stage: Stage, context: Context) -> str | None:
    """What of several of its kind the stage runs for: a source of records, or a feature table."""
    if stage.command == "build-features":
        return stage.target
    return next(iter(context.settings.records)) if stage.is_per_source else None


def _is_without_java(error: BaseException | None) -> bool:
    """Whether Spark's JVM is gone: whatever else needs it would fail in the same way."""
    while error is not None:
        if type(error).__name__ == "Py4JNetworkError":
            return True
        error = error.__cause__ or error.__context__
    return False


def instances_of(stage: Stage, context: Context) -> list[tuple[Stage, Context]]:
    """The stage and a context for each record source, or embedding model (the own, and those in use), it runs for."""
    module = import_module(stage.module)
    if hasattr(module, "instances"):
        found: list[tuple[Stage, Context]] = module.instances(stage, context)
        return found
    if stage.is_per_source:
        return [(stage.of_source(name), context.of_source(name)) for name in context.settings.records]
    if not stage.is_per_model:
        return [(stage, context)]
    own = context.settings.embedding.model
    held = states(context.lake, context.settings.index.name)
    others = [s.model_name for s in held if s.role != "shadow" and s.model_name != own and s.has_its_model]
    return [(stage, context.of_model(name)) for name in dict.fromkeys([*others, own])]


def window_of(stage: Stage, context: Context) -> Window | None:
    """What of its source the stage has not read yet; None where it is up to date."""
    module = import_module(stage.module)
    window: Window | None = module.due(context) if hasattr(module, "due") else due(stage, context)
    if window is None and hasattr(module, "has_overdue") and module.has_overdue(context):
        head = context.lake.ensure(stage.source)
        # Nothing new to read: only what failed before, and may succeed by now.
        window = Window(head.version, head.version, head.table_id)
    return window


@contextmanager
def only_writer(settings: Settings) -> Iterator[None]:
    """Hold the workspace's lock. The kernel drops it with the process, however that ends."""
    path = settings.root / ".lakeloop.lock"
    try:
        lock = path.open("a+")
    except OSError as error:
        raise ConfigurationError(
            f"the workspace {settings.root} cannot be written ({error.strerror}). Work in a folder of your own: "
            "lakeloop init, there."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RefusedError(
                f"another lakeloop run ({lock.read().strip() or 'just started'}) is writing to {settings.root}. "
                "Nothing was done. Wait for it, and run again."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}")
        lock.flush()
        yield
