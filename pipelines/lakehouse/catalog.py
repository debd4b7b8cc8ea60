"""`CatalogLakehouse`: tables of a catalog, addressed by their names in Spark SQL. Every operation needs a session."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from pipelines.lakehouse import statements
from pipelines.lakehouse.catalog_log import CatalogLogs, is_no_column, is_no_table
from pipelines.lakehouse.delta_folder import CHANGE_SCHEMA, FEW_ROWS, typed
from pipelines.lakehouse.held_frames import few_in_memory
from pipelines.lakehouse.predicates import quoted
from pipelines.lakehouse.schemas import TABLES, TableSpec
from pipelines.lakehouse.selection import Selection, Where, Which, Without
from pipelines.lakehouse.tables import Head, Lakehouse
from pipelines.settings.sections import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, DataFrameReader, DataFrameWriter, SparkSession

_Read = TypeVar("_Read")
# A stage holds so much in this process; more is the executors' work.
_FEW_BYTES = 8 * 1024 * 1024
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
        self._logs = CatalogLogs(lambda: self.spark)
        self._columns: dict[str, list[str]] = {}  # of the tables that this process has read or asked for; see `_names`
        self._filled: set[str] = set()  # tables of which rows were seen

    def identifier(self, table: str) -> str:
        schema, name = table.split(".")
        return f"`{self.settings.catalog}`.`{self.settings.schema_prefix}{schema}`.`{name}`"

    def head(self, table: str) -> Head | None:
        return self._logs.head(self.identifier(table))

    def look_at(self, tables: Iterable[str]) -> None:
        self._logs.read(map(self.identifier, tables))

    def refresh(self) -> None:
        self._logs.forget_all()
        self._columns.clear()
        self._filled.clear()

    def recall(self, table: str, *, table_id: str, version: int, commit: str) -> None:
        self._logs.recall(self.identifier(table), table_id=table_id, version=version, commit_id=commit)

    def _is_there(self, table: str) -> bool:
        return bool(self._names(table))

    def _names(self, table: str) -> list[str]:
        """Columns that the table has, all of its `TableSpec` if they are there; none if it does not exist."""
        if (known := self._columns.get(table)) is not None:
            return known
        try:
            known = self.read(table).columns
        except Exception as error:
            self._note_absence(error, table)
            return []
        self._columns[table] = known
        return known

    def _note_absence(self, error: Exception, table: str) -> None:
        """Note that there is no such table, until it is made or `refresh` is called.

        If there is one, or it was there before, the error that came of reading it is raised.
        """
        is_known = bool(self._columns.get(table))
        if is_known or (not is_no_table(error) and self.spark.catalog.tableExists(self.identifier(table))):
            raise error
        self._columns[table] = []

    def _create(self, table: str, spec: TableSpec, configuration: Mapping[str, str]) -> None:
        self._make("CREATE TABLE IF NOT EXISTS", table, spec, configuration)

    def empty(self, table: str) -> None:
        # The constraints go with the old columns. Delta itself names more properties than may be set.
        kept = {k: v for k, v in self.properties(table).items() if k in _SET or not k.startswith("delta.")}
        self._make("CREATE OR REPLACE TABLE", table, self.spec(table), kept)

    def _make(self, verb: str, table: str, spec: TableSpec, configuration: Mapping[str, str]) -> None:
        with self._committing(table, columns=True):
            self.spark.sql(statements.made(verb, self.identifier(table), spec, configuration))

    @contextmanager
    def _committing(self, table: str, *, columns: bool = False) -> Iterator[None]:
        """The block may commit to the table: its log, and its `columns`, are then asked again, also after an error."""
        try:
            yield
        finally:
            self._logs.forget(self.identifier(table))
            if columns:
                self._columns.pop(table, None)

    def _complete(self, table: str) -> None:
        wanted = {name.lower() for name in self.spec(table).columns}  # a catalog's names have no case
        known = {name.lower() for name in self._columns.get(table, [])}
        if wanted <= known or self._columns.get(table) == []:
            return
        self._columns.pop(table, None)  # what was read says of no other columns
        known = {name.lower() for name in self._names(table)}
        if not known or wanted <= known:
            return
        from pyspark.sql.pandas.types import from_arrow_schema

        types = from_arrow_schema(self.spec(table).schema)
        self.add_columns(table, {f.name: f.dataType.simpleString() for f in types if f.name.lower() not in known})

    def columns(self, table: str) -> pa.Schema | None:
        # Not by pyspark's own conversion of a schema: its argument for the time zone differs between versions.
        return self.read(table).limit(0).toArrow().schema if self._is_there(table) else None

    def history(self, table: str, *, since: int = 0) -> list[dict[str, Any]]:
        commits = self._logs.commits(self.identifier(table), since=since) or []
        return [
            {"version": c.version, "at": c.at, "operation": c.operation, "metrics": c.metrics, "id": c.commit_id}
            | {"note": c.note, "parameters": c.parameters}
            for c in commits
        ]

    def _detail(self, table: str, column: str) -> Any:
        row = self.spark.sql(f"DESCRIBE DETAIL {self.identifier(table)}").select(column).first()
        return None if row is None else row[column]

    def properties(self, table: str) -> dict[str, str]:
        return dict(self._detail(table, "properties") or {})

    def set_properties(self, table: str, properties: Mapping[str, str]) -> None:
        with self._committing(table):
            super().set_properties(table, properties)

    def add_columns(self, table: str, types: Mapping[str, str]) -> None:
        with self._committing(table, columns=True):
            super().add_columns(table, types)

    def replace(self, table: str, rows: DataFrame, *, note: str = "") -> None:
        with self._committing(table, columns=True):
            super().replace(table, rows, note=note)

    def add_time_key(self, table: str, *, entity: Sequence[str], time: str) -> None:
        if self.settings.catalog in _WITHOUT_KEYS:
            return
        columns = ", ".join([*map(quoted, entity), f"{quoted(time)} TIMESERIES"])
        name = quoted(f"{table.replace('.', '_')}_key")
        with self._committing(table):
            self.spark.sql(f"ALTER TABLE {self.identifier(table)} ADD CONSTRAINT {name} PRIMARY KEY ({columns})")

    def file_count(self, table: str) -> int:
        return int(self._detail(table, "numFiles")) if self._is_there(table) else 0

    def read_batches(
        self,
        table: str,
        *,
        columns: list[str] | None = None,
        where: Where | None = None,
        which: Which | None = None,
        version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        is_alone = isinstance(which, Without) and not self._is_there(which.other)
        selection = Selection(where or {}, None if is_alone else which)
        if selection.is_empty or (version is None and self._columns.get(table) == []):
            return
        schema = self._schema(table, columns)

        def read(names: Sequence[str]) -> pa.Table:
            return self._rows_by_spark(table, names, selection, version)

        try:
            rows = self._of_those_there(table, schema.names, read, version=version)
        except Exception as error:
            if version is not None:  # who knows a version knows that the table was there
                raise
            self._note_absence(error, table)
            return
        if rows.num_rows:
            self._filled.add(table)
        yield from typed(rows, schema).to_batches()

    def _of_those_there(
        self, table: str, names: Sequence[str], read: Callable[[Sequence[str]], _Read], *, version: int | None = None
    ) -> _Read:
        """What `read` gives of those columns that the table has; one of an older lakeloop may lack some."""
        # To ask for its columns is a round trip, and nearly every table has them all.
        if version is not None or not self._columns.get(table):
            try:
                found = read(names)
            except Exception as error:
                if not is_no_column(error):
                    raise
            else:
                # The columns that a user declares may become more.
                if version is None and table in TABLES and {*self.spec(table).columns} <= {*names}:
                    self._columns[table] = [*names]
                return found
        known = self._names(table) if version is None else self.read(table, version=version).columns
        return read([name for name in names if name in {*known, *CHANGE_SCHEMA.names}])

    def few_rows(self, table: str, *, version: int | None = None, columns: Sequence[str] = ()) -> pa.Table | None:
        return self._few(table, self.read(table, version=version), self._schema(table, [*columns]), version=version)

    def few_keys(self, table: str, key: str, values: Sequence[str]) -> pa.Table | None:
        if len(values) > FEW_ROWS:
            return None
        schema = self.spec(table).schema
        return self._few(table, super().read_keys(table, key, values), schema) if values else schema.empty_table()

    def few_changes(self, table: str, *, after: int, until: int, columns: Sequence[str] = ()) -> pa.Table | None:
        schema = pa.schema([*self._schema(table, [*columns]), *CHANGE_SCHEMA])
        if after == until:
            return schema.empty_table()
        return self._few(table, self._feed(table, after=after, until=until), schema)

    def _few(self, table: str, frame: DataFrame, schema: pa.Schema, *, version: int | None = None) -> pa.Table | None:
        if table not in TABLES:  # the user's columns may be of types that Arrow and Spark do not have in common
            return None

        def read(names: Sequence[str]) -> pa.Table | None:
            held = pa.schema([field for field in schema if field.name in names])
            return few_in_memory(frame, held, rows=FEW_ROWS, size=_FEW_BYTES)

        rows = self._of_those_there(table, schema.names, read, version=version)
        return None if rows is None else typed(rows, schema)

    def _append_rows(self, table: str, rows: pa.Table) -> None:
        self._save(self.spark.createDataFrame(rows).write.format("delta").mode("append"), table)

    def merge(self, table: str, changes: DataFrame, *, rows: int | None = None, within: str = "TRUE") -> None:
        if self._was_just_made(table):
            self.append(table, changes.where("_op <> 'delete'"))  # takes seconds less than a MERGE
            return
        with self._committing(table):
            statements.merge(self.identifier(table), changes, spec=self.spec(table), within=within)

    def _was_just_made(self, table: str) -> bool:
        """Whether nothing but its making was committed to the table. What was read before is no proof of that."""
        if table in self._filled:
            return False
        name = self.identifier(table)
        for _ in range(2):
            newest = self._logs.newest(name)
            if newest is None or (newest.version, newest.operation) != (0, "CREATE TABLE"):
                return False
            self._logs.forget(name)
        return True

    def _delete_rows(self, table: str, where: Mapping[str, Sequence[str]]) -> int:
        with self._committing(table):
            return super()._delete_rows(table, where)

    def replace_if_unchanged(self, table: str, rows: list[dict[str, Any]], *, version: int) -> bool:
        name = self.identifier(table)
        self._logs.forget(name)
        newest = self._logs.newest(name)
        if newest is None or newest.version != version:
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
        since = self._logs.commits(name, since=version + 1) or []
        return (version + 1, mark) in [(commit.version, commit.note) for commit in since]

    def _load(self, reader: DataFrameReader, table: str) -> DataFrame:
        return reader.table(self.identifier(table))

    def _save(self, writer: DataFrameWriter, table: str) -> None:
        with self._committing(table):
            writer.saveAsTable(self.identifier(table))

    def compact(self, table: str) -> int:
        if not self._is_there(table):
            return 0
        with self._committing(table):
            row: Any = self.spark.sql(f"OPTIMIZE {self.identifier(table)}").select("metrics.numFilesRemoved").first()
        return int(row[0])

    def vacuum(self, table: str, *, days: int, keep: Sequence[int] = ()) -> int:
        if not keep and self._is_there(table):  # VACUUM cannot keep single versions
            with self._committing(table):
                self.spark.sql(f"VACUUM {self.identifier(table)} RETAIN {24 * days} HOURS")
        return 0

    def purge(self, table: str) -> str:
        days = self.properties(table).get("delta.deletedFileRetentionDuration", "interval 7 days")
        return f"files of older versions until VACUUM, at the latest after {days.removeprefix('interval ')}"
