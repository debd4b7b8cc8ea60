"""Computes the tables of a stage again from their source, and writes the differences.

What earlier runs recorded is not trusted: a table that was restored or altered by hand becomes equal to a build from
scratch. Only differences are written, and embeddings come from the cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from pipelines.conductor.run import advance, run_stage
from pipelines.conductor.stages import STAGES
from pipelines.features.feature_tables import source_schema
from pipelines.flow.lock import only_writer
from pipelines.flow.outcome import Outcome, StageOutcome
from pipelines.flow.stage import Context, Stage, everything
from pipelines.vector_index.repair import repair
from pipelines.vector_index.state import states
from transformations.errors import ConfigurationError

log = logging.getLogger(__name__)


def rebuild(context: Context, name: str) -> Outcome:
    """Compute the tables of a stage again, then run the later stages.

    Args:
        name: a stage, such as chunk-documents, or a table, such as silver.chunks. If the table is damaged and only
            records what happened, it keeps what is left of it.

    Raises:
        ConfigurationError: no stage or table has that name; its source does not exist; or it records what cannot be
            computed, and is not damaged.
    """
    # One lock for all of it: rows that another run wrote in between would be neither repaired nor computed.
    with only_writer(context.settings):
        return _rebuild(context, name)


def _rebuild(context: Context, name: str) -> Outcome:
    start = time.monotonic()
    is_mended = context.lake.is_declared(name) and _mended(context, name)
    found = [(stage, each) for stage, each in _all(context) if name in _names(stage, each)]
    if is_mended and (not found or found[0][0].records):
        outcome = advance(context, stages=STAGES)
        return Outcome(context.run_id, outcome.stages, time.monotonic() - start)
    if not found and context.lake.is_declared(name):
        raise ConfigurationError(
            f"rebuild: {name} records what happened, and no file of it is damaged. Nothing was done."
        )
    if not found:
        known = {alias for stage, each in _all(context) for alias in _names(stage, each)}
        raise ConfigurationError.unknown_name("stage or table", name, known)
    if found[0][0].records:
        raise ConfigurationError(f"rebuild: {name} is computed from nothing: {found[0][0].records}. Nothing was done.")
    outcomes = [_rebuilt(stage, each) for stage, each in found]
    later = STAGES[STAGES.index(found[-1][0]) + 1 :]
    outcomes += advance(context, stages=later).stages
    return Outcome(context.run_id, tuple(outcomes), time.monotonic() - start)


def _all(context: Context) -> Iterator[tuple[Stage, Context]]:
    for stage in STAGES:
        for each in stage.contexts(context):
            yield stage, each


def _names(stage: Stage, context: Context) -> set[str]:
    return {stage.command, *stage.targets_of(context), *stage.names}


def _mended(context: Context, table: str) -> bool:
    """Repair the table if it is damaged, so that what is left of it can be read. Returns whether it was damaged."""
    done = context.lake.mend(table)
    if done is not None:
        log.warning("rebuild: %s was damaged: %s", table, done)
    return done is not None


def _rebuilt(stage: Stage, context: Context) -> StageOutcome:
    for table in stage.targets_of(context):
        _mended(context, table)
    source, target = stage.sources_of(context)[0], next(iter(stage.targets_of(context)), stage.command)
    # The source of a feature table may be a table of the user.
    is_there = context.lake.is_declared(source) or source_schema(context.lake, source) is not None
    if not is_there or context.lake.head(source) is None:
        raise ConfigurationError(
            f"rebuild: {target} is computed from {source}, which is not there. Make it with: lakeloop run"
        )
    outcome = run_stage(stage, replace(context, anew=True), everything(stage, context))
    if "index" not in stage.names:
        return outcome
    # The stage compared ids and hashes; `repair` compares the rows themselves.
    counts = dict(outcome.counts)
    for state in states(context.lake, context.settings.index.name):
        if outcome.subject is not None and state.model_name == outcome.subject.name:
            mended = repair(context, state)
            counts["repaired"] = mended["upserts"] + mended["deletes"]
    return replace(outcome, counts=counts)
