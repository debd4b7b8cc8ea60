"""A stage, or a table, in; its rows computed anew from its source, compared, and put right, out.

Nothing is trusted of what is recorded: a table that was restored, or altered by hand, is what a build from scratch
gives. Only what differs is written, and embeddings come from the cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module

from pipelines.features import source_schema
from pipelines.index.repair import repair
from pipelines.index_state import states
from pipelines.outcome import Outcome, StageOutcome
from pipelines.run import STAGES, advance, instances_of, only_writer
from pipelines.stage import Context, Stage, Window, run_stage
from transformations.errors import ConfigurationError

log = logging.getLogger(__name__)
# What is recorded as it happened cannot be computed again.
_RECORDS = {
    "ingest-documents": "it holds what arrived: the next lakeloop run compares it with the landing folder",
    "ingest-records": "it holds what arrived: the next lakeloop run goes on where it ended",
    "answer-questions": "it holds what was answered",
}
_OTHER_NAMES = {"gold.embeddings": "embed-chunks", "index": "sync-index"}


def rebuild(context: Context, name: str) -> Outcome:
    """Compute a stage's tables anew, then run what reads them.

    Args:
        name: a stage, as in chunk-documents, or a table, as in silver.chunks. Of a damaged table that only records
            what happened, what is left is kept.

    Raises:
        ConfigurationError: no stage or table of that name; or it records what cannot be computed, and is not damaged.
    """
    # For all of it: what another run wrote in between would be neither mended nor computed.
    with only_writer(context.settings):
        return _rebuild(context, name)


def _rebuild(context: Context, name: str) -> Outcome:
    start = time.monotonic()
    is_mended = context.lake.is_declared(name) and _mended(context, name)
    found = [(stage, one, each) for stage, one, each in _all(context) if _OTHER_NAMES.get(name, name) in _names(one)]
    if is_mended and (not found or found[0][0].command in _RECORDS):
        outcome = advance(context, stages=STAGES)
        return Outcome(context.run_id, outcome.stages, time.monotonic() - start)
    if not found and context.lake.is_declared(name):
        raise ConfigurationError(
            f"rebuild: {name} records what happened, and no file of it is damaged. Nothing was done."
        )
    if not found:
        known = {alias for _, one, _ in _all(context) for alias in _names(one)} | set(_OTHER_NAMES)
        raise ConfigurationError.unknown_name("stage or table", name, known)
    command = found[0][0].command
    if command in _RECORDS:
        raise ConfigurationError(f"rebuild: {name} is computed from nothing: {_RECORDS[command]}. Nothing was done.")
    outcomes = [_rebuilt(stage, one, each) for stage, one, each in found]
    later = STAGES[STAGES.index(found[-1][0]) + 1 :]
    outcomes += advance(context, stages=later).stages
    return Outcome(context.run_id, tuple(outcomes), time.monotonic() - start)


def _all(context: Context) -> Iterator[tuple[Stage, Stage, Context]]:
    for stage in STAGES:
        for one, each in instances_of(stage, context):
            yield stage, one, each


def _names(stage: Stage) -> set[str]:
    return {name for name in (stage.command, stage.target, *stage.also) if name}


def _mended(context: Context, table: str) -> bool:
    """Whether the table was damaged; what is left of it can be read from here on."""
    done = context.lake.mend(table)
    if done is not None:
        log.warning("rebuild: %s was damaged: %s", table, done)
    return done is not None


def _rebuilt(stage: Stage, one: Stage, context: Context) -> StageOutcome:
    for table in filter(None, (one.target, *one.also)):
        _mended(context, table)
    # A feature table's source may be a table of the user's own.
    is_there = context.lake.is_declared(one.source) or source_schema(context.lake, one.source) is not None
    head = context.lake.head(one.source) if is_there else None
    if head is None:
        raise ConfigurationError(
            f"rebuild: {one.target or one.command} is computed from {one.source}, which is not there. Make it with: "
            "lakeloop run"
        )
    window = Window(None, head.version, head.table_id)
    counts, seconds = run_stage(one, replace(context, anew=True), window=window, work=import_module(one.module).run)
    model = context.settings.embedding.model if stage.is_per_model else None
    if stage.command == "sync-index":
        # Ids and hashes were compared; here the rows are.
        for state in states(context.lake, context.settings.index.name):
            if state.model_name == model:
                mended = repair(context, state)
                counts = {**counts, "repaired": mended["upserts"] + mended["deletes"]}
    source = next(iter(context.settings.records)) if stage.is_per_source else None
    return StageOutcome(stage.command, counts, seconds, model, source)
