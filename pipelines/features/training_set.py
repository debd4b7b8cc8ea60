"""Cuts training sets: labels and features joined as of the past, with the Delta versions that they were cut from.

A training set is not stored: ops.training_sets says which tables, at which versions, were joined how, and the number
and the fingerprint of the rows. `recut` joins the same versions in the same way and gives the same rows, or says what
is no longer there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from pipelines.features.feature_tables import MAX_AGE, source_schema
from pipelines.flow.stage import Context
from pipelines.lakehouse.tables import Lakehouse
from transformations.errors import ConfigurationError, ExpectationFailedError
from transformations.features.point_in_time import Features, as_of_join
from transformations.index.fingerprint import fingerprint_lanes, fingerprint_of_lanes
from transformations.tables.canonical import values_hash

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TABLE = "ops.training_sets"
# Up to so many bytes (of Parquet) a feature table goes to the workers, instead of being sorted with the labels.
BROADCAST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Lookup:
    """What to bring over from one feature table; see `Features`. `max_age` is in seconds, None: what the table says."""

    table: str
    entity: tuple[str, ...]
    columns: tuple[str, ...]
    max_age: float | None = None


@dataclass(frozen=True)
class TrainingSet:
    """Its identity, and its rows: the labels' columns, then those of each lookup."""

    training_set_id: str
    rows: DataFrame
    versions: dict[str, int]


def cut(context: Context, *, name: str, labels: str, at: str, lookups: Sequence[Lookup]) -> TrainingSet:
    """Join `labels`, as it is now, with what was known at each row's `at`, and record what that was.

    Args:
        name: what the set is for; several may have the same.
        labels: a table of the lakehouse, any grain; all its rows are kept.

    Raises:
        ConfigurationError: a table or a column is not there, or in two tables.
    """
    lake, tables = context.lake, list(dict.fromkeys([labels, *(lookup.table for lookup in lookups)]))
    heads = {table: _head(lake, table) for table in tables}
    versions = {table: version for table, (_, version) in heads.items()}
    lookups = [replace(lookup, max_age=_max_age(lake, lookup)) for lookup in lookups]
    rows = _joined(lake, labels=labels, at=at, lookups=lookups, versions=versions)
    count, fingerprint = _counted(rows)
    training_set_id = uuid.uuid4().hex
    definition = {"labels": labels, "at": at, "lookups": [asdict(lookup) for lookup in lookups]}
    lake.append_arrow(
        TABLE,
        [
            {
                "training_set_id": training_set_id,
                "name": name,
                "created_at": context.now(),
                "versions": list(versions.items()),
                "table_ids": [(table, table_id) for table, (table_id, _) in heads.items()],
                "rows": count,
                "fingerprint": fingerprint,
                "definition": json.dumps(definition),
                "_run_id": context.run_id,
            }
        ],
    )
    return TrainingSet(training_set_id, rows, versions)


def recut(context: Context, training_set_id: str) -> TrainingSet:
    """The same rows again.

    Raises:
        ConfigurationError: no such training set.
        ExpectationFailedError: a table was made anew since, or the rows are not those that were recorded.
    """
    lake = context.lake
    found = lake.read_arrow(TABLE, where={"training_set_id": training_set_id}).to_pylist()
    if not found:
        known = lake.read_arrow(TABLE, columns=["training_set_id"])["training_set_id"].to_pylist()
        raise ConfigurationError.unknown_name("training set", training_set_id, known)
    (row,) = found
    versions, table_ids = dict(row["versions"]), dict(row["table_ids"])
    for table, table_id in table_ids.items():
        if _head(lake, table)[0] != table_id:
            raise ExpectationFailedError(
                f"training set {training_set_id} was cut from version {versions[table]} of {table}, which was made "
                "anew since: its rows are gone. Cut a new one."
            )
    definition = json.loads(row["definition"])
    lookups = [
        Lookup(of["table"], tuple(of["entity"]), tuple(of["columns"]), of["max_age"]) for of in definition["lookups"]
    ]
    rows = _joined(lake, labels=definition["labels"], at=definition["at"], lookups=lookups, versions=versions)
    count, fingerprint = _counted(rows)
    if (count, fingerprint) != (row["rows"], row["fingerprint"]):
        raise ExpectationFailedError(
            f"training set {training_set_id} had {row['rows']} rows with the fingerprint {row['fingerprint']}; the "
            f"same versions now give {count} with {fingerprint}. Was the code of the join changed since?"
        )
    return TrainingSet(training_set_id, rows, versions)


def _head(lake: Lakehouse, table: str) -> tuple[str, int]:
    head = None if source_schema(lake, table) is None else lake.head(table)
    if head is None:
        raise ConfigurationError(f"a training set was to be cut from {table}, and there is no such table.")
    return head.table_id, head.version


def _joined(lake: Lakehouse, *, labels: str, at: str, lookups: Sequence[Lookup], versions: dict[str, int]) -> DataFrame:
    tables = [
        Features(
            lake.read(lookup.table, version=versions[lookup.table]),
            entity=lookup.entity,
            columns=lookup.columns,
            max_age=None if lookup.max_age is None else timedelta(seconds=lookup.max_age),
            broadcast=lake.size(lookup.table) <= BROADCAST_BYTES,
        )
        for lookup in lookups
    ]
    return as_of_join(lake.read(labels, version=versions[labels]), *tables, at=at)


def _max_age(lake: Lakehouse, lookup: Lookup) -> float | None:
    """The lookup's own limit, else that of the table's definition."""
    own = lake.properties(lookup.table).get(MAX_AGE)
    return lookup.max_age if lookup.max_age is not None or not own else float(own)


def _counted(rows: DataFrame) -> tuple[int, str]:
    """The number of rows and digits that any other bag of rows, or other columns, have not."""
    from pyspark.sql import functions as F

    high, low = fingerprint_lanes(F.sha2(F.concat(F.lit(rows.schema.json()), values_hash(rows, rows.columns)), 256))
    row = rows.agg(F.count(F.lit(1)), high, low).first()
    assert row is not None
    return row[0], fingerprint_of_lanes(row[1], row[2])
