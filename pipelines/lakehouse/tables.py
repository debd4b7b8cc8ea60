"""`Lakehouse`: the tables of one workspace, with their versions, rows, change feeds and writes.

A table is named `schema.table`, as in docs/tables.md. There are two implementations: Delta folders (folders.py), and
tables of a Unity Catalog catalog (catalog.py). Other rooms ask which it is only to save work that needs no JVM.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from pipelines.lakehouse import statements
from pipelines.lakehouse.delta_folder import CHANGE_SCHEMA, in_order, keys_to_name
from pipelines.lakehouse.held_frames import frame_of, rows_of
from pipelines.lakehouse.predicates import quoted
from pipelines.lakehouse.schemas import TABLES, Role, TableSpec
from pipelines.lakehouse.selection import Selection, Where, Which, Without
from pipelines.lakehouse.session import write_as_delta_rs_reads
from pipelines.settings.sections import Settings
from pipelines.storage.object_path import AnyPath
from transformations.errors import ConfigurationError, DamagedTableError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, DataFrameReader, DataFrameWriter, SparkSession

# Commits between two checkpoints of a log: to open a table, its log is read from the last checkpoint on.
_CHECKPOINT = "10"
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}\.[a-z][a-z0-9_]{0,120}")


@dataclass(frozen=True)
class Head:
    """The current state of a table: its identity (a re-created table has another one) and its version."""

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
        """Add a table whose columns the user defines (records, features); it can then be used like any other.

        Raises:
            ConfigurationError: the name is not allowed, or is that of a table of lakeloop's own.
        """
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
        """The known tables of these roles (all roles if none is given): lakeloop's own, then the declared, by name."""
        known = {**TABLES, **dict(sorted(self._declared.items()))}
        return [table for table, spec in known.items() if not roles or spec.role in roles]

    @staticmethod
    def is_name(table: str) -> bool:
        """Whether this can be the name of a table: schema.name, of lower-case letters, digits and _."""
        return _TABLE_NAME.fullmatch(table) is not None

    @abstractmethod
    def look_at(self, tables: Iterable[str]) -> None:
        """Say which tables will be asked for their heads: a catalog reads their logs together."""

    @abstractmethod
    def refresh(self) -> None:
        """See what other processes have committed. In folders everything is seen at once."""

    @abstractmethod
    def recall(self, table: str, *, table_id: str, version: int, commit: str) -> None:
        """Say what an earlier process knew: the table had this identity at this commit. It saves a catalog calls."""

    def existing(self) -> list[str]:
        """The tables that exist: the known ones, and in folders also others that lie there."""
        return [table for table in self.tables() if self.head(table) is not None]

    def spec(self, table: str) -> TableSpec:
        known = {**TABLES, **self._declared}
        if table not in known:
            raise ConfigurationError.unknown_name("table", table, known)
        return known[table]

    @abstractmethod
    def identifier(self, table: str) -> str:
        """The name of the table in Spark SQL."""

    def folder(self, table: str) -> AnyPath | None:
        """The folder of the table, even if it does not exist yet; None in a catalog."""
        return None

    @abstractmethod
    def head(self, table: str) -> Head | None:
        """The table's identity and version; None if it does not exist."""

    def ensure(self, table: str) -> Head:
        """The table's head, after `create`."""
        self.create(table)
        head = self.head(table)
        assert head is not None
        return head

    def create(self, table: str) -> None:
        """Create the table empty if it does not exist; one of lakeloop's own gets missing columns."""
        if table in TABLES:
            self._complete(table)
        if self._is_there(table):
            return
        spec = self.spec(table)
        # Only of keys: statistics put the first characters of texts into the log, from which no VACUUM removes them.
        keys = [c for c in spec.key or spec.columns[:1] if not pa.types.is_struct(spec.schema.field(c).type)]
        configuration = {"delta.dataSkippingStatsColumns": ",".join(keys), "delta.checkpointInterval": _CHECKPOINT}
        if spec.change_feed:
            configuration["delta.enableChangeDataFeed"] = "true"
        self._create(table, spec, configuration)

    def _is_there(self, table: str) -> bool:
        return self.head(table) is not None

    @abstractmethod
    def _create(self, table: str, spec: TableSpec, configuration: Mapping[str, str]) -> None:
        """Create an empty table; if there is one already, change nothing."""

    @abstractmethod
    def empty(self, table: str) -> None:
        """Remove all rows, and give the table its columns as they are declared, nullable or not, in one commit."""

    @abstractmethod
    def _complete(self, table: str) -> None:
        """Add the columns that a table of an older lakeloop does not have; does nothing if there is no table."""

    @abstractmethod
    def columns(self, table: str) -> pa.Schema | None:
        """The columns that the table has, also if it was not declared; None if it does not exist."""

    @abstractmethod
    def history(self, table: str, *, since: int = 0) -> list[dict[str, Any]]:
        """The commits from version `since` on that the log still has, newest first: `version`, `at` (UTC), `operation`,
        the engine's own `metrics`, and in a catalog `id`, `note`, `parameters` (see table_log.py)."""

    @abstractmethod
    def properties(self, table: str) -> dict[str, str]:
        """The table's properties, such as delta.logRetentionDuration."""

    def set_properties(self, table: str, properties: Mapping[str, str]) -> None:
        """Set these properties of a table, if one has another value; other properties stay as they are."""
        has = self.properties(table)
        if any(has.get(key) != value for key, value in properties.items()):
            self.spark.sql(f"ALTER TABLE {self.identifier(table)} SET TBLPROPERTIES ({statements.pairs(properties)})")

    def add_columns(self, table: str, types: Mapping[str, str]) -> None:
        """Add columns (name → Spark SQL type) to the table in place."""
        columns = ", ".join(f"{quoted(name)} {type_name}" for name, type_name in types.items())
        self.spark.sql(f"ALTER TABLE {self.identifier(table)} ADD COLUMNS ({columns})")

    @abstractmethod
    def add_time_key(self, table: str, *, entity: Sequence[str], time: str) -> None:
        """Make `entity` and `time` the table's key in Unity Catalog, where point-in-time look-ups need it."""

    def size(self, table: str) -> int:
        """The size of the table's current files in bytes."""
        return int(self.spark.sql(f"DESCRIBE DETAIL {self.identifier(table)}").select("sizeInBytes").collect()[0][0])

    @abstractmethod
    def file_count(self, table: str) -> int:
        """How many files the table has now; 0 if it does not exist."""

    # -- rows in memory -------------------------------------------------------------------------------------------

    def read_arrow(
        self, table: str, *, columns: list[str] | None = None, where: Where | None = None, which: Which | None = None
    ) -> pa.Table:
        """The rows of a table that a `Selection` means, chosen where they lie; no rows if the table does not exist."""
        batches = self.read_batches(table, columns=columns, where=where, which=which)
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
        where: Where | None = None,
        which: Which | None = None,
        version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of `read_arrow` in batches, at `version` if given."""

    def _rows_by_spark(self, table: str, names: Sequence[str], selection: Selection, version: int | None) -> pa.Table:
        """The rows of `read_batches` with these columns, all of which the table has."""
        others = self.read(selection.which.other) if isinstance(selection.which, Without) else None
        return rows_of(selection.of_frame(self.read(table, version=version), names, others=others))

    def count(self, table: str) -> int:
        """How many rows the table has; 0 if it does not exist. In folders the log tells; only lost files show."""
        return self.read(table).count() if self._is_there(table) else 0

    def append_arrow(self, table: str, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Append rows in one commit. In lists of dicts, values get the table's types and missing keys are null."""
        spec = self.spec(table)
        self.create(table)
        if isinstance(rows, list):
            rows = pa.Table.from_pylist(rows, schema=spec.schema)
        if rows.num_rows:
            self._append_rows(table, in_order(rows, spec.sorted_by))

    @abstractmethod
    def _append_rows(self, table: str, rows: pa.Table) -> None: ...

    def merge_arrow(self, table: str, changes: pa.Table) -> None:
        """Apply net changes in memory, with the table's columns and `_op`. In folders, most merges need no JVM."""
        spec = self.spec(table)
        changes = changes.select([*spec.columns, "_op"]).cast(spec.schema.append(pa.field("_op", pa.string())))
        if changes.num_rows:
            self.create(table)
            self._merge_rows(table, changes)

    def _merge_rows(self, table: str, changes: pa.Table) -> None:
        within = statements.named(self.spec(table).key[0], self._named(table, changes))
        self.merge(table, self.frame(changes), within=within)

    def _named(self, table: str, changes: pa.Table) -> list[str]:
        """The keys that a merge names. Those of a user's table are not named: they would stand in the log."""
        return keys_to_name(changes[self.spec(table).key[0]]) if table in TABLES else []

    def delete(self, table: str, where: Mapping[str, Sequence[str]]) -> int:
        """Delete the rows in which each column of `where` has one of its values. Returns how many; 0: no commit."""
        return self._delete_rows(table, where) if self._is_there(table) and all(where.values()) else 0

    def _delete_rows(self, table: str, where: Mapping[str, Sequence[str]]) -> int:
        found = Selection(where).of_frame(self.read(table), [*where])
        if rows := found.count():  # the count that the delete returns can be a wrong 0
            statements.delete(self.spark, self.identifier(table), where)
        return rows

    @abstractmethod
    def replace_if_unchanged(self, table: str, rows: list[dict[str, Any]], *, version: int) -> bool:
        """Replace all rows of a (small) table if it is still at `version`: compare-and-set. Returns whether it did."""

    # -- frames ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _load(self, reader: DataFrameReader, table: str) -> DataFrame: ...

    @abstractmethod
    def _save(self, writer: DataFrameWriter, table: str) -> None: ...

    def read(self, table: str, *, version: int | None = None) -> DataFrame:
        """The table as a frame, at `version` if given. The table must exist (`ensure`)."""
        reader = self.spark.read.format("delta")
        return self._load(reader if version is None else reader.option("versionAsOf", version), table)

    def read_keys(self, table: str, key: str, values: Sequence[str]) -> DataFrame:
        """The rows whose `key` is one of a few `values`, as a frame."""
        return self.read(table).where(_column(key).isin(list(values)))

    def few_rows(self, table: str, *, version: int | None = None, columns: Sequence[str] = ()) -> pa.Table | None:
        """All rows of `read` in memory, read without Spark; None if Spark must read them or they are too large."""
        return None

    def few_keys(self, table: str, key: str, values: Sequence[str]) -> pa.Table | None:
        """The rows of `read_keys` in memory, on the same terms."""
        return None

    def frame(self, rows: pa.Table) -> DataFrame:
        """Rows in memory as a frame."""
        return frame_of(self.spark, rows)

    def read_changes(self, table: str, *, after: int, until: int, columns: Sequence[str] | None = None) -> DataFrame:
        """The change feed of versions (after, until] as a frame; those of `CHANGE_SCHEMA` are added to `columns`."""
        if (few := self.few_changes(table, after=after, until=until, columns=columns or ())) is not None:
            return self.frame(few)
        feed = self._feed(table, after=after, until=until)
        return feed if columns is None else feed.select(*map(_column, [*columns, *CHANGE_SCHEMA.names]))

    def _feed(self, table: str, *, after: int, until: int) -> DataFrame:
        reader = self.spark.read.format("delta").option("readChangeFeed", "true")
        return self._load(reader.option("startingVersion", after + 1).option("endingVersion", until), table)

    def few_changes(self, table: str, *, after: int, until: int, columns: Sequence[str] = ()) -> pa.Table | None:
        """The feed of `read_changes` in memory, on the terms of `few_rows`."""
        return None

    def append(self, table: str, rows: DataFrame, *, txn: tuple[str, int] | None = None, note: str = "") -> None:
        """Append a frame that has the table's columns; in one of lakeloop's own they become the types of the table.

        Args:
            txn: a writer and its growing number; a second append with the same `txn` does nothing.
            note: a text that the commit carries (see `table_log.commits`).
        """
        self.create(table)
        spec = self.spec(table)
        columns = [_column(name) for name in spec.columns]
        if table in TABLES:  # an append, unlike a MERGE, refuses a long for an int
            from pyspark.sql.pandas.types import from_arrow_schema

            columns = [_column(f.name).cast(f.dataType).alias(f.name) for f in from_arrow_schema(spec.schema)]
        rows = rows.select(*columns)
        rows = rows.sortWithinPartitions(_column(spec.sorted_by)) if spec.sorted_by else rows
        writer = rows.write.format("delta").mode("append")
        if txn is not None:
            writer = writer.option("txnAppId", txn[0]).option("txnVersion", txn[1])
        self._save(writer.option("userMetadata", note) if note else writer, table)

    def replace(self, table: str, rows: DataFrame, *, note: str = "") -> None:
        """Replace the rows and the columns of a table by those of a frame, in one commit, which carries `note`."""
        writer = rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
        self._save(writer.option("userMetadata", note) if note else writer, table)

    def merge(self, table: str, changes: DataFrame, *, rows: int | None = None, within: str = "TRUE") -> None:
        """Apply net changes: rows of the table with `_op` insert, update or delete, at most one per key.

        Args:
            rows: how many there are, if known: a few are merged into a folder without the JVM, in a tenth of the time.
            within: a condition that holds for all keys, as SQL on `target`: files outside it are not read.
        """
        if self.file_count(table) == 0:  # an append takes seconds less than a MERGE
            self.append(table, changes.where("_op <> 'delete'"))
            return
        statements.merge(self.identifier(table), changes, spec=self.spec(table), within=within)

    # -- upkeep ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def compact(self, table: str) -> int:
        """Combine small files in a commit that changes no row. Returns how many files were combined."""

    @abstractmethod
    def vacuum(self, table: str, *, days: int, keep: Sequence[int] = ()) -> int:
        """Remove files that were replaced at least `days` ago and that no version of `keep` needs.

        Returns how many were removed; 0 also if the engine does not say. In a catalog nothing is removed if there are
        versions to keep: VACUUM cannot spare them.
        """

    @abstractmethod
    def purge(self, table: str) -> str:
        """Remove all files of older versions, so that deleted rows are gone from the disk. Returns what remains.

        A stage that has not read the change feed up to now will compare everything the next time. In a catalog nothing
        is removed before VACUUM.
        """

    def damage(self, of: Sequence[str], *, deeply: bool = True, named_in: str = "") -> DamagedTableError | None:
        """The damage of the first of these tables that has missing or broken files, as an error that says what to do.

        Args:
            deeply: files are read; else only names and sizes are compared with the log, which takes a millisecond.
            named_in: the text of an engine's error; tables whose files it names are checked too.
        """
        return None

    def mend(self, table: str) -> str | None:
        """Make a damaged table readable again, with what is left of it. Returns what was done; None: no damage."""
        return None


def _column(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col(quoted(name))
