"""The settings of a record source in; the names and columns of its tables, and its contract, out.

Every source has five tables: bronze.records_NAME (arrivals), silver.records_NAME (now), …_history (what was true when)
and …_quarantine (refused), and for sources of files bronze.records_NAME_files (which files arrived).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from expectations.contracts import Contract
from expectations.rules import Rule
from pipelines.lakehouse import Lakehouse
from pipelines.schemas.spec import INT, LONG, STRING, STRINGS, TIMESTAMP, TableSpec, table_spec
from pipelines.settings import Settings
from pipelines.settings_records import RecordSettings
from transformations.column_types import arrow_type, widens
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# What every row of bronze has beside its record; `_changed_at` orders where the contract names no order.
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
_NOW = (("_changed_at", TIMESTAMP), ("_ingested_at", TIMESTAMP), ("_run_id", STRING))
FILES = table_spec(
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
    """One source of records, with its contract: as declared, or with what its table has gained since.

    `order_by` orders the changes of a key; `then_by` decides between changes of one key and one `order_by`.
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
        """The columns that make a row another version: all but those that say which, and when."""
        return [c for c in self.contract.columns if c not in (*self.settings.key, *self.settings.order_by)]

    def specs(self) -> dict[str, TableSpec]:
        """The columns of the source's tables under its contract."""
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
            self.bronze: table_spec(*columns, *ARRIVAL, change_feed=True),
            self.files: FILES,
            self.silver: table_spec(*columns, *_NOW, key=key, change_feed=True),
            self.history: table_spec(*columns, *interval, *ordered, *_NOW, key=f"{key} valid_from", change_feed=True),
            self.quarantine: table_spec(*refused, *place, key="record_id"),
        }


def record_source(settings: Settings, name: str) -> RecordSource:
    """The source `name` with the contract that lakeloop.yml declares."""
    of = settings.records[name]
    rules = tuple(Rule(r.name, r.predicate, r.level) for r in of.rules)
    required = (*of.order_by, *of.required)
    table = f"silver.records_{name}"
    return RecordSource(name, of, Contract(table, of.types, of.key, required, of.evolution, rules))


def refining(settings: Settings) -> str:
    """What of the one source in `settings` decides how its arrivals become silver."""
    ((_, of),) = settings.records.items()
    said = of.model_dump(include={"columns", "key", "order_by", "required", "evolution", "rules"})
    return json.dumps({**said, "null": of.options.get("nullValue")}, sort_keys=True)


def declare(lake: Lakehouse, source: RecordSource) -> RecordSource:
    """Tell the lakehouse of the source's tables."""
    for table, spec in source.specs().items():
        lake.declare(table, spec)
    return source


def evolved(lake: Lakehouse, source: RecordSource) -> RecordSource:
    """The source with what its bronze table has gained beyond the declared contract; needs Spark."""
    lake.ensure(source.bronze)
    technical = {name for name, _ in ARRIVAL}
    has = {c: of for c, of in spark_columns(lake.read(source.bronze)).items() if c not in technical}
    return declare(lake, replace(source, contract=source.contract.widened(has)))


def spark_columns(rows: DataFrame) -> dict[str, str]:
    """Name → canonical type of a frame's columns."""
    types = {f.name: f.dataType.simpleString().replace("timestamp_ntz", "timestamp") for f in rows.schema.fields}
    return {name: "string" if of.startswith(("char(", "varchar(")) else of for name, of in types.items()}


def follow(lake: Lakehouse, table: str) -> int:
    """Bring a table's columns to its spec: add those that it lacks, widen those that are narrower. Returns how many.

    A column is added in place. A wider type writes the table anew in one commit: Delta's own type widening would do
    it in place, but makes the table unreadable for delta-rs, by which searches and idle runs read without a JVM.
    Whoever reads the table's change feed compares everything after such a commit.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    wanted = {f.name: f.dataType for f in from_arrow_schema(lake.spec(table).schema).fields}
    lake.ensure(table)
    rows = lake.read(table)
    has = {f.name: f.dataType for f in rows.schema.fields}
    added = [name for name in wanted if name not in has]
    if added:
        columns = ", ".join(f"`{name}` {wanted[name].simpleString()}" for name in added)
        lake.spark.sql(f"ALTER TABLE {lake.identifier(table)} ADD COLUMNS ({columns})")
    wider = {name: of for name, of in wanted.items() if name in has and has[name].simpleString() != of.simpleString()}
    for name, of in wider.items():
        old, new = has[name].simpleString(), of.simpleString()
        if not widens(old, new) and new != "string":
            raise ConfigurationError(
                f"{table} has the column {name!r} as {old}, and the contract now says {new}, which does not hold every "
                f"{old}. Give the column a new name in lakeloop.yml, or remove the tables of the source and run again."
            )
    if wider:
        cast = [F.col(f"`{c}`").cast(wider[c]).alias(c) if c in wider else F.col(f"`{c}`") for c in rows.columns]
        writer = lake.read(table).select(*cast, *[F.col(f"`{c}`") for c in added]).write.format("delta")
        writer = writer.mode("overwrite").option("overwriteSchema", "true")
        writer.save(str(lake.folder(table))) if lake.is_local else writer.saveAsTable(lake.identifier(table))
    return len(added) + len(wider)
