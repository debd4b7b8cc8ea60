"""The tables of one workspace: their versions, rows and change feeds, and the two ways they are written.

A table is `schema.table`, as in docs/tables.md. `Lakehouse` is what every stage sees. It is one of two: Delta folders
(folders.py), or tables of a Unity Catalog catalog (catalog.py). Nothing outside this room knows which, but for what
is quicker without a JVM.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from pipelines.lakehouse.delta_folder import typed
from pipelines.lakehouse.schemas import TABLES, Role, TableSpec
from pipelines.lakehouse.session import write_as_delta_rs_reads
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, DamagedTableError

if TYPE_CHECKING:
    from delta.tables import DeltaTable as SparkDeltaTable
    from pyspark.sql import Column, DataFrame, DataFrameReader, DataFrameWriter, SparkSession
    from pyspark.sql.streaming.readwriter import DataStreamReader

# Whoever opens a table reads its log from the last checkpoint on.
_CHECKPOINT_EVERY = 10
# What Delta's change feed says beside the rows.
CHANGE_COLUMNS = ("_change_type", "_commit_version", "_commit_timestamp")
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}\.[a-z][a-z0-9_]{0,120}")


@dataclass(frozen=True)
class Head:
    """A table as it stands: its identity (a re-created table has another) and its version."""

    table_id: str
    version: int


class Lakehouse(ABC):
    """All tables of one workspace; `open_lakehouse` makes the one that the settings ask for.

    Args:
        settings: where the tables are.
        spark: called when Spark is first needed, never before.

    Attributes:
        is_local: tables are folders, which are read and changed without a JVM.
    """

    is_local: ClassVar[bool]

    def __init__(self, settings: Settings, *, spark: Callable[[], SparkSession]) -> None:
        self.settings = settings
        self._spark = spark
        self._declared: dict[str, TableSpec] = {}

    @cached_property
    def spark(self) -> SparkSession:
        return write_as_delta_rs_reads(self._spark(), needed=self.is_local)

    # -- what tables there are ------------------------------------------------------------------------------------

    def declare(self, table: str, spec: TableSpec) -> None:
        """Tell of a table whose columns are the user's own (records, features); from here on it is as any other."""
        if not self.is_name(table):
            raise ConfigurationError(
                f"{table!r} cannot be the name of a table. Use a schema and a name of lower-case letters, digits "
                "and _, as in silver.records_flights."
            )
        if table in TABLES:
            raise ConfigurationError(f"{table} is a table of lakeloop's own. Choose another name.")
        self._declared[table] = spec

    def is_declared(self, table: str) -> bool:
        return table in TABLES or table in self._declared

    def tables(self, *roles: Role) -> list[str]:
        """The tables of these roles, or all, that lakeloop has or was told of: its own, then the others by name."""
        known = {**TABLES, **dict(sorted(self._declared.items()))}
        return [table for table, spec in known.items() if not roles or spec.role in roles]

    @staticmethod
    def is_name(table: str) -> bool:
        """Whether a table could have this name: a schema and a name of lower-case letters, digits and _."""
        return _TABLE_NAME.fullmatch(table) is not None

    def existing(self) -> list[str]:
        """The tables that exist: those that lakeloop knows, and in folders any other."""
        return [table for table in self.tables() if self.head(table) is not None]

    def spec(self, table: str) -> TableSpec:
        known = {**TABLES, **self._declared}
        if table not in known:
            raise ConfigurationError.unknown_name("table", table, known)
        return known[table]

    @abstractmethod
    def identifier(self, table: str) -> str:
        """What Spark SQL calls the table."""

    def folder(self, table: str) -> Path | None:
        """The folder that holds the table, whether it is there yet or not; None in a catalog."""
        return None

    @abstractmethod
    def head(self, table: str) -> Head | None:
        """The table's identity and version, or None where it does not exist."""

    def ensure(self, table: str) -> Head:
        """The table's head; it is created empty where it does not exist, and gets the columns that it lacks."""
        if table in TABLES:
            self._complete(table)
        if (head := self.head(table)) is not None:
            return head
        spec = self.spec(table)
        # Statistics would put the first characters of every column into the log, where no VACUUM removes them.
        keys = [c for c in spec.key or spec.columns[:1] if not pa.types.is_struct(spec.schema.field(c).type)]
        configuration = {
            "delta.dataSkippingStatsColumns": ",".join(keys),
            "delta.checkpointInterval": str(_CHECKPOINT_EVERY),
        }
        if spec.change_feed:
            configuration["delta.enableChangeDataFeed"] = "true"
        self._create(table, spec, configuration)
        head = self.head(table)
        assert head is not None
        return head

    @abstractmethod
    def _create(self, table: str, spec: TableSpec, configuration: Mapping[str, str]) -> None:
        """Make an empty table, where there is none."""

    @abstractmethod
    def _complete(self, table: str) -> None:
        """Give a table of an older lakeloop the columns that it lacks."""

    @abstractmethod
    def columns(self, table: str) -> pa.Schema | None:
        """The columns that a table has, also one that nobody declared; None where there is none."""

    @abstractmethod
    def history(self, table: str) -> list[dict[str, Any]]:
        """The commits that the log still has: `version`, `at` (UTC), `operation`, and the engine's own `metrics`."""

    @abstractmethod
    def properties(self, table: str) -> dict[str, str]:
        """The table's properties, such as delta.logRetentionDuration."""

    def set_properties(self, table: str, properties: Mapping[str, str]) -> None:
        """Set properties of a table, where they are others; none that are not named."""
        has = self.properties(table)
        if any(has.get(key) != value for key, value in properties.items()):
            pairs = ", ".join(f"{text(key)} = {text(value)}" for key, value in properties.items())
            self.spark.sql(f"ALTER TABLE {self.identifier(table)} SET TBLPROPERTIES ({pairs})")

    def add_columns(self, table: str, types: Mapping[str, str]) -> None:
        """Add columns of Spark's types, in place."""
        told = ", ".join(f"{quoted(name)} {of}" for name, of in types.items())
        self.spark.sql(f"ALTER TABLE {self.identifier(table)} ADD COLUMNS ({told})")

    @abstractmethod
    def add_time_key(self, table: str, *, entity: Sequence[str], time: str) -> None:
        """Tell the catalog that `entity` and `time` are the table's primary key, if it is one that makes use of it.

        In Unity Catalog this makes it a feature table with a time key, on which point-in-time look-ups work.
        """

    def size(self, table: str) -> int:
        """The bytes of the table's files now."""
        row: Any = self.spark.sql(f"DESCRIBE DETAIL {self.identifier(table)}").select("sizeInBytes").first()
        return int(row["sizeInBytes"])

    @abstractmethod
    def file_count(self, table: str) -> int:
        """How many files the table lies in now; none where it does not exist."""

    # -- rows in memory -------------------------------------------------------------------------------------------

    def read_arrow(
        self, table: str, *, columns: list[str] | None = None, where: Mapping[str, str] | None = None
    ) -> pa.Table:
        """The rows of a table whose columns have the values of `where`; no rows where it does not exist."""
        batches = self.read_batches(table, columns=columns, where=where)
        return pa.Table.from_batches(batches, schema=self._schema(table, columns))

    def _schema(self, table: str, columns: list[str] | None) -> pa.Schema:
        schema = self.spec(table).schema
        return pa.schema([schema.field(name) for name in columns]) if columns else schema

    @abstractmethod
    def read_batches(
        self,
        table: str,
        *,
        columns: list[str] | None = None,
        where: Mapping[str, str] | None = None,
        version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The same rows as a stream, as of `version` where given."""

    def _batches_by_spark(
        self, table: str, schema: pa.Schema, where: Mapping[str, str] | None, version: int | None
    ) -> Iterator[pa.RecordBatch]:
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
        if rows.num_rows:
            self._append_rows(table, rows)

    @abstractmethod
    def _append_rows(self, table: str, rows: pa.Table) -> None: ...

    def merge_arrow(self, table: str, changes: pa.Table) -> None:
        """Apply net changes that are in memory: the table's columns and `_op`. Needs no JVM for folders."""
        spec = self.spec(table)
        changes = changes.select([*spec.columns, "_op"]).cast(spec.schema.append(pa.field("_op", pa.string())))
        if changes.num_rows:
            self.ensure(table)
            self._merge_rows(table, changes)

    def _merge_rows(self, table: str, changes: pa.Table) -> None:
        self.merge(table, self.frame(changes))

    def delete(self, table: str, where: Mapping[str, Sequence[str]]) -> int:
        """Delete the rows whose columns each hold one of the values. Returns how many; no commit where none do."""
        if self.head(table) is None or not all(where.values()):
            return 0
        return self._delete_rows(table, where)

    def _delete_rows(self, table: str, where: Mapping[str, Sequence[str]]) -> int:
        condition = reduce(and_, [_column(column).isin(list(of)) for column, of in where.items()])
        if rows := self.read(table).where(condition).count():  # what the delete itself returns was seen to be 0
            self._spark_table(table).delete(condition)
        return rows

    @abstractmethod
    def replace_if_unchanged(self, table: str, rows: list[dict[str, Any]], *, version: int) -> bool:
        """Replace the whole (small) table if it is still at `version`: compare-and-set. Returns whether it was."""

    # -- frames ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _load(self, reader: DataFrameReader | DataStreamReader, table: str) -> DataFrame: ...

    @abstractmethod
    def _save(self, writer: DataFrameWriter, table: str) -> None: ...

    def read(self, table: str, *, version: int | None = None) -> DataFrame:
        """The table as a frame, at `version` where given. Create it first (`ensure`)."""
        reader = self.spark.read.format("delta")
        return self._load(reader if version is None else reader.option("versionAsOf", version), table)

    def read_keys(self, table: str, key: str, values: Sequence[str]) -> DataFrame:
        """The rows whose `key` is one of a few `values`, as a frame."""
        return self.read(table).where(_column(key).isin(list(values)))

    def few_keys(self, table: str, key: str, values: Sequence[str]) -> pa.Table | None:
        """The same rows in memory, read without Spark; None where they are not few, or lie in no folder."""
        return None

    def read_stream(self, table: str) -> DataFrame:
        """The rows that are appended to the table, as a stream."""
        return self._load(self.spark.readStream.format("delta"), table)

    def frame(self, rows: pa.Table) -> DataFrame:
        """Rows in memory as a frame."""
        from pyspark.sql.pandas.types import from_arrow_schema

        if any(chunk.offset for column in rows.columns for chunk in column.chunks):
            rows = rows.take(pa.array(range(rows.num_rows)))  # pyarrow casts, as Spark asks, no slice of a struct
        # Spark takes an empty Arrow table with a list among its columns for an error.
        return self.spark.createDataFrame(rows if rows.num_rows else [], from_arrow_schema(rows.schema))

    def read_changes(self, table: str, *, after: int, until: int, columns: Sequence[str] | None = None) -> DataFrame:
        """The change feed of versions (after, until], with `CHANGE_COLUMNS`."""
        few = self.few_changes(table, after=after, until=until, columns=columns)
        if few is not None:
            return self.frame(few)
        reader = self.spark.read.format("delta").option("readChangeFeed", "true")
        feed = self._load(reader.option("startingVersion", after + 1).option("endingVersion", until), table)
        return feed if columns is None else feed.select(*map(_column, [*columns, *CHANGE_COLUMNS]))

    def few_changes(
        self, table: str, *, after: int, until: int, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """The same feed in memory, read without Spark; None where it is not few rows, or is in no folder."""
        return None

    def append(self, table: str, rows: DataFrame, *, txn: tuple[str, int] | None = None) -> None:
        """Append a frame with the table's columns; the same `txn` (a writer, its growing number) again does nothing."""
        self.ensure(table)
        writer = rows.select(*map(_column, self.spec(table).columns)).write.format("delta").mode("append")
        if txn is not None:
            writer = writer.option("txnAppId", txn[0]).option("txnVersion", txn[1])
        self._save(writer, table)

    def replace(self, table: str, rows: DataFrame) -> None:
        """Replace a table's rows and columns by those of a frame, in one commit."""
        self._save(rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true"), table)

    def merge(self, table: str, changes: DataFrame, *, rows: int | None = None, within: str = "TRUE") -> None:
        """Apply net changes: rows of the table with `_op` insert, update or delete, at most one a key.

        Where `rows` says that they are few, a folder is merged without the JVM: that takes a tenth of Spark's time.
        `within` is what all keys fulfil, as SQL on `target`: other files are left unread.
        """
        if self.file_count(table) == 0:  # seconds less than a MERGE
            self.append(table, changes.where("_op <> 'delete'"))
            return
        spec = self.spec(table)
        values = {quoted(column): f"changes.{quoted(column)}" for column in spec.columns}
        on = " AND ".join([*(f"target.{quoted(k)} <=> changes.{quoted(k)}" for k in spec.key), within])
        (
            self._spark_table(table)
            .alias("target")
            .merge(changes.alias("changes"), on)
            .whenMatchedDelete("changes._op = 'delete'")
            .whenMatchedUpdate(set=values)  # type: ignore[arg-type]
            .whenNotMatchedInsert("changes._op <> 'delete'", values=values)  # type: ignore[arg-type]
            .execute()
        )

    @abstractmethod
    def _spark_table(self, table: str) -> SparkDeltaTable: ...

    # -- upkeep ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def compact(self, table: str) -> int:
        """Put small files together, in a commit that changes no row. Returns how many files were put together."""

    @abstractmethod
    def vacuum(self, table: str, *, days: int, keep: Sequence[int] = ()) -> int:
        """Remove the files of versions that were replaced so many days ago, but for the versions to keep.

        Returns how many were removed, as far as the engine says.
        """

    @abstractmethod
    def purge(self, table: str) -> str:
        """Remove all files of older versions: what was deleted is no longer on disk. Returns what remains.

        Whoever has not read the change feed up to now compares everything the next time.
        """

    def damage(self, of: Sequence[str], *, deeply: bool = True, named_in: str = "") -> DamagedTableError | None:
        """The first of some tables whose files are missing or broken, as an error that says what to do.

        Args:
            deeply: files are read; else only names and sizes are compared with the log, which takes a millisecond.
            named_in: what an engine failed with; tables whose files it names are looked at too.
        """
        return None

    def mend(self, table: str) -> str | None:
        """Make a damaged table one of what is left of it. Returns what was done, None where it is whole."""
        return None


def text(value: str) -> str:
    """A text as Spark SQL writes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quoted(name: str) -> str:
    """A name as Spark SQL writes it."""
    return "`" + name.replace("`", "``") + "`"


def _column(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col(quoted(name))
