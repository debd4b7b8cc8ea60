"""`CatalogLakehouse`: tables of a catalog, addressed by their names in Spark SQL. Every operation needs a session."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.lakehouse import statements
from pipelines.lakehouse.predicates import quoted
from pipelines.lakehouse.schemas import TableSpec
from pipelines.lakehouse.tables import Head, Lakehouse
from pipelines.settings.sections import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, DataFrameReader, DataFrameWriter, SparkSession

# Properties of Delta's own that lakeloop sets.
_SET = frozenset(
    "delta." + name
    for name in ("dataSkippingStatsColumns", "checkpointInterval", "enableChangeDataFeed", "enableDeletionVectors")
)
# Catalogs that keep no keys of tables: Spark's own, and the metastore that Databricks had before Unity Catalog.
_WITHOUT_KEYS = ("spark_catalog", "hive_metastore")


class CatalogLakehouse(Lakehouse):
    """The tables of a workspace in the schemas of a catalog."""

    is_local = False

    def __init__(self, settings: Settings, *, spark: Callable[[], SparkSession]) -> None:
        super().__init__(settings, spark=spark)
        self._completed: set[str] = set()  # tables whose columns were checked in this process

    def identifier(self, table: str) -> str:
        schema, name = table.split(".")
        return f"`{self.settings.catalog}`.`{self.settings.schema_prefix}{schema}`.`{name}`"

    def head(self, table: str) -> Head | None:
        return named_head(self.spark, self.identifier(table))

    def _exists(self, table: str) -> bool:
        return bool(self.spark.catalog.tableExists(self.identifier(table)))

    def _create(self, table: str, spec: TableSpec, configuration: Mapping[str, str]) -> None:
        self._make("CREATE TABLE IF NOT EXISTS", table, spec, configuration)

    def empty(self, table: str) -> None:
        # The constraints go with the old columns. Delta itself names more properties than may be set.
        kept = {k: v for k, v in self.properties(table).items() if k in _SET or not k.startswith("delta.")}
        self._make("CREATE OR REPLACE TABLE", table, self.spec(table), kept)

    def _make(self, verb: str, table: str, spec: TableSpec, configuration: Mapping[str, str]) -> None:
        self.spark.sql(statements.made(verb, self.identifier(table), spec, configuration))

    def _complete(self, table: str) -> None:
        from pyspark.sql.pandas.types import from_arrow_schema

        if table in self._completed:
            return
        if self._exists(table):
            known = {column.lower() for column in self.read(table).columns}  # a catalog's names have no case
            wanted = from_arrow_schema(self.spec(table).schema)
            lacking = {f.name: f.dataType.simpleString() for f in wanted if f.name.lower() not in known}
            if lacking:
                self.add_columns(table, lacking)
        self._completed.add(table)

    def columns(self, table: str) -> pa.Schema | None:
        # Not by pyspark's own conversion of a schema: its argument for the time zone differs between versions.
        return self.read(table).limit(0).toArrow().schema if self._exists(table) else None

    def history(self, table: str) -> list[dict[str, Any]]:
        return [
            {
                "version": row["version"],
                "at": row["timestamp"].astimezone(timezone.utc),
                "operation": row["operation"],
                "metrics": row["operationMetrics"],
            }
            for row in self.spark.sql(f"DESCRIBE HISTORY {self.identifier(table)}").collect()
        ]

    def _detail(self, table: str, column: str) -> Any:
        row = self.spark.sql(f"DESCRIBE DETAIL {self.identifier(table)}").select(column).first()
        return None if row is None else row[column]

    def properties(self, table: str) -> dict[str, str]:
        return dict(self._detail(table, "properties") or {})

    def add_time_key(self, table: str, *, entity: Sequence[str], time: str) -> None:
        if self.settings.catalog in _WITHOUT_KEYS:
            return
        columns = ", ".join([*map(quoted, entity), f"{quoted(time)} TIMESERIES"])
        name = quoted(f"{table.replace('.', '_')}_key")
        self.spark.sql(f"ALTER TABLE {self.identifier(table)} ADD CONSTRAINT {name} PRIMARY KEY ({columns})")

    def file_count(self, table: str) -> int:
        return int(self._detail(table, "numFiles")) if self._exists(table) else 0

    def read_batches(
        self,
        table: str,
        *,
        columns: list[str] | None = None,
        where: Mapping[str, str] | None = None,
        version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        schema = self._schema(table, columns)
        if self._exists(table):
            yield from self._batches_by_spark(table, schema, where, version)

    def _append_rows(self, table: str, rows: pa.Table) -> None:
        self._save(self.spark.createDataFrame(rows).write.format("delta").mode("append"), table)

    def replace_if_unchanged(self, table: str, rows: list[dict[str, Any]], *, version: int) -> bool:
        head = self.head(table)
        if head is None or head.version != version:
            return False
        arrow, mark = pa.Table.from_pylist(rows, schema=self.spec(table).schema), uuid.uuid4().hex
        writer = self.spark.createDataFrame(arrow).write.format("delta").mode("overwrite").option("userMetadata", mark)
        # Somebody may commit after the look above. Of all that have seen one version only the first writes: Delta
        # passes over a transaction whose number it has seen.
        writer = writer.option("txnAppId", "lakeloop-replace").option("txnVersion", version + 1)
        try:
            self._save(writer, table)
        except Exception as error:
            if not statements.is_conflict(error):
                raise
            return False
        last = self.spark.sql(f"DESCRIBE HISTORY {self.identifier(table)} LIMIT 1").select("version", "userMetadata")
        return [tuple(row) for row in last.collect()] == [(version + 1, mark)]

    def _load(self, reader: DataFrameReader, table: str) -> DataFrame:
        return reader.table(self.identifier(table))

    def _save(self, writer: DataFrameWriter, table: str) -> None:
        writer.saveAsTable(self.identifier(table))

    def compact(self, table: str) -> int:
        if not self._exists(table):
            return 0
        row: Any = self.spark.sql(f"OPTIMIZE {self.identifier(table)}").select("metrics.numFilesRemoved").first()
        return int(row[0])

    def vacuum(self, table: str, *, days: int, keep: Sequence[int] = ()) -> int:
        if not keep and self._exists(table):  # VACUUM cannot keep single versions
            self.spark.sql(f"VACUUM {self.identifier(table)} RETAIN {24 * days} HOURS")
        return 0

    def purge(self, table: str) -> str:
        days = self.properties(table).get("delta.deletedFileRetentionDuration", "interval 7 days")
        return f"files of older versions until VACUUM, at the latest after {days.removeprefix('interval ')}"


def named_head(spark: SparkSession, name: str) -> Head | None:
    """The identity and version of any table of a catalog, by its name in Spark SQL; None if it does not exist."""
    try:
        (detail,) = spark.sql(f"DESCRIBE DETAIL {name}").select("id").collect()
    except Exception:  # through Spark Connect each call is a round trip: whether it exists is asked only now
        if spark.catalog.tableExists(name):
            raise
        return None
    (last,) = spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").select("version").collect()
    return Head(str(detail["id"]), int(last["version"]))
