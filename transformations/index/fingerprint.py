"""Row hashes in, one fingerprint of the set of rows out: the same for a table on Spark and for any index.

The fingerprint has two parts: the sums, modulo 2^64, of the first and of the second 64 bits of every row's hash. A sum
does not depend on order, and unlike an exclusive-or it notices a row that is there twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import Column

ROW_FIELDS = (
    "chunk_id",
    "document_id",
    "path",
    "title",
    "heading_path",
    "text",
    "text_hash",
    "format",
    "source",
    "model",
)
_MODULUS = 1 << 64
# How a separator is escaped if a value holds it; the first is the escape character itself.
_WRITTEN = {"\x1c": "\x1c0", "\x1e": "\x1c1", "\x1f": "\x1c2", "\x00": "\x1c3"}
_SIGNS = "[\\x{1c}\\x{1e}\\x{1f}\\x{00}]"
_NO_ELEMENT, _EMPTY_ELEMENT = "\x1c4", "\x1c5"


def fingerprint(row_hashes: Iterable[str], *, since: str = "0" * 32, without: Iterable[str] = ()) -> str:
    """32 hexadecimal digits for any number of row hashes (each of at least 32 hexadecimal digits).

    Args:
        since: the fingerprint of the set of rows to which `row_hashes` are added; zeros for an empty set.
        without: the hashes of rows that leave that set.

    >>> fingerprint([]) == "0" * 32
    True
    >>> fingerprint(["0" * 31 + "1", "f" * 32]) == "f" * 16 + "0" * 16
    True
    >>> fingerprint(["ab" * 16], since=fingerprint(["cd" * 16]), without=["cd" * 16]) == fingerprint(["ab" * 16])
    True
    """
    high, low = int(since[:16], 16), int(since[16:], 16)
    for sign, hashes in ((1, row_hashes), (-1, without)):
        lanes = bytes.fromhex("".join([row_hash[:32] for row_hash in hashes]))
        # Sums of 64-bit numbers are modulo 2^64 by themselves.
        sums = np.frombuffer(lanes, dtype=">u8").reshape(-1, 2).sum(axis=0, dtype=np.uint64)
        high, low = high + sign * int(sums[0]), low + sign * int(sums[1])
    return fingerprint_of_lanes(high, low)


def fingerprint_of_lanes(high: int | Decimal | None, low: int | Decimal | None) -> str:
    """The fingerprint with these two sums; None, the sum of no rows, counts as 0."""
    return f"{int(high or 0) % _MODULUS:016x}{int(low or 0) % _MODULUS:016x}"


def fingerprint_lanes(row_hash: Column) -> tuple[Column, Column]:
    """Two aggregates over a column of row hashes, `high` and `low`, for `fingerprint_of_lanes`; nulls do not count."""
    from pyspark.sql import functions as F

    def lane(start: int) -> Column:
        return F.sum(F.conv(F.substring(row_hash, start, 16), 16, 10).cast("decimal(20,0)"))

    return lane(1).alias("high"), lane(17).alias("low")


def row_hash() -> Column:
    """The hash of a row of gold.chunk_index, over `ROW_FIELDS`: all that a reader of the index sees except the vector,
    which follows from text and model.

    One control character separates fields, another the entries of a list, and a third stands for null. If a value holds
    one of them, it is escaped as two characters.
    """
    from pyspark.sql import functions as F

    def plain(value: Column) -> Column:
        written = value
        for sign, instead in _WRITTEN.items():
            written = F.replace(written, F.lit(sign), F.lit(instead))
        return F.when(value.rlike(_SIGNS), written).otherwise(value)

    element = F.transform("heading_path", lambda e: F.when(e.isNull(), _NO_ELEMENT).otherwise(plain(e)))
    joined = F.array_join(element, "\x1e")
    joined = F.when((F.size("heading_path") == 1) & (joined == ""), _EMPTY_ELEMENT).otherwise(joined)
    values = {"heading_path": F.when(F.col("heading_path").isNotNull(), joined), "text": F.sha2("text", 256)}
    fields = [F.coalesce(values[c] if c in values else plain(F.col(c)), F.lit("\x00")) for c in ROW_FIELDS]
    return F.sha2(F.concat_ws("\x1f", *fields), 256)


def row_hash_of(row: Mapping[str, Any]) -> str:
    """The same hash as `row_hash`, in Python, for one row as it is read back from an index.

    >>> row_hash_of(dict.fromkeys(ROW_FIELDS, "x") | {"title": None, "heading_path": ["a", "b"]})[:8]
    'dc60398a'
    """
    values = {c: None if row[c] is None or c == "heading_path" else _plain(row[c]) for c in ROW_FIELDS}
    if (path := row["heading_path"]) is not None:
        joined = "\x1e".join(_NO_ELEMENT if e is None else _plain(e) for e in path)
        values["heading_path"] = _EMPTY_ELEMENT if len(path) == 1 and not joined else joined
    values["text"] = None if row["text"] is None else _sha256(row["text"])
    fields = [values[c] for c in ROW_FIELDS]
    return _sha256("\x1f".join("\x00" if value is None else value for value in fields))


def _plain(value: str) -> str:
    for sign, instead in _WRITTEN.items():
        value = value.replace(sign, instead)
    return value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
