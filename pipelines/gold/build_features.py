"""build-features: merges the changes of a source into gold.features_NAME, as if it were built from scratch.

A change of a source row can affect only the feature rows of its entity whose windows include it. Those are computed
again from the source's rows of these entities and times, and the differences are merged. The tables use deletion
vectors, so that a merge writes only the changed rows and does not rewrite every file that has one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from pipelines.features.feature_tables import declare, feature_table, properties_of, target_of, typed
from pipelines.flow.changed_rows import apply_changes, stamped
from pipelines.flow.stage import Context, Counts, Stage, Subject, Versions, Work, moved
from pipelines.lakehouse.tables import Lakehouse
from transformations.errors import ConfigurationError
from transformations.features.feature_table import FeatureTable, feature_rows, is_usable, step_end, touched_steps
from transformations.tables.changes import net_changes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)
_MICROSECOND = timedelta(microseconds=1)


def subjects(context: Context) -> list[Subject]:
    """The feature tables of the settings, as subjects of the stage."""
    tables = [feature_table(name) for name in context.settings.features]
    return [Subject("features", table.name, table, reads=table.source) for table in tables]


def look(context: Context) -> Work | None:
    """The versions of the source that were not read yet; None while the source does not exist."""
    return moved(STAGE, context) if declare(context.lake, context.about(FeatureTable)) else None


def work(context: Context, due: Work) -> Counts:
    """Update one feature table. Counts: its rows insert, update, delete; left_out: source rows in no feature row.

    Raises:
        ConfigurationError: the table has other columns than its definition now gives.
    """
    table, versions = context.about(FeatureTable), due.first
    lake, target = context.lake, target_of(table)
    declare(lake, table)
    _ensure(lake, table, may_replace=context.anew)
    is_empty = lake.read(target).isEmpty()
    if is_empty:  # perhaps emptied for other columns, by a run that ended before it was filled
        versions = replace(versions, since=None)
    source = lake.read(table.source, version=versions.until)
    left_out = {"left_out": _left_out(context, table, versions, source)}
    within = "TRUE"
    if versions.since is None:
        desired = _typed(context, source, table, versions)
        if is_empty:
            before = lake.ensure(target).version
            lake.append(target, desired)
            return {"insert": _written(lake, target, after=before), "update": 0, "delete": 0, **left_out}
        current = lake.read(target)
    else:
        feed = lake.read_changes(table.source, after=versions.since, until=versions.until)
        reached = context.frames.hold(touched_steps(feed, table), is_repeatable=True)
        bounds = _bounds(reached)
        if bounds is None:
            return {"insert": 0, "update": 0, "delete": 0, **left_out}
        desired = _typed(context, _inputs(source, table, reached, bounds), table, versions)
        desired = _reached(desired, table, reached, bounds)
        current = _reached(lake.read(target), table, reached, bounds)
        within = _within("target.`event_at`", bounds)
    changes = net_changes(current, desired, key=table.key, compare=["known_at", *table.columns])
    return {**apply_changes(context, target, changes, within=within), **left_out}


def _left_out(context: Context, table: FeatureTable, versions: Versions, source: DataFrame) -> int:
    """How many rows of these versions are in no feature row: a null entity or time, or an instant out of range."""
    if versions.since is not None:
        source = context.lake.read_changes(table.source, after=versions.since, until=versions.until)
        source = source.where("_change_type IN ('insert', 'update_postimage')")
    found = source.where(~is_usable(source, table)).count()
    if found:
        log.warning(
            "build-features: %s rows of %s count in no row of %s: one of %s is null, or an instant is not of the years "
            "1 to 9999",
            found,
            table.source,
            target_of(table),
            [*table.entity, table.event_at, table.known_at],
        )
    return found


def _typed(context: Context, source: DataFrame, table: FeatureTable, versions: Versions) -> DataFrame:
    rows = stamped(context, feature_rows(source, table), versions=versions)
    return typed(rows, context.lake.spec(target_of(table)))


def _bounds(reached: DataFrame) -> tuple[int, int] | None:
    """The first and last step (microseconds since 1970) of all entities, to skip files; None if nothing changed."""
    from pyspark.sql import functions as F

    row = reached.agg(F.min("_first"), F.max("_last")).first()
    return None if row is None or row[0] is None else (row[0], row[1])


def _within(column: str, bounds: tuple[int, int]) -> str:
    """The condition that `column` is within the bounds, as SQL because a MERGE needs it as text."""
    return f"{column} BETWEEN timestamp_micros({bounds[0]}) AND timestamp_micros({bounds[1]})"


def _inputs(source: DataFrame, table: FeatureTable, reached: DataFrame, bounds: tuple[int, int]) -> DataFrame:
    """The rows of the source that the affected feature rows are computed from."""
    from pyspark.sql import functions as F

    longest = table.longest // _MICROSECOND
    rows = source.where(_within(f"CAST(`{table.event_at}` AS TIMESTAMP)", (bounds[0] - longest, bounds[1])))
    rows = rows.join(F.broadcast(reached), list(table.entity))
    end = step_end(table.event_at, every=table.every)
    return rows.where((end > F.col("_first") - longest) & (end <= F.col("_last"))).drop("_first", "_last")


def _reached(rows: DataFrame, table: FeatureTable, reached: DataFrame, bounds: tuple[int, int]) -> DataFrame:
    """The feature rows that a change can affect: of its entity, between its first and last step."""
    from pyspark.sql import functions as F

    rows = rows.where(_within("`event_at`", bounds)).join(F.broadcast(reached), list(table.entity))
    return rows.where(F.unix_micros("event_at").between(F.col("_first"), F.col("_last"))).drop("_first", "_last")


def _ensure(lake: Lakehouse, table: FeatureTable, *, may_replace: bool) -> None:
    """Create the table if it does not exist, and write its definition into its properties.

    A table with the same columns in other types is emptied, to be filled again; so is one with other columns if
    `may_replace`.

    Raises:
        ConfigurationError: the table has other columns, and not `may_replace`.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    target = target_of(table)
    lake.create(target)
    is_new = "lakeloop.primaryKey" not in lake.properties(target)
    rows, spec = lake.read(target), lake.spec(target)
    if rows.columns != spec.columns and not may_replace:
        raise ConfigurationError(
            f"build-features: {target} has the columns {rows.columns}, and its definition now gives {spec.columns}. "
            f"Give the definition a new name, or make the table anew: lakeloop rebuild {target}"
        )
    wanted = from_arrow_schema(spec.schema)
    if [(f.name, f.dataType) for f in rows.schema] != [(f.name, f.dataType) for f in wanted]:
        # The types differ (a column of the source became wider) or the columns do: emptied in one commit, and filled
        # again by `work`.
        lake.empty(target)
        is_new = True
    if is_new:
        lake.add_time_key(target, entity=table.entity, time="event_at")
    lake.set_properties(target, properties_of(table))


def _written(lake: Lakehouse, target: str, *, after: int) -> int:
    """How many rows the append after version `after` added, from the metrics of its commit."""
    metrics = next(c["metrics"] for c in lake.history(target) if c["version"] > after)
    return int(metrics.get("numOutputRows", 0))


STAGE = Stage(
    "build-features",
    "The source of each feature table in the settings → gold.features_*.",
    look,
    work,
    sources=("?",),
    targets=("gold.features_*",),
    code_version=2,
    decided_by=lambda context: context.about(FeatureTable).fingerprint,
    subjects=subjects,
)
