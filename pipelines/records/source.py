"""A record source: the names and columns of its tables, and its contract.

A source has the tables bronze.records_NAME (arrivals), silver.records_NAME (what is true now),
silver.records_NAME_history (what was true when) and silver.records_NAME_quarantine (refused); a source of files has
bronze.records_NAME_files (which files arrived) too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from expectations.rules.rules import Rule
from expectations.tables.contracts import Contract
from pipelines.flow.stage import Context, Subject
from pipelines.lakehouse.delta_folder import FEW_ROWS
from pipelines.lakehouse.schemas.spec import INT, LONG, STRING, STRINGS, TIMESTAMP, TableSpec, table_spec
from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.records import RecordSettings
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError
from transformations.tables.column_types import arrow_type, widens
from transformations.tables.records import as_text

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import StructField

log = logging.getLogger(__name__)
# The columns of bronze besides those of the record; `_changed_at` orders the rows if the settings name no `order_by`.
ARRIVAL = (
    ("_op", STRING),
    ("_changed_at", TIMESTAMP),
    ("_source_file", STRING),
    ("_source_version", LONG),
    ("_offset", LONG),
    ("_rescued", STRING),
    ("_texts", pa.map_(STRING, STRING)),
    ("_ingested_at", TIMESTAMP),
    ("_run_id", STRING),
)
# The note of a commit that rewrote the rows which a table had.
REWRITTEN = "the same rows"
_NOW = (("_changed_at", TIMESTAMP), ("_ingested_at", TIMESTAMP), ("_run_id", STRING))
FILES = table_spec(
    "arrivals",
    ("path", STRING),
    ("size", LONG),
    ("modified_at", TIMESTAMP),
    ("content_hash", STRING),
    ("is_arrival", pa.bool_()),
    ("_ingested_at", TIMESTAMP),
    ("_run_id", STRING),
)


@dataclass(frozen=True)
class RecordSource:
    """One source of records with its contract: as lakeloop.yml declares it, or as `evolved` has extended it.

    `order_by` orders the changes of a key; `then_by` decides between changes with the same key and `order_by`.
    """

    name: str
    settings: RecordSettings
    contract: Contract

    @property
    def bronze(self) -> str:
        return f"bronze.records_{self.name}"

    @property
    def files(self) -> str:
        return f"bronze.records_{self.name}_files"

    @property
    def silver(self) -> str:
        return f"silver.records_{self.name}"

    @property
    def history(self) -> str:
        return f"silver.records_{self.name}_history"

    @property
    def quarantine(self) -> str:
        return f"silver.records_{self.name}_quarantine"

    @property
    def order_by(self) -> str:
        return self.settings.order_by[0] if self.settings.order_by else "_changed_at"

    @property
    def then_by(self) -> tuple[str, ...]:
        return self.settings.order_by[1:] if self.settings.order_by else ("_source_version", "_offset")

    @property
    def compared(self) -> list[str]:
        """The columns in which a row must differ to be another version: all but the key and `order_by`."""
        return [c for c in self.contract.columns if c not in (*self.settings.key, *self.settings.order_by)]

    def specs(self) -> dict[str, TableSpec]:
        """The specs of the source's tables under its contract, by name of the table."""
        columns = [(name, arrow_type(of)) for name, of in self.contract.columns.items()]
        key = " ".join(self.settings.key)
        ordered = [] if self.settings.order_by else [("_source_version", LONG), ("_offset", LONG)]
        order_type = dict([*columns, *ARRIVAL])[self.order_by]
        interval = [
            ("valid_from", order_type),
            ("valid_to", order_type),
            ("is_current", pa.bool_()),
            ("_marks", STRING),
        ]
        refused = [
            ("record_id", STRING),
            ("record", STRING),
            ("failed_rules", STRINGS),
            ("reason", STRING),
            ("content_hash", STRING),
            ("attempts", INT),
            ("replayed_at", TIMESTAMP),
        ]
        place = [(name, of) for name, of in ARRIVAL if name not in ("_op", "_rescued", "_texts", "_changed_at")]
        return {
            self.bronze: table_spec("arrivals", *columns, *ARRIVAL, change_feed=True),
            self.files: FILES,
            self.silver: table_spec("current", *columns, *_NOW, key=key, change_feed=True),
            self.history: table_spec(
                "history", *columns, *interval, *ordered, *_NOW, key=f"{key} valid_from", change_feed=True
            ),
            self.quarantine: table_spec("quarantine", *refused, *place, key="record_id"),
        }


def record_source(settings: Settings, name: str) -> RecordSource:
    """The source `name` with the contract that lakeloop.yml declares."""
    source = settings.records[name]
    rules = tuple(Rule(r.name, r.predicate, r.level) for r in source.rules)
    required = (*source.order_by, *source.required)
    table = f"silver.records_{name}"
    return RecordSource(
        name, source, Contract(table, source.types, source.key, required, source.evolution, rules, source.order_by)
    )


def source_subjects(context: Context) -> list[Subject]:
    """The record sources of the settings, as subjects of the stages."""
    sources = [record_source(context.settings, name) for name in context.settings.records]
    return [Subject("source", source.name, source) for source in sources]


def refining(of: RecordSettings) -> str:
    """The settings of a source that decide how its arrivals become silver, as JSON."""
    deciding = of.model_dump(include={"columns", "key", "order_by", "required", "evolution", "rules"})
    return json.dumps({**deciding, "null": of.options.get("nullValue")}, sort_keys=True)


def declare(lake: Lakehouse, source: RecordSource) -> RecordSource:
    """Declare the source's tables to the lakehouse. Returns the source."""
    for table, spec in source.specs().items():
        lake.declare(table, spec)
    return source


def evolved(lake: Lakehouse, source: RecordSource) -> RecordSource:
    """The source with its contract extended by what its bronze table has; its tables are declared. Needs Spark.

    A column gets the type of the table, if that is wider. If the contract evolves, it gets the table's further columns
    too; otherwise the columns are only those that lakeloop.yml names.
    """
    lake.create(source.bronze)
    return declare(lake, evolved_by(source, lake.read(source.bronze)))


def evolved_by(source: RecordSource, arrivals: DataFrame) -> RecordSource:
    """The source with its contract extended by the columns of its bronze table, as `evolved` says."""
    passed_over = {name for name, _ in ARRIVAL}
    has = {c: type_name for c, type_name in spark_columns(arrivals).items() if c not in passed_over}
    if source.contract.evolution != "evolve":
        declared = {name.lower() for name in source.contract.columns}
        has = {c: type_name for c, type_name in has.items() if c.lower() in declared}
    return replace(source, contract=source.contract.widened(has))


def spark_columns(rows: DataFrame) -> dict[str, str]:
    """The columns of a frame: name → canonical type."""
    types = {f.name: f.dataType.simpleString().replace("timestamp_ntz", "timestamp") for f in rows.schema.fields}
    return {
        name: "string" if type_name.startswith(("char(", "varchar(")) else type_name
        for name, type_name in types.items()
    }


def of_keys(rows: DataFrame, wanted: DataFrame, *, key: Sequence[str]) -> DataFrame:
    """The rows whose keys, in all columns of `key`, are among those of `wanted`."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import TimestampType

    keys = wanted.select(*key).distinct()
    data_type, first = rows.schema[key[0]].dataType, F.col(f"`{key[0]}`")
    # As a Python datetime an instant would be in this process's time zone, in which an hour of autumn occurs twice.
    is_instant = isinstance(data_type, TimestampType)
    key_value = F.unix_micros(first) if is_instant else first
    found = [row[0] for row in keys.select(key_value).distinct().limit(FEW_ROWS + 1).collect()]
    if len(found) > FEW_ROWS:
        return rows.join(keys, [*key], "left_semi")
    # Few enough to be a filter, by which Spark skips files with the help of their statistics.
    few = [F.timestamp_micros(F.lit(value)) if is_instant else F.lit(value) for value in found]
    rows = rows.where(first.isin(few) if few else F.lit(False))
    return rows.join(F.broadcast(keys), [*key], "left_semi")


def follow(lake: Lakehouse, table: str) -> int:
    """Bring the columns of a table to its spec. Returns how many were added or have a wider type now.

    A new column is added in place. The table is rewritten in one commit if a type is wider, if a name changed its case,
    or (in silver) if the contract no longer has a column. Delta's type widening and column mapping would do this in
    place, but delta-rs, with which searches and idle runs read without a JVM, cannot read such tables. After the
    rewrite, a reader of the change feed compares everything. Bronze keeps columns that the contract no longer has.

    Raises:
        ConfigurationError: a column cannot become the type of the contract, which does not hold all of its values.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    wanted = {f.name: f.dataType for f in from_arrow_schema(lake.spec(table).schema).fields}
    lake.create(table)
    rows = lake.read(table)
    has = {f.name.lower(): f for f in rows.schema.fields}
    there = {name: has[name.lower()] for name in wanted if name.lower() in has}
    added = [name for name in wanted if name not in there]
    wider = [name for name, f in there.items() if f.dataType.simpleString() != wanted[name].simpleString()]
    for name in wider:
        old, new = there[name].dataType.simpleString(), wanted[name].simpleString()
        if not widens(old, new) and new != "string":
            raise ConfigurationError(
                f"{table} has the column {name!r} as {old}, and the contract now says {new}, which does not hold every "
                f"{old}. Give the column a new name in lakeloop.yml, or remove the tables of the source and run again."
            )
    others = [f.name for f in rows.schema.fields if f.name.lower() not in {name.lower() for name in wanted}]
    gone = [] if table.startswith("bronze.") else others
    if wider or gone or any(f.name != name for name, f in there.items()):
        if gone:
            log.warning("%s: the contract has no longer %s; %s is written without", table, ", ".join(gone), table)
        columns = [
            (_as(there[name], data_type.simpleString()) if name in there else F.lit(None).cast(data_type)).alias(name)
            for name, data_type in wanted.items()
        ]
        write_anew(lake, table, rows.select(*columns, *[F.col(f"`{c}`") for c in others if c not in gone]))
    elif added:
        lake.add_columns(table, {name: wanted[name].simpleString() for name in added})
    return len(added) + len(wider)


def _as(field: StructField, type_name: str) -> Column:
    """A column as a type that holds all its values; if that is string, in the form in which records have texts."""
    from pyspark.sql import functions as F

    column, was = F.col(f"`{field.name}`"), field.dataType.simpleString()
    return as_text(column, was) if type_name == "string" else column.cast(type_name)


def are_there(columns: Sequence[str]) -> Column:
    """True for a row in which none of the columns is null."""
    from pyspark.sql import functions as F

    return F.expr(" AND ".join(f"`{column}` IS NOT NULL" for column in columns))


def write_anew(lake: Lakehouse, table: str, rows: DataFrame) -> None:
    """Replace the rows and columns of a table by those of `rows` in one commit."""
    statistics = "delta.dataSkippingStatsColumns"
    was = [c for c in lake.properties(table).get(statistics, "").split(",") if c]
    wanted = [c for c in lake.spec(table).key or was if c in rows.columns]
    kept = [c for c in was if c in rows.columns]
    if kept != was:  # the property must not name a column that is removed
        lake.set_properties(table, {statistics: ",".join(kept)})
    lake.replace(table, rows, note=REWRITTEN)
    if wanted != kept:
        lake.set_properties(table, {statistics: ",".join(wanted)})
