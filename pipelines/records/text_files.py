"""Functions for `mapInArrow` that read CSV and JSON, from files or messages, as records whose values are texts.

A file is opened in the Spark task that reads it, line by line, so that the memory depends on the longest record and not
on the file. Each record, also a refused one, has its number in its file as `_offset`.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from transformations.tables.record_texts import MOST_CHARACTERS, Dialect, JsonRecord, Refused, csv_records, json_records

_ROWS, _CHARACTERS = 2_000, 4 << 20
_TEXTS = pa.map_(pa.string(), pa.string())
# Where a record comes from. `_op` is null if the record does not say; the others are null if the source has no such
# thing.
PLACE = "_op string, _changed_at timestamp, _source_file string, _source_version bigint, _offset bigint"
PLACE_COLUMNS = tuple(column.split()[0] for column in PLACE.split(", "))
JSON_DDL = f"{PLACE}, _texts map<string,string>, _kinds map<string,string>, _unreadable string"
_JSON_SCHEMA = pa.schema(
    [
        ("_op", pa.string()),
        ("_changed_at", pa.timestamp("us", tz="UTC")),
        ("_source_file", pa.string()),
        ("_source_version", pa.int64()),
        ("_offset", pa.int64()),
        ("_texts", _TEXTS),
        ("_kinds", _TEXTS),
        ("_unreadable", pa.string()),
    ]
)
Batches = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def dialect_of(options: Mapping[str, str]) -> Dialect:
    """How the CSV files of a source are written, from its options."""
    return Dialect(
        sep=options.get("sep", ","),
        quote=options.get("quote", '"'),
        escape=options.get("escape", '"'),
        trims_left=options.get("ignoreLeadingWhiteSpace") == "true",
        trims_right=options.get("ignoreTrailingWhiteSpace") == "true",
        spans_lines=options.get("multiLine", "true") != "false",
    )


def csv_header(file: Path, *, options: Mapping[str, str]) -> list[str] | None:
    """The names of the columns of a CSV file; None for a file without any record. An empty name is `unnamed_N`.

    Raises:
        ValueError: the first record cannot be read.
        OSError, EOFError, zlib.error, UnicodeError: the file cannot be read.
    """
    with _opened(file, options) as stream:
        for record in csv_records(stream.readline, dialect_of(options)):
            if isinstance(record, Refused):
                raise ValueError(f"its header is no record: {record}")
            return [name.strip() or f"unnamed_{place}" for place, name in enumerate(record, 1)]
    return None


def csv_batches(folder: str, *, width: int, options: Mapping[str, str]) -> Batches:
    """A function for `mapInArrow`: rows of `number`, `path` → the records of these files.

    Columns: `_source_file`, `_source_version` (the number), `_offset`, `_unreadable`, and the values c0, c1, …; an
    empty value is null.
    """
    names = ["_source_file", "_source_version", "_offset", "_unreadable", *(f"c{n}" for n in range(width))]
    types = [pa.string(), pa.int64(), pa.int64(), *[pa.string()] * (width + 1)]
    schema = pa.schema(list(zip(names, types, strict=True)))
    empty: list[str | None] = [None] * width

    def records(file: Path) -> Iterator[tuple[str | None, Sequence[str | None]]]:
        with _checked(file, options) as stream:
            found = csv_records(stream.readline, dialect_of(options))
            for place, record in enumerate(found):
                if isinstance(record, Refused):
                    yield str(record), empty
                elif place == 0:
                    continue  # the header
                elif len(record) != width:
                    text = options.get("sep", ",").join(record)
                    yield str(Refused(f"{len(record)} values where the header names {width}", text)), empty
                else:
                    yield None, [value or None for value in record]

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        def rows() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for number, path in _paths(batches):
                for offset, (why, values) in enumerate(_or_broken(records, Path(folder), path, empty)):
                    yield sum(map(len, filter(None, values))), (path, number, offset, why, *values)

        for some in _in_batches(rows()):
            columns = zip(*some, strict=True)
            arrays = [pa.array(column, data_type) for column, data_type in zip(columns, types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return read


def json_file_batches(
    folder: str, *, options: Mapping[str, str], names: Mapping[str, str], wants_kinds: bool, most_mb: int
) -> Batches:
    """A function for `mapInArrow`: rows of `number`, `path` → the records of these files, with the columns JSON_DDL.

    Args:
        most_mb: the most characters, in units of 2^20, that a file may have if it is read in one piece (multiLine).
    """
    is_whole = options.get("multiLine") == "true"

    def records(file: Path) -> Iterator[tuple[str | None, JsonRecord | None]]:
        with _checked(file, options) as stream:
            lines = iter(lambda: stream.readline(MOST_CHARACTERS + 1), "")
            if is_whole:
                whole = stream.read((most_mb << 20) + 1)
                if len(whole) > most_mb << 20:
                    why = f"with multiLine a file is read in one piece, and this one has more than {most_mb} MB of text"
                    yield f"{why}. Deliver one object a line, or raise ingest.max_file_mb and write it anew", None
                    return
                lines = iter([whole])
            for number, line in enumerate(lines, 1):
                if not is_whole and len(line) > MOST_CHARACTERS:
                    yield f"line {number}: more than {MOST_CHARACTERS:,} characters; not read further", None
                    return
                yield from _records(line, "" if is_whole else f"line {number}: ", names, wants_kinds)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        def rows() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for number, path in _paths(batches):
                for offset, (why, record) in enumerate(_or_broken(records, Path(folder), path, None)):
                    yield _json_row((None, None, path, number, offset), why, record)

        yield from _json_batches(rows())

    return read


def json_message_batches(*, names: Mapping[str, str], wants_kinds: bool) -> Batches:
    """A function for `mapInArrow`: PLACE_COLUMNS and `value` (bytes) → one record each, with the columns JSON_DDL.

    A message that is not exactly one object is an unreadable record; one with only white space gives no record.
    """

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        def rows() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for batch in batches:
                for *place, value in zip(
                    *(batch.column(c).to_pylist() for c in (*PLACE_COLUMNS, "value")), strict=True
                ):
                    text = value.decode("utf-8-sig", "surrogateescape")
                    found = list(_records(text, "", names, wants_kinds))
                    if len(found) == 1:
                        yield _json_row(tuple(place), *found[0])
                    elif text.strip():
                        why = Refused("a message that is not one object", text)
                        yield _json_row(tuple(place), str(why), None)

        yield from _json_batches(rows())

    return read


def _records(
    text: str, where: str, names: Mapping[str, str], wants_kinds: bool
) -> Iterator[tuple[str | None, JsonRecord | None]]:
    found = json_records(text, names=names, wants_kinds=wants_kinds)
    for record in [found] if isinstance(found, Refused) else found:
        yield (f"{where}{record}", None) if isinstance(record, Refused) else (None, record)


def _json_row(place: tuple[Any, ...], why: str | None, record: JsonRecord | None) -> tuple[int, tuple[Any, ...]]:
    texts = None if record is None else list(record.texts.items())
    kinds = None if record is None else list(record.kinds.items())
    size = len(why or "") + sum(len(name) + len(text or "") for name, text in texts or ())
    return size, (*place, texts, kinds, why)


def _json_batches(rows: Iterator[tuple[int, tuple[Any, ...]]]) -> Iterator[pa.RecordBatch]:
    for some in _in_batches(rows):
        columns = zip(*some, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _JSON_SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_JSON_SCHEMA)


def _in_batches(rows: Iterator[tuple[int, tuple[Any, ...]]]) -> Iterator[list[tuple[Any, ...]]]:
    """Collect (number of characters, row) into lists of rows, limited in rows and characters."""
    some: list[tuple[Any, ...]] = []
    size = 0
    for characters, row in rows:
        some.append(row)
        size += characters
        if len(some) >= _ROWS or size >= _CHARACTERS:
            yield some
            some, size = [], 0
    if some:
        yield some


def _paths(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, str]]:
    return chain.from_iterable(
        zip(batch.column("number").to_pylist(), batch.column("path").to_pylist(), strict=True) for batch in batches
    )


def _or_broken(records: Callable[[Path], Iterator[Any]], folder: Path, path: str, nothing: Any) -> Iterator[Any]:
    """The records of a file; if it cannot be read to its end, followed by a refused one that says why.

    Raises:
        FileNotFoundError: the file is gone; nothing may be taken for read then.
    """
    try:
        yield from records(folder / path)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        yield f"{path}: {why_broken(error)}", nothing


def why_broken(error: Exception) -> str:
    """Why a file cannot be read, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _opened(file: Path, options: Mapping[str, str]) -> io.TextIOWrapper:
    encoding = codecs.lookup(options.get("encoding", "utf-8")).name
    raw: Any = gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")  # noqa: SIM115
    # Invalid bytes can be kept and refused record by record in UTF-8; in another encoding they make the whole file
    # unreadable.
    is_utf_8 = encoding == "utf-8"
    errors = "surrogateescape" if is_utf_8 else "strict"
    return io.TextIOWrapper(raw, "utf-8-sig" if is_utf_8 else encoding, errors=errors, newline="")


def _checked(file: Path, options: Mapping[str, str]) -> io.TextIOWrapper:
    """The opened file, after a check that it can be read to its end: else only a part of its records would be read."""
    if file.name.lower().endswith(".gz") or codecs.lookup(options.get("encoding", "utf-8")).name != "utf-8":
        with _opened(file, options) as stream:
            while stream.read(1 << 20):
                pass
    return _opened(file, options)
