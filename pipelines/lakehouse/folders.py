"""`FolderLakehouse`: tables as Delta folders, which are read and appended to without a JVM (by delta-rs).

So a run with nothing to do, a search or an answer takes milliseconds. Small changes of keyed tables are merged in the
same way; large ones are left to Spark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lakehouse import delta_folder
from pipelines.lakehouse.damage import damaged, is_named, mend
from pipelines.lakehouse.delta_folder import FEW_ROWS, in_order, typed
from pipelines.lakehouse.instants import misread
from pipelines.lakehouse.open_folder import OpenFolder, files, open_folder
from pipelines.lakehouse.predicates import quoted
from pipelines.lakehouse.schemas import TABLES, TableSpec
from pipelines.lakehouse.selection import Selection, Where, Which, Without
from pipelines.lakehouse.tables import Head, Lakehouse
from pipelines.settings.sections import Settings
from pipelines.storage.object_path import AnyPath, ObjectPath, spark_name
from pipelines.storage.storage_errors import explained
from transformations.errors import ConfigurationError, DamagedTableError, LakeloopError

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, DataFrameReader, DataFrameWriter, SparkSession

# In the name of a folder: delta-rs takes %20 for a blank, and panics where a brace stands.
_UNREADABLE = re.compile(r"%[0-9A-Fa-f]{2}|[\[\]^|\\\x00-\x1f\x7f]")


class FolderLakehouse(Lakehouse):
    """The tables of a workspace as Delta folders below `lakehouse` of the settings: a folder, or a bucket's prefix."""

    is_local = True

    def __init__(self, settings: Settings, *, spark: Callable[[], SparkSession]) -> None:
        super().__init__(settings, spark=spark)
        self._opened: dict[str, OpenFolder] = {}
        self._root = settings.place(settings.lakehouse)
        place = str(self._root)
        if found := _UNREADABLE.search(place):
            raise ConfigurationError(
                f"The lakehouse {place!r} has {found[0]!r} in its name, which delta-rs cannot read. Rename the folder, "
                "or set lakehouse to a place without it."
            )

    def folder(self, table: str) -> AnyPath:
        schema, name = table.split(".")
        return self._root / f"{self.settings.schema_prefix}{schema}" / name

    def existing(self) -> list[str]:
        prefix = self.settings.schema_prefix
        folders = (folder for schema in self._root.glob(f"{prefix}*") for folder in schema.glob("*"))
        tables = [folder for folder in folders if (folder / "_delta_log").is_dir()]
        found = {f"{folder.parent.name.removeprefix(prefix)}.{folder.name}" for folder in tables}
        return [*(t for t in self.tables() if t in found), *sorted(found - {*self.tables()})]

    def identifier(self, table: str) -> str:
        return f"delta.{quoted(spark_name(self.folder(table)))}"

    def look_at(self, tables: Iterable[str]) -> None:
        pass  # nothing is saved by it

    def refresh(self) -> None:
        pass

    def recall(self, table: str, *, table_id: str, version: int, commit: str) -> None:
        pass

    def head(self, table: str) -> Head | None:
        delta = self._open(table)
        return None if delta is None else Head(str(delta.metadata().id), delta.version())

    def _create(self, table: str, spec: TableSpec, configuration: Mapping[str, str]) -> None:
        delta_folder.create(self.folder(table), spec.schema, spec.partition_by, configuration)

    def empty(self, table: str) -> None:
        with self._watching(table):
            delta_folder.empty(self.folder(table), self.spec(table).schema)

    def _complete(self, table: str) -> None:
        if (delta := self._open(table)) is not None:
            delta_folder.complete(delta, self.spec(table).schema)

    def columns(self, table: str) -> pa.Schema | None:
        with self._watching(table):
            delta = open_folder(self.folder(table))
        return None if delta is None else pa.schema(delta.schema().to_arrow())

    def history(self, table: str, *, since: int = 0) -> list[dict[str, Any]]:
        delta = self._open(table)
        found = [] if delta is None else delta_folder.history(delta)
        return [commit for commit in found if commit["version"] >= since]

    def properties(self, table: str) -> dict[str, str]:
        delta = self._open(table)
        return {} if delta is None else {k: v for k, v in delta.metadata().configuration.items() if v is not None}

    def add_time_key(self, table: str, *, entity: Sequence[str], time: str) -> None:
        pass  # a folder has no catalog

    def file_count(self, table: str) -> int:
        delta = self._open(table)
        return 0 if delta is None else len(files(delta))

    def read_batches(
        self,
        table: str,
        *,
        columns: list[str] | None = None,
        where: Where | None = None,
        which: Which | None = None,
        version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        schema, delta = self._schema(table, columns), self._open(table, version=version)
        others = self._open(which.other) if isinstance(which, Without) else None
        selection = Selection(where or {}, None if isinstance(which, Without) and others is None else which)
        if delta is None or selection.is_empty:
            return
        if self._misreads(delta, table, schema):
            known = {field.name for field in delta.schema().fields}
            names = [name for name in schema.names if name in known]  # an older table may lack some
            yield from typed(self._rows_by_spark(table, names, selection, version), schema).to_batches()
            return
        with self._watching(table, *([which.other] if isinstance(which, Without) else [])):
            for rows in delta_folder.scan(delta, columns=columns, selection=selection, others=others):
                yield from typed(pa.Table.from_batches([rows]), schema).to_batches()

    def count(self, table: str) -> int:
        delta = self._open(table)
        if delta is None:
            return 0
        if found := self.damage([table], deeply=False):  # the log, which tells the count, knows nothing of lost files
            raise found
        return delta_folder.count(delta)

    def _append_rows(self, table: str, rows: pa.Table) -> None:
        with self._watching(table):
            delta_folder.append(self.folder(table), rows)

    def _merge_rows(self, table: str, changes: pa.Table) -> None:
        delta = self._open(table)
        if delta is None or not self._is_merged_here(delta, table):
            super()._merge_rows(table, changes)
            return
        with self._watching(table):
            if files(delta):
                delta_folder.merge(delta, changes, key=self.spec(table).key, named=self._named(table, changes))
            else:
                kept = changes.filter(pc.not_equal(changes["_op"], "delete")).drop_columns("_op")
                delta_folder.append(self.folder(table), in_order(kept, self.spec(table).sorted_by))

    def _is_merged_here(self, delta: DeltaTable, table: str) -> bool:
        spec = self.spec(table)
        if delta_folder.has_deletion_vectors(delta):
            return False
        return delta_folder.merges_as_spark(spec.key, spec.schema) and not self._misreads(delta, table, spec.schema)

    def _misreads(self, delta: DeltaTable, table: str, schema: pa.Schema) -> bool:
        """Whether delta-rs would misread instants of these columns, so that Spark must read them."""
        if table in TABLES:  # in lakeloop's own tables, only the times of files do not come from this machine's clock
            schema = pa.schema([field for field in schema if field.name == "modified_at"])
        return misread(files(delta), schema)

    def _delete_rows(self, table: str, where: Mapping[str, Sequence[str]]) -> int:
        delta, schema = self._open(table), self.spec(table).schema
        if delta is None or self._misreads(delta, table, schema):
            return super()._delete_rows(table, where)
        with self._watching(table):
            return delta_folder.delete(delta, where, schema)

    def replace_if_unchanged(self, table: str, rows: list[dict[str, Any]], *, version: int) -> bool:
        arrow, delta = pa.Table.from_pylist(rows, schema=self.spec(table).schema), self._open(table)
        return delta is not None and delta.version() == version and delta_folder.replace(delta, arrow)

    def _load(self, reader: DataFrameReader, table: str) -> DataFrame:
        return reader.load(spark_name(self.folder(table)))

    def _save(self, writer: DataFrameWriter, table: str) -> None:
        writer.save(spark_name(self.folder(table)))

    def few_keys(self, table: str, key: str, values: Sequence[str]) -> pa.Table | None:
        if len(values) > FEW_ROWS:  # as a condition they would take longer than the whole table
            rows = self.few_rows(table)
            return None if rows is None else rows.filter(pc.is_in(rows[key], pa.array(values, rows[key].type)))
        delta, schema = self._open(table), self.spec(table).schema
        if delta is None or self._misreads(delta, table, schema):
            return None
        with self._watching(table):
            return _in_one(delta_folder.few(delta, where={key: values}) if values else [], schema)

    def few_rows(self, table: str, *, version: int | None = None, columns: Sequence[str] = ()) -> pa.Table | None:
        delta, schema = self._open(table, version=version), self._schema(table, [*columns])
        if delta is None or delta_folder.has_deletion_vectors(delta) or self._misreads(delta, table, schema):
            return None
        with self._watching(table):
            return _in_one(delta_folder.few(delta, columns=schema.names), schema)

    def read_keys(self, table: str, key: str, values: Sequence[str]) -> DataFrame:
        few = self.few_keys(table, key, values)
        return super().read_keys(table, key, values) if few is None else self.frame(few)

    def few_changes(self, table: str, *, after: int, until: int, columns: Sequence[str] = ()) -> pa.Table | None:
        delta = self._open(table)
        return None if delta is None else delta_folder.few_changes(delta, after=after, until=until, columns=columns)

    def merge(self, table: str, changes: DataFrame, *, rows: int | None = None, within: str = "TRUE") -> None:
        delta = self._open(table) if rows is not None and rows <= FEW_ROWS else None
        if delta is None or not self._is_merged_here(delta, table):
            super().merge(table, changes, rows=rows, within=within)
            return
        columns = [quoted(column) for column in (*self.spec(table).columns, "_op")]
        self.merge_arrow(table, changes.select(*columns).toArrow())

    def _open(self, table: str, *, version: int | None = None) -> DeltaTable | None:
        self.spec(table)
        with self._watching(table):
            if version is not None:
                return open_folder(self.folder(table), version=version)
            return self._opened.setdefault(table, OpenFolder(self.folder(table))).now()

    def compact(self, table: str) -> int:
        delta, spec = self._open(table), self.spec(table)
        if delta is None or self._misreads(delta, table, spec.schema):
            return 0
        with self._watching(table):
            return delta_folder.compact(delta, spec.schema)

    def vacuum(self, table: str, *, days: int, keep: Sequence[int] = ()) -> int:
        delta = self._open(table)
        if delta is None:
            return 0
        with self._watching(table):
            return delta_folder.vacuum(delta, hours=24 * days, keep=keep)

    def purge(self, table: str) -> str:
        delta = self._open(table)
        assert delta is not None
        return f"nothing in its files ({delta_folder.vacuum(delta, hours=0)} of older versions removed)"

    def damage(self, of: Sequence[str], *, deeply: bool = True, named_in: str = "") -> DamagedTableError | None:
        named = [t for t in self.tables() if is_named(self.folder(t), named_in)]
        for table in [*of, *named]:
            opened = None if deeply else self._opened.get(table)
            if found := damaged(table, self.folder(table), deeply=deeply, opened=opened):
                return found
        return None

    def mend(self, table: str) -> str | None:
        return mend(self.folder(table)) if self.damage([table]) is not None else None

    @contextmanager
    def _watching(self, *tables: str) -> Iterator[None]:
        """Replace an error of the block by `DamagedTableError`, if one of the tables is damaged."""
        try:
            yield
        except LakeloopError:
            raise
        except Exception as error:
            found = self.damage(tables)
            if found is not None:
                raise found from error
            if isinstance(self._root, ObjectPath) and isinstance(error, OSError):
                raise explained(str(self._root), error) from error
            raise


def _in_one(found: list[pa.Table] | None, schema: pa.Schema) -> pa.Table | None:
    return None if found is None else pa.concat_tables([schema.empty_table(), *(typed(rows, schema) for rows in found)])
