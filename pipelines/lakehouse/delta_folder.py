"""Reads Delta folders, and makes small changes in them, with delta-rs: without a JVM, and with the results of Spark.

Spark writes the same tables, and in some cases the two engines treat a value differently. Then this module follows
Spark: instants.py finds the instants that delta-rs would misread, `writing` leaves out statistics for which Spark would
skip files, and a merge whose keys delta-rs would not match is left to Spark (`merges_as_spark`).
tests/spark/test_engines.py compares the two for all types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lakehouse.instants import has_type, misread
from pipelines.lakehouse.open_folder import added_files, address, files, folder_of, open_at
from pipelines.lakehouse.predicates import all_in, literal, quoted, same
from pipelines.lakehouse.selection import ALL_ROWS, Selection
from pipelines.storage.object_path import AnyPath, readable

if TYPE_CHECKING:
    from deltalake import DeltaTable, WriterProperties

# A merge rewrites every file in which it changes a row, so large files make small edits expensive.
_FILE_BYTES = 16 * 1024 * 1024
# "Few" rows: up to these limits a process holds them in memory, which is cheaper than a Spark job.
HELD_ROWS = 50_000
FEW_BYTES = 128 * 1024 * 1024
# Up to so many values are named in a condition, of Spark or of delta-rs.
FEW_ROWS = 2_000
_PAGE_BYTES = 1024 * 1024
# So many keys of a merge are named, and so many bytes of them.
_NAMED_KEYS, _NAMED_BYTES = 200, 64 * 1024
_SORTED_BYTES = 1024 * 1024 * 1024  # texts of 2 GB would not fit into one array
CHANGE_SCHEMA = pa.schema(
    [("_change_type", pa.string()), ("_commit_version", pa.int64()), ("_commit_timestamp", pa.timestamp("us", "UTC"))]
)


def create(folder: AnyPath, schema: pa.Schema, partition_by: Sequence[str], configuration: Mapping[str, str]) -> None:
    """Create an empty table; if there is one already, change nothing."""
    from deltalake import DeltaTable

    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
    place, options = address(folder)
    DeltaTable.create(
        place,
        schema=schema,
        mode="ignore",
        partition_by=list(partition_by) or None,
        configuration={**configuration, "delta.targetFileSize": str(_FILE_BYTES)},
        storage_options=options,
    )


def empty(folder: AnyPath, schema: pa.Schema) -> None:
    """Remove all rows, and give the table the columns of `schema`, in one commit; its id and properties stay.

    Not by Spark: its overwrite makes every column nullable, and its REPLACE TABLE makes another table.
    """
    from deltalake import write_deltalake

    place, options = address(folder)
    write_deltalake(place, schema.empty_table(), mode="overwrite", schema_mode="overwrite", storage_options=options)


def history(delta: DeltaTable) -> list[dict[str, Any]]:
    """The commits that the log still has, newest first: `version`, `at` (UTC), `operation`, delta-rs' own `metrics`."""
    return [
        {
            # Only newer versions of delta-rs give the number.
            "version": commit.get("version", delta.version() - place),
            "at": datetime.fromtimestamp(commit["timestamp"] / 1000, timezone.utc),
            "operation": commit.get("operation", ""),
            "metrics": commit.get("operationMetrics") or {},
        }
        for place, commit in enumerate(delta.history())
    ]


def scan(
    delta: DeltaTable,
    *,
    columns: list[str] | None = None,
    selection: Selection = ALL_ROWS,
    others: DeltaTable | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a selection.

    Args:
        columns: those to read; names that the table does not have are left out.
        others: the table of `Without`.
    """
    known = [field.name for field in delta.schema().fields]
    names = [c for c in columns if c in known] if columns else known
    # Not by pyarrow's own reader: its threads can abort a process that ends soon afterwards.
    if selection.which is None:
        yield from pa.RecordBatchReader.from_stream(delta.scan(columns=names, predicate=selection.condition))
    else:
        yield from _query(selection.sql(names), rows=delta, others=others)


def count(delta: DeltaTable) -> int:
    """How many rows the table has, by the counts of rows in its log."""
    (batch,) = _query("SELECT count(*) FROM rows", rows=delta)
    return int(batch.column(0)[0].as_py())


def _query(sql: str, **tables: DeltaTable | None) -> Iterator[pa.RecordBatch]:
    """The result of a query of these tables."""
    from deltalake import QueryBuilder

    builder = QueryBuilder()
    for name, delta in tables.items():
        if delta is not None:
            builder.register(name, delta)
    yield from pa.RecordBatchReader.from_stream(builder.execute(sql))


def typed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """`rows` with the columns and types of `schema`; a column that they do not have is null.

    Engines return strings and instants in Arrow types of their own, and a table of an older lakeloop lacks columns.
    """
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(schema.names).cast(schema)


def in_order(rows: pa.Table, column: str) -> pa.Table:
    """`rows`, sorted by the column, if one is named. Rows too many for one array stay as they are."""
    if not column or rows.nbytes > _SORTED_BYTES:
        return rows
    return rows.take(pc.sort_indices(rows[column]))


def complete(delta: DeltaTable, schema: pa.Schema) -> None:
    """Add the columns of `schema` that the table, made by an older lakeloop, does not have."""
    known = {field.name for field in delta.schema().fields}
    lacking = [field for field in schema if field.name not in known]
    if lacking:
        from deltalake import Schema

        delta.alter.add_columns(Schema.from_arrow(pa.schema(lacking)).fields)


def few(
    delta: DeltaTable, *, columns: list[str] | None = None, where: Mapping[str, Sequence[str]] | None = None
) -> list[pa.Table] | None:
    """The rows of `scan`, all in memory; None if they are more than HELD_ROWS, or than FEW_BYTES."""
    if where is None and not _are_few(delta, columns):
        return None
    found: list[pa.Table] = []
    rows = size = 0
    for part in scan(delta, columns=columns, selection=Selection(where or {})):
        found.append(pa.Table.from_batches([part]))
        rows, size = rows + part.num_rows, size + part.nbytes
        if rows > HELD_ROWS or size > FEW_BYTES:
            return None
    return found


def _are_few(delta: DeltaTable, columns: list[str] | None) -> bool:
    """Whether the table's rows may be few, by what its log and its files say of them: a scan holds much at once."""
    import pyarrow.parquet as pq

    added = added_files(delta)
    if sum(rows or 0 for rows in added["num_records"].to_pylist()) > HELD_ROWS:
        return False
    size = 0
    for file in files(delta):
        metadata = pq.read_metadata(readable(file))
        for group in range(metadata.num_row_groups):
            for place in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(place)
                if columns is None or chunk.path_in_schema.split(".")[0] in columns:
                    size += chunk.total_uncompressed_size
        if size > FEW_BYTES:
            return False
    return True


def few_changes(delta: DeltaTable, *, after: int, until: int, columns: Sequence[str] = ()) -> pa.Table | None:
    """The change feed of versions (after, until], all in memory.

    None if Spark must read it: it has more than HELD_ROWS rows or FEW_BYTES, delta-rs would misread it (an instant, or
    deletion vectors), or a part of it is gone; Spark's error then says which.
    """
    if has_deletion_vectors(delta):
        return None
    own = pa.schema(delta.schema().to_arrow())
    schema = pa.schema([own.field(name) for name in columns] if columns else own)
    if after == until:  # no version, which delta-rs takes for an error
        return pa.schema([*schema, *CHANGE_SCHEMA]).empty_table()
    log = folder_of(delta) / "_delta_log"
    try:
        written = [path for version in range(after + 1, until + 1) for path in _written_by(log, version)]
        if misread([folder_of(delta) / path for path in written], schema):
            return None
        feed = delta.load_cdf(
            starting_version=after + 1,
            ending_version=until,
            columns=[*schema.names, *CHANGE_SCHEMA.names] if columns else None,
        )
        rows: list[pa.RecordBatch] = []
        count = size = 0
        for batch in pa.RecordBatchReader.from_stream(feed):
            rows.append(batch)
            count, size = count + batch.num_rows, size + batch.nbytes
            if count > HELD_ROWS or size > FEW_BYTES:
                return None
    except Exception:  # delta-rs fails in many ways if something is missing; Spark's errors are known
        return None
    schema = pa.schema([*schema, *CHANGE_SCHEMA])
    return pa.concat_tables([schema.empty_table(), *(typed(pa.Table.from_batches([batch]), schema) for batch in rows)])


def has_deletion_vectors(delta: DeltaTable) -> bool:
    """Whether rows may be marked as deleted inside files: delta-rs cannot write such marks, and reads only some."""
    return bool(delta.metadata().configuration.get("delta.enableDeletionVectors") == "true")


def _written_by(log: AnyPath, version: int) -> Iterator[str]:
    """The files that a commit added, as paths below the table's folder: those with rows, and those with changes."""
    for line in (log / f"{version:020}.json").read_bytes().splitlines():
        action = json.loads(line)
        for kind in ("add", "cdc"):
            if kind in action:
                yield unquote(action[kind]["path"])


def append(folder: AnyPath, rows: pa.Table) -> None:
    """Append the rows in one commit."""
    from deltalake import write_deltalake

    place, options = address(folder)
    properties = writing(rows.schema)
    write_deltalake(place, rows, mode="append", writer_properties=properties, storage_options=options)


def replace(delta: DeltaTable, rows: pa.Table) -> bool:
    """Replace all rows if nothing was committed since `delta` was opened. Returns whether they were replaced."""
    from deltalake import CommitProperties, write_deltalake
    from deltalake.exceptions import CommitFailedError

    try:
        # Without retries the commit is version + 1 or fails.
        write_deltalake(
            delta,
            rows,
            mode="overwrite",
            writer_properties=writing(rows.schema),
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except CommitFailedError:
        return False
    return True


def merge(delta: DeltaTable, changes: pa.Table, *, key: Sequence[str], named: Sequence[str] = ()) -> None:
    """Apply net changes, which have the table's columns and `_op` (insert, update or delete).

    Args:
        named: the values of the first column of the key, so that only the files that may have them are read; see
            `keys_to_name`. The table's log keeps them.
    """
    columns = [c for c in changes.column_names if c != "_op"]
    values = {quoted(c): f"changes.{quoted(c)}" for c in columns}
    conditions = [same(k, nulls=changes[k].null_count > 0) for k in key]
    merger = delta.merge(
        changes,
        predicate=" AND ".join([*conditions, *_named(key[0], named)]),
        source_alias="changes",
        target_alias="target",
        writer_properties=writing(changes.schema),
    )
    merger = merger.when_matched_delete("changes._op = 'delete'").when_matched_update(values)
    merger.when_not_matched_insert(values, "changes._op <> 'delete'").execute()


def _named(name: str, values: Sequence[str]) -> list[str]:
    """The condition that the first column of the key has one of these values; [] without values.

    delta-rs holds it against the statistics of the files. Without it, delta-rs knows only the smallest and the greatest
    value of the changes, and reads nearly all files for two random keys.
    """
    # Not IN: delta-rs holds only some twenty values of an IN against the statistics.
    return ["(" + " OR ".join(f"target.{quoted(name)} = {literal(value)}" for value in values) + ")"] if values else []


def keys_to_name(values: pa.ChunkedArray) -> list[str]:
    """The distinct values of the first column of a key, if a merge can name them; else none."""
    if values.null_count or not pa.types.is_string(values.type) or values.nbytes > _NAMED_BYTES:
        return []
    found: list[str] = pc.unique(values).to_pylist()
    # delta-rs reads the condition again when another commit came first, and loses a quote of two: it would then look
    # for other keys, and miss a conflict.
    return found if len(found) <= _NAMED_KEYS and not any("'" in value for value in found) else []


def merges_as_spark(key: Sequence[str], schema: pa.Schema) -> bool:
    """Whether a merge by delta-rs matches the same keys as Spark's: it takes NaNs of different bits for different.

    So false for keys with floating-point numbers; keys of nested types are left to Spark as well.
    """
    types = [schema.field(k).type for k in key]
    return not any(pa.types.is_nested(data_type) or has_type(data_type, pa.types.is_floating) for data_type in types)


def delete(delta: DeltaTable, where: Mapping[str, Sequence[str]], schema: pa.Schema) -> int:
    """Delete the rows in which each column of `where` has one of its texts. Returns how many."""
    return int(delta.delete(all_in(where), writer_properties=writing(schema))["num_deleted_rows"] or 0)


def compact(delta: DeltaTable, schema: pa.Schema) -> int:
    """Put small files together. Returns how many small files were replaced."""
    done = delta.optimize.compact(max_concurrent_tasks=1, writer_properties=writing(schema))
    return int(done["numFilesRemoved"])


def vacuum(delta: DeltaTable, *, hours: int, keep: Sequence[int] = ()) -> int:
    """Remove files that were replaced at least `hours` ago and that no version of `keep` needs. Returns how many."""

    # A version that the log no longer has cannot be kept, and delta-rs would refuse to try.
    keep = [version for version in sorted(set(keep)) if _is_readable(delta, version)]

    def run(*, dry_run: bool) -> int:
        removed = delta.vacuum(
            retention_hours=hours,
            enforce_retention_duration=False,
            dry_run=dry_run,
            full=True,
            keep_versions=keep or None,
        )
        return len(removed)

    # Without the dry run it would commit although there is nothing to remove.
    return run(dry_run=False) if run(dry_run=True) else 0


def _is_readable(delta: DeltaTable, version: int) -> bool:
    from deltalake.exceptions import DeltaError

    try:
        open_at(folder_of(delta), version=version)
    except DeltaError:
        return False
    return True


def writing(schema: pa.Schema) -> WriterProperties:
    """How delta-rs writes Parquet files: without the statistics that would make Spark skip files with wanted rows.

    delta-rs leaves NaN out of them, which is the greatest number for Spark, and writes those of decimals as doubles or
    as the greatest 64-bit number.
    """
    from deltalake import ColumnProperties, WriterProperties

    if not any(has_type(field.type, _is_inexact) for field in schema):
        if any(pa.types.is_binary(field.type) for field in schema):
            # Each page has one value, which may be a whole file: no reader holds thousands of them at once.
            return WriterProperties(compression="SNAPPY", write_batch_size=1, data_page_size_limit=_PAGE_BYTES)
        return WriterProperties(compression="SNAPPY")
    # A field inside a struct cannot be named here, so nested columns get no statistics either.
    plain = [f.name for f in schema if not pa.types.is_nested(f.type) and not _is_inexact(f.type)]
    return WriterProperties(
        compression="SNAPPY",
        default_column_properties=ColumnProperties(statistics_enabled="NONE"),
        column_properties={column: ColumnProperties(statistics_enabled="PAGE") for column in plain},
    )


def _is_inexact(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_floating(data_type) or pa.types.is_decimal(data_type))
