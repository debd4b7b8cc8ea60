"""Row hashes in, one fingerprint of the set of rows out, the same for a table on Spark and an index anywhere.

The fingerprint is the sum, modulo 2^64, of the first and of the second 64 bits of every row's hash. A sum does not
depend on order, and unlike an exclusive-or it notices a row that is there twice.
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


def fingerprint(row_hashes: Iterable[str], *, since: str = "0" * 32, without: Iterable[str] = ()) -> str:
    """32 hexadecimal digits for any number of row hashes (at least 32 hexadecimal digits each).

    Args:
        since: the fingerprint of a set of rows that `row_hashes` are added to.
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
        # As 64-bit numbers these sums are modulo 2^64 by themselves.
        sums = np.frombuffer(lanes, dtype=">u8").reshape(-1, 2).sum(axis=0, dtype=np.uint64)
        high, low = high + sign * int(sums[0]), low + sign * int(sums[1])
    return fingerprint_of_lanes(high, low)


def fingerprint_of_lanes(high: int | Decimal | None, low: int | Decimal | None) -> str:
    """The fingerprint whose two sums are these; no rows give no sums."""
    return f"{int(high or 0) % _MODULUS:016x}{int(low or 0) % _MODULUS:016x}"


def fingerprint_lanes(row_hash: Column) -> tuple[Column, Column]:
    """Two aggregates over a column of row hashes, `high` and `low`, for `fingerprint_of_lanes`; nulls count nothing."""
    from pyspark.sql import functions as F

    def lane(start: int) -> Column:
        return F.sum(F.conv(F.substring(row_hash, start, 16), 16, 10).cast("decimal(20,0)"))

    return lane(1).alias("high"), lane(17).alias("low")


def row_hash() -> Column:
    """The hash of a row of gold.chunk_index, over all that a reader of the index can see except the vector, which
    follows from text and model. Fields are kept apart by a control character, lists by another, null is a third.
    """
    from pyspark.sql import functions as F

    values = {"heading_path": F.array_join("heading_path", "\x1e"), "text": F.sha2("text", 256)}
    fields = [F.coalesce(values.get(c, F.col(c)), F.lit("\x00")) for c in ROW_FIELDS]
    return F.sha2(F.concat_ws("\x1f", *fields), 256)


def row_hash_of(row: Mapping[str, Any]) -> str:
    """`row_hash` of one row as it is read back from an index.

    >>> row_hash_of(dict.fromkeys(ROW_FIELDS, "x") | {"title": None, "heading_path": ["a", "b"]})[:8]
    'dc60398a'
    """
    values = dict(row)
    values["heading_path"] = None if row["heading_path"] is None else "\x1e".join(row["heading_path"])
    values["text"] = None if row["text"] is None else _sha256(row["text"])
    return _sha256("\x1f".join("\x00" if values[c] is None else values[c] for c in ROW_FIELDS))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
