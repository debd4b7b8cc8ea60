"""Table names in; versions, rows and change feeds out, and the two ways a table is written: append and merge.

A table is `schema.table`, as in design.md. It lives in a Unity Catalog catalog where `catalog` is set, otherwise in a
Delta folder. Folders are also read and appended to without a JVM (by delta-rs): that is what lets a run with nothing
to do, a search or an answer take milliseconds. Changes of keyed tables always go through Spark.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.schemas import TABLES, TableSpec
from pipelines.settings import Settings
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Head:
    """A table as it stands: its identity (a re-created table has another) and its version."""

    table_id: str
    version: int


class Lakehouse:
    """All tables of one workspace.

    Args:
        settings: where the tables are.
        spark: called when Spark is first needed, never before.
    """

    def __init__(self, settings: Settings, *, spark: Callable[[], SparkSession]) -> None:
        self.settings = settings
        self._spark = spark

    @cached_property
    def spark(self) -> SparkSession:
        return self._spark()

    @property
    def is_local(self) -> bool:
        return self.settings.catalog is None

    def spec(self, table: str) -> TableSpec:
        if table not in TABLES:
            raise ConfigurationError.unknown_name("table", table, TABLES)
        return TABLES[table]

    def folder(self, table: str) -> Path:
        schema, name = table.split(".")
        return self.settings.path(self.settings.lakehouse) / f"{self.settings.schema_prefix}{schema}" / name

    def identifier(self, table: str) -> str:
        """What Spark SQL calls the table."""
        schema, name = table.split(".")
        if self.is_local:
            return f"delta.`{self.folder(table)}`"
        return f"`{self.settings.catalog}`.`{self.settings.schema_prefix}{schema}`.`{name}`"

    # -- state, without a JVM where tables are folders ------------------------------------------------------------

    def head(self, table: str) -> Head | None:
        """The table's identity and version, or None where it does not exist."""
        if self.is_local:
            delta = self._open(table)
            return None if delta is None else Head(str(delta.metadata().id), delta.version())
        if not self.spark.catalog.tableExists(self.identifier(table)):
            return None
        detail = self.spark.sql(f"DESCRIBE DETAIL {self.identifier(table)}").select("id").first()
        last = self.spark.sql(f"DESCRIBE HISTORY {self.identifier(table)} LIMIT 1").select("version").first()
        assert detail is not None
        assert last is not None
        return Head(str(detail["id"]), int(last["version"]))

    def ensure(self, table: str) -> Head:
        """The table's head; it is created empty where it does not exist."""
        head = self.head(table)
        if head is not None:
            return head
        spec = self.spec(table)
        configuration = {"delta.enableChangeDataFeed": "true"} if spec.change_feed else {}
        if self.is_local:
            from deltalake import DeltaTable

            self.folder(table).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(
                str(self.folder(table)),
                schema=spec.schema,
                mode="ignore",
                partition_by=list(spec.partition_by) or None,
                configuration=configuration or None,
            )
        else:
            from delta.tables import DeltaTable as SparkDeltaTable
            from pyspark.sql.pandas.types import from_arrow_schema

            builder = SparkDeltaTable.createIfNotExists(self.spark).tableName(self.identifier(table))
            builder = builder.addColumns(from_arrow_schema(spec.schema))
            for key, value in configuration.items():
                builder = builder.property(key, value)
            builder.execute()
        head = self.head(table)
        assert head is not None
        return head

    # -- small reads and appends ----------------------------------------------------------------------------------

    def read_arrow(self, table: str, *, columns: list[str] | None = None) -> pa.Table:
        """The whole table, or some of its columns; no rows where it does not exist."""
        if self.is_local:
            delta = self._open(table)
            if delta is not None:
                # Not through pyarrow's own reader: its threads can abort a process that ends soon after.
                return self._typed(table, pa.table(delta.scan(columns=columns)))
        elif self.head(table) is not None:
            frame = self.read(table)
            return self._typed(table, (frame.select(*columns) if columns else frame).toArrow())
        empty = self.spec(table).schema.empty_table()
        return empty.select(columns) if columns else empty

    def append_arrow(self, table: str, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Append rows in one commit. Lists of dicts take the table's own types; missing keys are null."""
        spec = self.spec(table)
        self.ensure(table)
        if isinstance(rows, list):
            rows = pa.Table.from_pylist(rows, schema=spec.schema)
        if rows.num_rows == 0:
            return
        if self.is_local:
            from deltalake import write_deltalake

            write_deltalake(str(self.folder(table)), rows, mode="append")
        else:
            self.spark.createDataFrame(rows).write.mode("append").saveAsTable(self.identifier(table))

    # -- Spark ----------------------------------------------------------------------------------------------------

    def read(self, table: str, *, version: int | None = None) -> DataFrame:
        """The table as a frame, at `version` where given. Create it first (`ensure`)."""
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(str(self.folder(table))) if self.is_local else reader.table(self.identifier(table))

    def read_changes(self, table: str, *, after: int, until: int) -> DataFrame:
        """The change feed of versions (after, until], with Delta's `_change_type` and `_commit_version`."""
        reader = self.spark.read.format("delta").option("readChangeFeed", "true")
        reader = reader.option("startingVersion", after + 1).option("endingVersion", until)
        return reader.load(str(self.folder(table))) if self.is_local else reader.table(self.identifier(table))

    def append(self, table: str, rows: DataFrame) -> None:
        """Append a frame that has the table's columns, in any order."""
        self.ensure(table)
        writer = rows.select(*self.spec(table).columns).write.format("delta").mode("append")
        if self.is_local:
            writer.save(str(self.folder(table)))
        else:
            writer.saveAsTable(self.identifier(table))

    def merge(self, table: str, changes: DataFrame) -> None:
        """Apply net changes: rows of the table with `_op` insert, update or delete, at most one a key."""
        from delta.tables import DeltaTable as SparkDeltaTable

        spec = self.spec(table)
        target = (
            SparkDeltaTable.forPath(self.spark, str(self.folder(table)))
            if self.is_local
            else SparkDeltaTable.forName(self.spark, self.identifier(table))
        )
        values = {column: f"changes.`{column}`" for column in spec.columns}
        (
            target.alias("target")
            .merge(changes.alias("changes"), " AND ".join(f"target.`{k}` <=> changes.`{k}`" for k in spec.key))
            .whenMatchedDelete("changes._op = 'delete'")
            .whenMatchedUpdate(set=values)  # type: ignore[arg-type]
            .whenNotMatchedInsert("changes._op <> 'delete'", values=values)  # type: ignore[arg-type]
            .execute()
        )

    def _typed(self, table: str, rows: pa.Table) -> pa.Table:
        """`rows` with the table's own types: engines give strings and instants in forms of their own."""
        schema = self.spec(table).schema
        return rows.cast(pa.schema([schema.field(name) for name in rows.column_names]))

    def _open(self, table: str) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        self.spec(table)
        with suppress(TableNotFoundError):
            if (self.folder(table) / "_delta_log").is_dir():
                return DeltaTable(str(self.folder(table)))
        return None
