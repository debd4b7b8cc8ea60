"""Reads the records of files, change feeds and messages as frames: one `Part` for each set of columns that they have.

No file is read with the columns of another one: CSV files are read by their own headers, Parquet files by their own
schemas. What is not a record (a broken line, a file cut in half) becomes a row too, with the reason in `_unreadable`.

Records of files are ordered by `_source_version`, the place of their file among the files that are read together, and
then by `_offset`, their place in the file.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.records.source import spark_columns
from pipelines.records.text_files import (
    JSON_DDL,
    PLACE,
    PLACE_COLUMNS,
    csv_batches,
    csv_header,
    json_file_batches,
    json_message_batches,
    why_broken,
)
from pipelines.settings.records import COLUMN_NAME, RecordSettings
from transformations.tables.record_texts import type_of_kinds
from transformations.tables.records import in_utc

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame, SparkSession

_TEXTS = "map<string,string>"
_MOST_NEW_COLUMNS = 200


@dataclass(frozen=True)
class Part:
    """Records that have the same columns.

    Attributes:
        rows: `_record`, `_unreadable` and `_unknown`, as `transformations.tables.records.fit` takes them, and the
            columns of PLACE.
        arriving: the columns of `_record`: name → canonical type.
        is_text: the values are texts without types of their own; `arriving` then has the type string for all.
        suggested: for columns of texts that are new, the types that they could have.
        shown: for columns that are read as another type than they have, the type that they have.
        tells_columns: a column that is not in `arriving` is missing, not only null in these records.
        name: what error messages call the part.
    """

    rows: DataFrame
    arriving: Mapping[str, str] = field(default_factory=dict)
    is_text: bool = False
    suggested: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    tells_columns: bool = True
    name: str = ""


def file_parts(
    spark: SparkSession,
    folder: Path,
    paths: Sequence[str],
    *,
    source: RecordSettings,
    names: Sequence[str],
    wants_types: bool,
    most_mb: int,
    without: Collection[str] = (),
) -> list[Part]:
    """The records of files.

    Args:
        paths: relative to `folder`, in the order of their arrival.
        names: the names that the source uses for the known columns.
        wants_types: look for new columns in JSON, and for their types.
        most_mb: the limit for a JSON file that is read in one piece; see `json_file_batches`.
        without: those of `paths` that are not read.

    Raises:
        FileNotFoundError: a file is gone. It may also be raised when the records are read.
    """
    here = {path: number for number, path in enumerate(paths) if path not in without}
    broken: dict[str, str] = {}
    _check_there(folder, here)
    if source.format == "csv":
        parts = _csv_parts(spark, folder, here, options=source.options, broken=broken)
    elif source.format == "parquet":
        parts = _parquet_parts(spark, folder, here, broken=broken)
    else:
        parts = []
        if here:
            known = {name.lower(): name for name in names}
            read = json_file_batches(
                str(folder), options=source.options, names=known, wants_kinds=wants_types, most_mb=most_mb
            )
            texts = _listed(spark, here).mapInArrow(read, JSON_DDL)
            parts = [_json_part(texts, names=names, wants_types=wants_types, name="the records")]
    return [*parts, *([unreadable(spark, broken)] if broken else [])]


def _check_there(folder: Path, paths: Iterable[str]) -> None:
    if gone := [path for path in paths if not (folder / path).is_file()]:
        raise FileNotFoundError(f"gone before it was read: {', '.join(gone)}")


def unreadable(spark: SparkSession, broken: Mapping[str, str]) -> Part:
    """One unreadable row for each file (path → reason) that could not be read at all."""
    rows = [(None, None, path, None, None, None, None, f"{path}: {why}") for path, why in broken.items()]
    schema = f"{PLACE}, _record struct<_none:string>, _unknown {_TEXTS}, _unreadable string"
    return Part(spark.createDataFrame(rows, schema), is_text=True, tells_columns=False)


def example(spark: SparkSession, *, names: Sequence[str]) -> Part:
    """A record from no file, with a text in each column: if it makes Spark fail, the files are not at fault."""
    from pyspark.sql import functions as F

    part = unreadable(spark, {"": ""})
    record = F.struct(*[F.lit("1").alias(name) for name in names]).alias("_record")
    rows = part.rows.select(*PLACE_COLUMNS, record, "_unknown", F.lit(None).cast("string").alias("_unreadable"))
    return Part(rows, dict.fromkeys(names, "string"), is_text=True, tells_columns=False)


def _json_part(texts: DataFrame, *, names: Sequence[str], wants_types: bool, name: str) -> Part:
    """JSON objects as records.

    A column that an object does not have is null. A new column gets the type of its values if all are numbers of one
    kind, or all are booleans; else it is text, with nested values as JSON.
    """
    from pyspark.sql import functions as F

    new = _new_columns(texts) if wants_types else {}
    names = [*names, *new]
    known = F.array(*map(F.lit, names))
    unknown = F.map_filter("_texts", lambda k, v: ~F.array_contains(known, k) & v.isNotNull())
    rows = texts.select(
        *PLACE_COLUMNS,
        F.struct(*[F.try_element_at("_texts", F.lit(n)).alias(n) for n in names]).alias("_record"),
        F.when(F.size(unknown) > 0, unknown).alias("_unknown"),
        "_unreadable",
    )
    return Part(rows, dict.fromkeys(names, "string"), is_text=True, suggested=new, tells_columns=False, name=name)


def message_part(messages: DataFrame, *, names: Sequence[str], key: Sequence[str], wants_types: bool) -> Part:
    """Kafka messages as records: their values are JSON objects; a message without a value deletes its key.

    Args:
        key: the names that the source uses for the key columns. With one, the message's key is its value; with several
            columns, a message without a value is unreadable.
    """
    from pyspark.sql import functions as F

    value = F.col("value")
    if len(key) == 1:
        is_text = F.is_valid_utf8(F.col("key").cast("string"))
        tombstone = F.when(is_text, F.to_json(F.create_map(F.lit(key[0]), F.col("key").cast("string"))))
        value = F.coalesce(value, tombstone.cast("binary"))
    placed = messages.select(
        F.when(F.col("value").isNull(), "delete").alias("_op"),
        F.lit(None).cast("timestamp").alias("_changed_at"),
        F.concat_ws("/", "topic", "partition").alias("_source_file"),
        F.col("partition").cast("bigint").alias("_source_version"),
        F.col("offset").alias("_offset"),
        F.coalesce(value, F.lit("(no value)").cast("binary")).alias("value"),
    )
    read = json_message_batches(names={name.lower(): name for name in names}, wants_kinds=wants_types)
    texts = placed.mapInArrow(read, JSON_DDL)
    return _json_part(texts, names=names, wants_types=wants_types, name="the messages")


def _csv_parts(
    spark: SparkSession,
    folder: Path,
    paths: Mapping[str, int],
    *,
    options: Mapping[str, str],
    broken: dict[str, str],
) -> list[Part]:
    from pyspark.sql import functions as F

    by_header: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for path, number in paths.items():
        try:
            header = csv_header(folder / path, options=options)
        except FileNotFoundError:
            raise
        except (OSError, EOFError, zlib.error, ValueError) as error:
            broken[path] = why_broken(error)
            continue
        if header is None:
            continue  # an empty file has no records
        if len({name.lower() for name in header}) < len(header):
            broken[path] = f"its header names a column twice: {header}"
            continue
        by_header[tuple(header)][path] = number
    parts = []
    for names, files in by_header.items():
        fields = ", ".join(f"c{place} string" for place in range(len(names)))
        ddl = f"_source_file string, _source_version bigint, _offset bigint, _unreadable string, {fields}"
        read = csv_batches(str(folder), width=len(names), options=options)
        texts = _listed(spark, files).mapInArrow(read, ddl)
        rows = texts.select(
            F.lit(None).cast("string").alias("_op"),
            F.lit(None).cast("timestamp").alias("_changed_at"),
            "_source_file",
            "_source_version",
            "_offset",
            F.struct(*[F.col(f"c{place}").alias(name) for place, name in enumerate(names)]).alias("_record"),
            F.lit(None).cast(_TEXTS).alias("_unknown"),
            "_unreadable",
        )
        shown_files = ", ".join(list(files)[:3])
        parts.append(Part(rows, dict.fromkeys(names, "string"), is_text=True, name=shown_files))
    return parts


def _listed(spark: SparkSession, paths: Mapping[str, int]) -> DataFrame:
    """The files as a frame with `number` and `path`."""
    rows = [(number, path) for path, number in paths.items()]
    return spark.createDataFrame(rows, "number bigint, path string")


def _parquet_parts(
    spark: SparkSession, folder: Path, paths: Mapping[str, int], *, broken: dict[str, str]
) -> list[Part]:
    import pyarrow as pa
    from pyarrow import parquet
    from pyspark.errors import PySparkException

    by_schema: dict[str, tuple[pa.Schema, dict[str, int]]] = {}
    for path, number in paths.items():
        if ":" in path:
            broken[path] = "Spark cannot open a Parquet file with a colon in its path; rename it"
            continue
        try:
            schema = parquet.read_schema(folder / path).remove_metadata()
            by_schema.setdefault(str(schema), (schema, {}))[1][path] = number
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            broken[path] = why_broken(error)
    if any("[ns" in schema_text for schema_text in by_schema):
        # Without it Spark refuses the file; with it such columns are numbers, which `TableRecord` turns into instants.
        spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    parts = []
    for schema, files in by_schema.values():
        try:
            rows = spark.read.parquet(*[_escaped(folder / path) for path in files])
            record = TableRecord(rows, arrow=schema)
            placed = _placed(rows, folder, files, record.column)
            part = typed_part(placed, record, name=", ".join(list(files)[:3]))
        except PySparkException as error:
            _check_there(folder, files)
            broken.update(dict.fromkeys(files, why_broken(error)))
            continue
        parts.append(part)
    return parts


class TableRecord:
    """The columns of a table as one struct.

    Args:
        rows: a frame with only the columns of the table.
        arrow: its schema as Arrow reads it, which shows the instants in nanoseconds.

    Attributes:
        column: the struct, named `_record`.
        types: name → canonical type, as the columns are in the struct.
        shown: name → the type that the column has in the table, if it is read as text.
    """

    def __init__(self, rows: DataFrame, *, arrow: pa.Schema | None = None) -> None:
        from pyspark.sql import functions as F

        self.types = spark_columns(rows)
        self.shown: dict[str, str] = {}
        values = []
        for one in rows.schema.fields:
            value, of = F.col(quoted(one.name)), one.dataType.simpleString()
            if of == "bigint" and arrow is not None and str(arrow.field(one.name).type).startswith("timestamp[ns"):
                value, self.types[one.name], self.shown[one.name] = _nanoseconds(value), "string", "timestamp"
            elif of == "void":
                value = value.cast("string")
            elif "timestamp_ntz" in of:
                value = in_utc(value, one.dataType)
            values.append(value.alias(one.name))
        self.column = F.struct(*values).alias("_record")


def typed_part(placed: DataFrame, record: TableRecord, *, name: str) -> Part:
    """Records of a file or table that has types: `placed` has `_record` and the columns of PLACE."""
    from pyspark.sql import functions as F

    nothing = [F.lit(None).cast(_TEXTS).alias("_unknown"), F.lit(None).cast("string").alias("_unreadable")]
    rows = placed.select(*PLACE_COLUMNS, "_record", *nothing)
    return Part(rows, record.types, name=name, shown=record.shown)


def _nanoseconds(value: Column) -> Column:
    """Nanoseconds since 1970 as the text of an instant, with all nine digits; null stays null."""
    from pyspark.sql import functions as F

    seconds = F.call_function("div", value - F.pmod(value, F.lit(10**9)), F.lit(10**9))
    day = F.call_function("div", seconds - F.pmod(seconds, F.lit(86_400)), F.lit(86_400))
    second = F.pmod(seconds, F.lit(86_400))
    parts = [F.call_function("div", second, F.lit(3600)), F.call_function("div", second, F.lit(60)) % 60, second % 60]
    clock = F.concat_ws(":", *[F.lpad(part.cast("string"), 2, "0") for part in parts])
    fraction = F.lpad(F.pmod(value, F.lit(10**9)).cast("string"), 9, "0")
    date = F.date_add(F.lit("1970-01-01").cast("date"), day.cast("int")).cast("string")
    return F.when(value.isNotNull(), F.concat(date, F.lit("T"), clock, F.lit("."), fraction, F.lit("Z")))


def _placed(rows: DataFrame, folder: Path, files: Mapping[str, int], record: Column) -> DataFrame:
    """The records of Parquet files with the columns of PLACE: the file, its number, and the row's number in it."""
    from pyspark.sql import functions as F

    file = F.url_decode(F.replace("_metadata.file_path", F.lit("+"), F.lit("%2B")))
    placed = rows.select(
        F.lit(None).cast("string").alias("_op"),
        F.lit(None).cast("timestamp").alias("_changed_at"),
        F.substr(file, F.instr(file, str(folder)) + len(str(folder)) + 1).alias("_source_file"),
        F.col("_metadata.row_index").alias("_offset"),
        record,
    )
    if len(files) == 1:
        return placed.withColumn("_source_version", F.lit(next(iter(files.values()))).cast("bigint"))
    numbers = rows.sparkSession.createDataFrame(list(files.items()), "_source_file string, _source_version bigint")
    return placed.join(F.broadcast(numbers), "_source_file", "left")


def _new_columns(texts: DataFrame) -> dict[str, str]:
    """The names in JSON objects that are no columns yet and can be: name → a type that holds every value.

    None at all if there are too many, or if two differ only in upper and lower case.
    """
    from pyspark.sql import functions as F

    each = texts.select(F.explode("_kinds").alias("name", "kind")).distinct()
    found = each.limit(5 * _MOST_NEW_COLUMNS).collect()
    kinds: dict[str, set[str]] = defaultdict(set)
    for row in found:
        kinds[row["name"]].add(row["kind"])
    able = {
        name: type_of_kinds(found_kinds) for name, found_kinds in sorted(kinds.items()) if COLUMN_NAME.fullmatch(name)
    }
    is_apart = len({name.lower() for name in able}) == len(able)
    return able if is_apart and len(found) < 5 * _MOST_NEW_COLUMNS and len(able) <= _MOST_NEW_COLUMNS else {}


def quoted(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"


def _escaped(path: Path) -> str:
    """A path escaped for Hadoop, which would take brackets, braces, stars and question marks as a pattern."""
    return re.sub(r"([\\\[\]{}*?])", r"\\\1", str(path))
