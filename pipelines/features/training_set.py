"""Cuts training sets: joins labels with the features that were known at the time of each label.

The rows of a training set are not stored. ops.training_sets records which tables were joined, at which Delta versions
and how, and the number and the fingerprint of the rows. `recut` joins the same versions in the same way, and gives the
same rows or an error.
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
    import pandas as pd
    from pyspark.sql import DataFrame

TABLE = "ops.training_sets"
# A feature table of up to this many bytes (of Parquet) is broadcast; a larger one is sorted with the labels.
BROADCAST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Lookup:
    """The columns to join from one feature table; see `Features`. `max_age`: seconds; None: that of the table."""

    table: str
    entity: tuple[str, ...]
    columns: tuple[str, ...]
    max_age: float | None = None


@dataclass(frozen=True)
class TrainingSet:
    """A training set.

    Attributes:
        rows: the columns of the labels, then those of each lookup; one row for each label.
        versions: table → the Delta version that was joined.
    """

    training_set_id: str
    rows: DataFrame
    versions: dict[str, int]

    def to_pandas(self) -> pd.DataFrame:
        """The rows in memory; instants are UTC."""
        rows: pd.DataFrame = self.rows.toArrow().to_pandas()
        return rows


def cut(context: Context, *, name: str, labels: str, at: str, lookups: Sequence[Lookup]) -> TrainingSet:
    """Join the current rows of `labels` with the features that were known at each row's `at`, and record the set.

    Args:
        name: what the set is for; several sets may have the same name.
        labels: a table of the lakehouse, of any grain; all its rows are kept.
        at: the column of `labels` with the instant as of which features are looked up.

    Raises:
        ConfigurationError: a table or a column does not exist, or two tables have the same column.
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
    """Join the rows of a recorded training set again.

    Raises:
        ConfigurationError: there is no such training set, or no longer one of its tables.
        ExpectationFailedError: a table was created again since then, or the rows are not those that were recorded.
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
        Lookup(lookup["table"], tuple(lookup["entity"]), tuple(lookup["columns"]), lookup["max_age"])
        for lookup in definition["lookups"]
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
    """The lookup's own limit in seconds, else that of the table's properties; None: no limit."""
    own = lake.properties(lookup.table).get(MAX_AGE)
    return lookup.max_age if lookup.max_age is not None or not own else float(own)


def _counted(rows: DataFrame) -> tuple[int, str]:
    """The number of rows, and a fingerprint of the rows (in any order) and of their columns and types."""
    from pyspark.sql import functions as F

    high, low = fingerprint_lanes(F.sha2(F.concat(F.lit(rows.schema.json()), values_hash(rows, rows.columns)), 256))
    row = rows.agg(F.count(F.lit(1)), high, low).first()
    assert row is not None
    return row[0], fingerprint_of_lanes(row[1], row[2])
