"""Table names in; versions, rows and change feeds out, and the two ways a table is written: append and merge.

A table is `schema.table`, as in design.md. It lives in a Unity Catalog catalog where `catalog` is set, otherwise in a
Delta folder. Folders are also read and appended to without a JVM (by delta-rs): that is what lets a run with nothing
to do, a search or an answer take milliseconds. So are small changes of keyed tables merged; large ones take Spark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.lakehouse import catalog_tables, delta_folder
from pipelines.lakehouse.damage import damaged, is_named, mend
from pipelines.lakehouse.delta_folder import typed
from pipelines.lakehouse.schemas import TABLES, TableSpec
from pipelines.lakehouse.session import write_as_delta_rs_reads
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, DamagedTableError, LakeloopError

if TYPE_CHECKING:
    from delta.tables import DeltaTable as SparkDeltaTable
    from deltalake import DeltaTable
    from pyspark.sql import Column, DataFrame, SparkSession

# Up to here a merge is cheaper in this process than as a Spark job; the rows of one are all in memory.
FEW_ROWS = 2_000
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}\.[a-z][a-z0-9_]{0,120}")


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
        self._declared: dict[str, TableSpec] = {}
        self._completed: set[str] = set()  # tables of a catalog, asked once

    @cached_property
    def spark(self) -> SparkSession:
        return write_as_delta_rs_reads(self._spark(), needed=self.is_local)

    @property
    def is_local(self) -> bool:
        return self.settings.catalog is None

    def declare(self, table: str, spec: TableSpec) -> None:
        """Tell of a table whose columns are the user's own (records, features); from here on it is as any other."""
        if not _TABLE_NAME.fullmatch(table):
            raise ConfigurationError(
                f"{table!r} cannot be the name of a table. Use a schema and a name of lower-case letters, digits "
                "and _, as in silver.records_flights."
            )
        if table in TABLES:
            raise ConfigurationError(f"{table} is a table of lakeloop's own. Choose another name.")
        self._declared[table] = spec

    def is_declared(self, table: str) -> bool:
        return table in TABLES or table in self._declared

    def spec(self, table: str) -> TableSpec:
        known = {**TABLES, **self._declared}
        if table not in known:
            raise ConfigurationError.unknown_name("table", table, known)
        return known[table]

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
        return self.named_head(self.identifier(table))

    def named_head(self, name: str) -> Head | None:
        """The same for any table of a catalog, by its name in Spark SQL."""
        found = catalog_tables.head(self.spark, name)
        return None if found is None else Head(*found)

    def ensure(self, table: str) -> Head:
        """The table's head; it is created empty where it does not exist, and gets the columns that it lacks."""
        if table in TABLES:
            self._complete(table)
        if (head := self.head(table)) is not None:
            return head
        spec = self.spec(table)
        # Statistics would put the first characters of every column into the log, where no VACUUM removes them.
        keys = [c for c in spec.key or spec.columns[:1] if not pa.types.is_struct(spec.schema.field(c).type)]
        configuration = {"delta.dataSkippingStatsColumns": ",".join(keys)}
        if spec.change_feed:
            configuration["delta.enableChangeDataFeed"] = "true"
        if self.is_local:
            delta_folder.create(self.folder(table), spec.schema, spec.partition_by, configuration)
        else:
            catalog_tables.create(self.spark, self.identifier(table), spec.schema, configuration)
        head = self.head(table)
        assert head is not None
        return head

    def _complete(self, table: str) -> None:
        schema = self.spec(table).schema
        if self.is_local and (delta := self._open(table)) is not None:
            delta_folder.complete(delta, schema)
        elif not self.is_local and table not in self._completed:
            catalog_tables.complete(self.spark, self.identifier(table), schema)
            self._completed.add(table)

    def columns(self, table: str) -> pa.Schema | None:
        """The columns that a table has, also one that nobody declared; None where there is none."""
        if not self.is_local:
            return catalog_tables.columns(self.spark, self.identifier(table))
        with self._watching(table):
            delta = delta_folder.open_folder(self.folder(table))
        return None if delta is None else pa.schema(delta.schema().to_arrow())

    def history(self, table: str) -> list[dict[str, Any]]:
        """The commits that the log still has: `version`, `at` (UTC), and the engine's own `metrics`."""
        if self.is_local:
            delta = self._open(table)
            return [] if delta is None else delta_folder.history(delta)
        return catalog_tables.history(self.spark, self.identifier(table))

    def properties(self, table: str) -> dict[str, str]:
        """The table's properties, such as delta.logRetentionDuration."""
        if self.is_local:
            delta = self._open(table)
            return {} if delta is None else {k: v for k, v in delta.metadata().configuration.items() if v is not None}
        row = self.spark.sql(f"DESCRIBE DETAIL {self.identifier(table)}").select("properties").first()
        return {} if row is None else dict(row["properties"])

    # -- small reads and appends ----------------------------------------------------------------------------------

    def read_arrow(
        self, table: str, *, columns: list[str] | None = None, where: Mapping[str, str] | None = None
    ) -> pa.Table:
        """The rows of a table whose columns have the values of `where`; no rows where it does not exist."""
        batches = self.read_batches(table, columns=columns, where=where)
        schema = self.spec(table).schema
        schema = pa.schema([schema.field(name) for name in columns]) if columns else schema
        return pa.Table.from_batches(batches, schema=schema)

    def read_batches(
        self,
        table: str,
        *,
        columns: list[str] | None = None,
        where: Mapping[str, str] | None = None,
        version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The same rows as a stream, as of `version` where given."""
        schema = self.spec(table).schema
        schema = pa.schema([schema.field(name) for name in columns]) if columns else schema
        delta = self._open(table, version=version) if self.is_local else None
        if delta is not None and not self._misreads(delta, table, schema):
            with self._watching(table):
                for rows in delta_folder.scan(delta, columns=columns, where={c: [v] for c, v in (where or {}).items()}):
                    yield from typed(rows, schema).to_batches()
        elif delta is not None or (not self.is_local and self.head(table) is not None):
            from pyspark.sql import functions as F

            frame = self.read(table, version=version)
            for column, value in (where or {}).items():
                frame = frame.where(_column(column) == F.lit(value))
            held = [name for name in schema.names if name in frame.columns]  # an older table may lack some
            yield from typed(frame.select(*map(_column, held)).toArrow(), schema).to_batches()

    def append_arrow(self, table: str, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Append rows in one commit. Lists of dicts take the table's own types; missing keys are null."""
        spec = self.spec(table)
        self.ensure(table)
        if isinstance(rows, list):
            rows = pa.Table.from_pylist(rows, schema=spec.schema)
        if rows.num_rows == 0:
            return
        if self.is_local:
            with self._watching(table):
                delta_folder.append(self.folder(table), rows)
        else:
            self.spark.createDataFrame(rows).write.format("delta").mode("append").saveAsTable(self.identifier(table))

    def merge_arrow(self, table: str, changes: pa.Table) -> None:
        """Apply net changes that are in memory: the table's columns and `_op`. Needs no JVM for folders."""
        spec = self.spec(table)
        changes = changes.select([*spec.columns, "_op"]).cast(spec.schema.append(pa.field("_op", pa.string())))
        if changes.num_rows == 0:
            return
        self.ensure(table)
        delta = self._open(table) if self.is_local else None
        if delta is None or not self._is_merged_here(delta, table):
            self.merge(table, self.frame(changes))
        else:
            with self._watching(table):
                delta_folder.merge(delta, changes, key=spec.key)

    def _is_merged_here(self, delta: DeltaTable, table: str) -> bool:
        spec = self.spec(table)
        return delta_folder.merges_as_spark(spec.key, spec.schema) and not self._misreads(delta, table, spec.schema)

    def _misreads(self, delta: DeltaTable, table: str, schema: pa.Schema) -> bool:
        """Whether delta-rs cannot tell the instants of these columns, so that Spark must."""
        if table in TABLES:  # of its own tables, only files' times are not from this machine's clock
            schema = pa.schema([field for field in schema if field.name == "modified_at"])
        return delta_folder.misreads(delta, schema)

    def delete(self, table: str, where: Mapping[str, Sequence[str]]) -> int:
        """Delete the rows whose columns each hold one of the values. Returns how many; no commit where none do."""
        if self.head(table) is None or not all(where.values()):
            return 0
        delta = self._open(table) if self.is_local else None
        if delta is not None and not self._misreads(delta, table, self.spec(table).schema):
            with self._watching(table):
                return delta_folder.delete(delta, where, self.spec(table).schema)
        condition = reduce(and_, [_column(column).isin(list(of)) for column, of in where.items()])
        if rows := self.read(table).where(condition).count():  # what the delete itself returns was seen to be 0
            self._spark_table(table).delete(condition)
        return rows

    def purge(self, table: str) -> str:
        """Remove all files of older versions: what was deleted is no longer on disk. Returns what remains.

        Whoever has not read the change feed up to now compares everything the next time.
        """
        if self.is_local:
            delta = self._open(table)
            assert delta is not None
            return f"nothing in its files ({delta_folder.purge(delta)} of older versions removed)"
        days = self.properties(table).get("delta.deletedFileRetentionDuration", "interval 7 days")
        return f"files of older versions until VACUUM, at the latest after {days.removeprefix('interval ')}"

    def replace_if_unchanged(self, table: str, rows: list[dict[str, Any]], *, version: int) -> bool:
        """Replace the whole (small) table if it is still at `version`: compare-and-set. Returns whether it was."""
        arrow = pa.Table.from_pylist(rows, schema=self.spec(table).schema)
        if self.is_local:
            delta = self._open(table)
            return delta is not None and delta.version() == version and delta_folder.replace(delta, arrow)
        head = self.head(table)
        if head is None or head.version != version:
            return False
        from delta.exceptions import DeltaConcurrentModificationException

        try:
            # Two overwrites remove the same files, which Delta takes as a conflict.
            writer = self.spark.createDataFrame(arrow).write.format("delta").mode("overwrite")
            writer.saveAsTable(self.identifier(table))
        except DeltaConcurrentModificationException:
            return False
        return True

    # -- Spark ----------------------------------------------------------------------------------------------------

    def read(self, table: str, *, version: int | None = None) -> DataFrame:
        """The table as a frame, at `version` where given. Create it first (`ensure`)."""
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(str(self.folder(table))) if self.is_local else reader.table(self.identifier(table))

    def read_keys(self, table: str, key: str, values: Sequence[str]) -> DataFrame:
        """The rows whose `key` is one of a few `values`, as a frame that holds them; folders are read without Spark."""
        delta = self._open(table) if self.is_local else None
        schema = self.spec(table).schema
        if delta is None or self._misreads(delta, table, schema):
            return self.read(table).where(_column(key).isin(list(values)))
        with self._watching(table):
            found = delta_folder.few(delta, where={key: values}) if values else []
        if found is None:
            return self.read(table).where(_column(key).isin(list(values)))
        return self.frame(pa.concat_tables([schema.empty_table(), *(typed(rows, schema) for rows in found)]))

    def frame(self, rows: pa.Table) -> DataFrame:
        """Rows in memory as a frame."""
        from pyspark.sql.pandas.types import from_arrow_schema

        if any(chunk.offset for column in rows.columns for chunk in column.chunks):
            rows = rows.take(pa.array(range(rows.num_rows)))  # pyarrow casts, as Spark asks, no slice of a struct
        # Spark takes an empty Arrow table with a list among its columns for an error.
        return self.spark.createDataFrame(rows if rows.num_rows else [], from_arrow_schema(rows.schema))

    def read_changes(self, table: str, *, after: int, until: int) -> DataFrame:
        """The change feed of versions (after, until], with Delta's `_change_type` and `_commit_version`."""
        reader = self.spark.read.format("delta").option("readChangeFeed", "true")
        reader = reader.option("startingVersion", after + 1).option("endingVersion", until)
        return reader.load(str(self.folder(table))) if self.is_local else reader.table(self.identifier(table))

    def append(self, table: str, rows: DataFrame, *, txn: tuple[str, int] | None = None) -> None:
        """Append a frame with the table's columns; the same `txn` (a writer, its growing number) again does nothing."""
        self.ensure(table)
        writer = rows.select(*map(_column, self.spec(table).columns)).write.format("delta").mode("append")
        if txn is not None:
            writer = writer.option("txnAppId", txn[0]).option("txnVersion", txn[1])
        if self.is_local:
            writer.save(str(self.folder(table)))
        else:
            writer.saveAsTable(self.identifier(table))

    def merge(self, table: str, changes: DataFrame, *, rows: int | None = None, within: str = "TRUE") -> None:
        """Apply net changes: rows of the table with `_op` insert, update or delete, at most one a key.

        Where `rows` says that they are few, a folder is merged without the JVM: that takes a tenth of Spark's time.
        `within` is what all keys fulfil, as SQL on `target`: other files are left unread.
        """
        spec = self.spec(table)
        delta = self._open(table) if self.is_local and rows is not None and rows <= FEW_ROWS else None
        if delta is not None and self._is_merged_here(delta, table):
            self.merge_arrow(table, changes.select(*map(_column, [*spec.columns, "_op"])).toArrow())
            return
        values = {f"`{column}`": f"changes.`{column}`" for column in spec.columns}
        on = " AND ".join([*(f"target.`{k}` <=> changes.`{k}`" for k in spec.key), within])
        (
            self._spark_table(table)
            .alias("target")
            .merge(changes.alias("changes"), on)
            .whenMatchedDelete("changes._op = 'delete'")
            .whenMatchedUpdate(set=values)  # type: ignore[arg-type]
            .whenNotMatchedInsert("changes._op <> 'delete'", values=values)  # type: ignore[arg-type]
            .execute()
        )

    def _spark_table(self, table: str) -> SparkDeltaTable:
        from delta.tables import DeltaTable as SparkDeltaTable

        if self.is_local:
            return SparkDeltaTable.forPath(self.spark, str(self.folder(table)))
        return SparkDeltaTable.forName(self.spark, self.identifier(table))

    def _open(self, table: str, *, version: int | None = None) -> DeltaTable | None:
        self.spec(table)
        with self._watching(table):
            return delta_folder.open_folder(self.folder(table), version=version)

    # -- damage ---------------------------------------------------------------------------------------------------

    def damage(self, of: Sequence[str], *, deeply: bool = True, named_in: str = "") -> DamagedTableError | None:
        """The first of some tables whose files are missing or broken, as an error that says what to do.

        Args:
            deeply: files are read; else only names and sizes are compared with the log, which takes a millisecond.
            named_in: what an engine failed with; tables whose files it names are looked at too.
        """
        if not self.is_local:
            return None
        named = [t for t in {**TABLES, **self._declared} if is_named(self.folder(t), named_in)]
        return next((found for t in [*of, *named] if (found := damaged(t, self.folder(t), deeply=deeply))), None)

    def mend(self, table: str) -> str | None:
        """Make a damaged table one of what is left of it. Returns what was done, None where it is whole."""
        return mend(self.folder(table)) if self.damage([table]) is not None else None

    @contextmanager
    def _watching(self, table: str) -> Iterator[None]:
        """Say of an error inside that the table is damaged, where it is."""
        try:
            yield
        except LakeloopError:
            raise
        except Exception as error:
            found = self.damage([table])
            if found is None:
                raise
            raise found from error


def _column(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")
