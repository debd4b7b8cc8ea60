"""Files, change feed rows or messages in; their records as frames, one for each form that their columns have, out.

No file is read with the columns of another: CSV files are read by their own headers, Parquet files by their own
schemas. What is no record (a broken line, a file cut in half) is a row too, with the reason in `_unreadable`.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.records import spark_columns
from pipelines.settings_records import COLUMN_NAME, RecordSettings
from transformations.column_types import canonical_type, split_top

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# `_op` is null where the record does not say; the rest is null where the source has no such thing.
PLACE = "_op string, _changed_at timestamp, _source_file string, _source_version bigint, _offset bigint"
_TEXTS = "map<string,string>"
_MOST_NEW_COLUMNS = 200


@dataclass(frozen=True)
class Part:
    """Records whose columns have one form.

    Attributes:
        rows: `_record`, `_unreadable`, `_unknown` as `transformations.records.fit` wants them, and those of PLACE.
        arriving: the columns of `_record`, name → canonical type.
        is_text: values are texts, and have no type of their own (`arriving` says string of all).
        suggested: the types that new columns of texts could have.
        tells_columns: a column that is not among `arriving` is missing, and not only null in these records.
        name: what an error calls it.
    """

    rows: DataFrame
    arriving: Mapping[str, str] = field(default_factory=dict)
    is_text: bool = False
    suggested: Mapping[str, str] = field(default_factory=dict)
    tells_columns: bool = True
    name: str = ""


def file_parts(
    spark: SparkSession, folder: Path, paths: Sequence[str], *, source: RecordSettings, wants_types: bool
) -> list[Part]:
    """The records of files.

    Args:
        paths: below `folder`. One that is gone by now is an unreadable row.
        wants_types: new JSON columns are looked for, with their types.
    """
    here = [path for path in paths if (folder / path).is_file()]
    broken = {path: "the file was gone before it was read" for path in paths if path not in here}
    if source.format == "csv":
        parts = _csv_parts(spark, folder, here, options=source.options, broken=broken)
    elif source.format == "parquet":
        parts = _parquet_parts(spark, folder, here, broken=broken)
    else:
        is_whole = source.options.get("multiLine") == "true"
        parts = []
        if here:
            texts = _placed(spark.read.text([_escaped(folder / p) for p in here], wholetext=is_whole), folder)
            parts = [json_part(texts, columns=source.columns, wants_types=wants_types)]
    return [*parts, *([unreadable(spark, broken)] if broken else [])]


def unreadable(spark: SparkSession, broken: Mapping[str, str]) -> Part:
    """One row for each file (path → why) of which nothing could be read."""
    rows = [(None, None, path, None, None, None, None, f"{path}: {why}") for path, why in broken.items()]
    schema = f"{PLACE}, _record struct<_none:string>, _unknown {_TEXTS}, _unreadable string"
    return Part(spark.createDataFrame(rows, schema), is_text=True, tells_columns=False)


def json_part(lines: DataFrame, *, columns: Mapping[str, str], wants_types: bool, name: str = "the records") -> Part:
    """Texts (`value`) that are JSON objects, or arrays of them, as records. Blank ones are passed over.

    An object says what it has, so a column that it lacks is null. A new column has the type of its values where all
    are numbers of one kind or booleans; else it is text, nested values as JSON.
    """
    from pyspark.sql import functions as F

    lines = lines.where(F.trim("value") != "")
    objects = F.coalesce(F.from_json("value", f"array<{_TEXTS}>"), F.array(F.from_json("value", _TEXTS)))
    each = lines.withColumn("_texts", F.explode(objects))
    new = _new_columns(lines, columns) if wants_types else {}
    names = [*columns, *new]
    known = F.array(*map(F.lit, names))
    unknown = F.map_filter("_texts", lambda k, v: ~F.array_contains(known, k) & v.isNotNull())
    rows = each.select(
        *_place_columns(each),
        F.struct(*[F.try_element_at("_texts", F.lit(n)).alias(n) for n in names]).alias("_record"),
        F.when(F.size(unknown) > 0, unknown).alias("_unknown"),
        F.when(F.col("_texts").isNull(), F.col("value")).alias("_unreadable"),
    )
    texts = dict.fromkeys(names, "string")
    return Part(rows, texts, is_text=True, suggested=new, tells_columns=False, name=name)


def table_part(changes: DataFrame, *, name: str) -> Part:
    """Rows of a Delta change feed as records; what a row was before an update is passed over."""
    from pyspark.sql import functions as F

    columns = [c for c in changes.columns if c not in ("_change_type", "_commit_version", "_commit_timestamp")]
    placed = changes.where("_change_type <> 'update_preimage'").select(
        F.when(F.col("_change_type") == "delete", "delete").otherwise("upsert").alias("_op"),
        F.col("_commit_timestamp").alias("_changed_at"),
        F.lit(None).cast("string").alias("_source_file"),
        F.col("_commit_version").alias("_source_version"),
        # One commit can delete and insert the same key (an overwrite does): the insert is the later one.
        F.when(F.col("_change_type") == "delete", 0).otherwise(1).cast("bigint").alias("_offset"),
        F.struct(*[F.col(f"`{c}`") for c in columns]).alias("_record"),
    )
    return _typed_part(placed, spark_columns(changes.select(*[F.col(f"`{c}`") for c in columns])), name=name)


def message_part(messages: DataFrame, *, columns: Mapping[str, str], key: Sequence[str], wants_types: bool) -> Part:
    """Kafka messages whose values are JSON objects as records; one without a value deletes the key that it names."""
    from pyspark.sql import functions as F

    value = F.col("value").cast("string")
    if len(key) == 1:
        tombstone = F.to_json(F.create_map(F.lit(key[0]), F.col("key").cast("string")))
        value = F.when(F.col("value").isNull(), tombstone).otherwise(value)
    placed = messages.select(
        F.when(F.col("value").isNull(), "delete").alias("_op"),
        F.lit(None).cast("timestamp").alias("_changed_at"),
        F.concat_ws("/", "topic", "partition").alias("_source_file"),
        F.col("partition").cast("bigint").alias("_source_version"),
        F.col("offset").alias("_offset"),
        F.coalesce(value, F.lit("(no value)")).alias("value"),
    )
    return json_part(placed, columns=columns, wants_types=wants_types, name="the messages")


def damaged(spark: SparkSession, folder: Path, paths: Sequence[str]) -> dict[str, str]:
    """Those of some Parquet files whose pages cannot be read, and why; reads each of them whole."""
    from pyspark.errors import PySparkException

    found = {}
    for path in paths:
        try:
            spark.read.parquet(_escaped(folder / path)).write.format("noop").mode("overwrite").save()
        except PySparkException as error:
            found[path] = _first_line(error)
    return found


def _csv_parts(
    spark: SparkSession, folder: Path, paths: Sequence[str], *, options: Mapping[str, str], broken: dict[str, str]
) -> list[Part]:
    from pyspark.sql import functions as F

    sep, quote = options.get("sep", ","), options.get("quote", '"')
    by_header: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        try:
            header = _first_text_line(folder / path)
        except (OSError, EOFError) as error:
            broken[path] = _first_line(error)
            continue
        if not header.strip():
            continue  # an empty file has no records
        by_header[header].append(path)
    parts = []
    for header, files in by_header.items():
        names = _header_names(header.removeprefix("\ufeff"), sep=sep, quote=quote)
        if len({name.lower() for name in names}) < len(names):
            broken.update(dict.fromkeys(files, f"its header names a column twice: {names}"))
            continue
        lines = _placed(spark.read.text([_escaped(folder / path) for path in files]), folder)
        lines = lines.where((F.col("value") != header) & (F.trim("value") != ""))
        fields = ", ".join(f"c{place} string" for place in range(len(names)))
        reader = {"escape": '"', **options, "mode": "PERMISSIVE", "columnNameOfCorruptRecord": "_bad"}
        parsed = lines.withColumn("_csv", F.from_csv("value", f"{fields}, _bad string", reader))
        is_broken = F.col("_csv._bad").isNotNull() | F.contains("value", F.lit("\ufffd"))
        if quote:
            is_broken = is_broken | (F.length(F.regexp_replace("value", f"[^{re.escape(quote)}]", "")) % 2 == 1)
        record = F.struct(*[F.when(~is_broken, F.col(f"_csv.c{n}")).alias(name) for n, name in enumerate(names)])
        rows = parsed.select(
            *_place_columns(parsed),
            record.alias("_record"),
            F.lit(None).cast(_TEXTS).alias("_unknown"),
            F.when(is_broken, F.col("value")).alias("_unreadable"),
        )
        parts.append(Part(rows, dict.fromkeys(names, "string"), is_text=True, name=", ".join(files[:3])))
    return parts


def _parquet_parts(spark: SparkSession, folder: Path, paths: Sequence[str], *, broken: dict[str, str]) -> list[Part]:
    import pyarrow as pa
    from pyarrow import parquet
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    by_schema: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        try:
            by_schema[str(parquet.read_schema(folder / path).remove_metadata())].append(path)
        except (pa.ArrowException, OSError) as error:
            broken[path] = _first_line(error)
    parts = []
    for files in by_schema.values():
        try:
            rows = spark.read.parquet(*[_escaped(folder / path) for path in files])
            columns = spark_columns(rows)
            placed = _placed(rows, folder, F.struct(*[F.col(f"`{c}`") for c in rows.columns]).alias("_record"))
        except PySparkException as error:
            broken.update(dict.fromkeys(files, _first_line(error)))
            continue
        parts.append(_typed_part(placed, columns, name=", ".join(files[:3])))
    return parts


def _typed_part(placed: DataFrame, columns: Mapping[str, str], *, name: str) -> Part:
    from pyspark.sql import functions as F

    nothing = [F.lit(None).cast(_TEXTS).alias("_unknown"), F.lit(None).cast("string").alias("_unreadable")]
    return Part(placed.select(*_place_columns(placed), "_record", *nothing), columns, name=name)


def _placed(rows: DataFrame, folder: Path, *columns: Column) -> DataFrame:
    """`columns` (else `value`) of rows of files, and where each stood: file, and a number that grows with its place."""
    from pyspark.sql import functions as F

    # A row takes a byte at least, and a task reads at most so many bytes as blocks are apart: so the sum grows along
    # the file, however it was cut.
    has_index = "row_index" in rows.select("_metadata").schema["_metadata"].dataType.names  # type: ignore[attr-defined]
    in_task = F.monotonically_increasing_id().bitwiseAND(F.lit((1 << 33) - 1))
    offset = F.col("_metadata.row_index") if has_index else F.col("_metadata.file_block_start") + in_task
    file = F.url_decode(F.replace("_metadata.file_path", F.lit("+"), F.lit("%2B")))
    return rows.select(
        *(columns or (F.col("value"),)),
        F.lit(None).cast("string").alias("_op"),
        F.lit(None).cast("timestamp").alias("_changed_at"),
        F.substr(file, F.instr(file, str(folder)) + len(str(folder)) + 1).alias("_source_file"),
        F.lit(None).cast("bigint").alias("_source_version"),
        offset.alias("_offset"),
    )


def _place_columns(rows: DataFrame) -> list[str]:
    names = [part.split()[0] for part in PLACE.split(", ")]
    return [name for name in names if name in rows.columns]


def _new_columns(lines: DataFrame, columns: Mapping[str, str]) -> dict[str, str]:
    """The keys of JSON objects that are no columns yet and can be, with a type that holds every value."""
    from pyspark.sql import functions as F

    row = lines.agg(F.schema_of_variant_agg(F.try_parse_json("value"))).first()
    text = str(row[0]) if row is not None else ""
    if text.startswith("ARRAY<"):
        text = text.removeprefix("ARRAY<").removesuffix(">")
    if not text.startswith("OBJECT<"):
        return {}
    fields = [part.split(": ", 1) for part in split_top(text.removeprefix("OBJECT<").removesuffix(">")) if part]
    taken = {name.lower() for name in columns}
    new = {f[0].strip("`"): f[1] for f in fields if len(f) == 2 and f[0].strip("`").lower() not in taken}
    able = {name: _json_type(of) for name, of in new.items() if COLUMN_NAME.fullmatch(name) and of != "VOID"}
    return able if len(able) <= _MOST_NEW_COLUMNS and len({n.lower() for n in able}) == len(able) else {}


def _json_type(of: str) -> str:
    if of in ("BIGINT", "BOOLEAN"):
        return canonical_type(of)
    return "double" if of.startswith(("DECIMAL", "DOUBLE", "FLOAT")) else "string"


def _first_text_line(file: Path) -> str:
    """The first line without its end, as Spark's reader of texts gives it."""
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
        line: bytes = stream.readline()
    return re.split(rb"\r\n|\n|\r", line, maxsplit=1)[0].decode("utf-8", "replace")


def _header_names(header: str, *, sep: str, quote: str) -> list[str]:
    if len(sep) == 1 and len(quote) == 1:
        names = next(csv.reader([header], delimiter=sep, quotechar=quote))
    else:
        names = header.split(sep)
    return [name.strip() or f"unnamed_{place}" for place, name in enumerate(names, 1)]


def _escaped(path: Path) -> str:
    """A path as Hadoop takes it literally: it reads brackets, braces, stars and question marks as a pattern."""
    return re.sub(r"([\\\[\]{}*?])", r"\\\1", str(path))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
