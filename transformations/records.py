"""Records as a source gives them in; the same records with a contract's columns, and what did not fit as JSON, out.

`_rescued` is described in expectations/contracts.py. No value is changed without a word: one that its column's type
cannot hold exactly is null in the column and kept as it came in `_rescued`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from transformations.column_types import is_nested

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_RESCUED = (
    "wrong_type map<string,string>, unknown map<string,string>, missing array<string>, hint string, unreadable string"
)
# Python and Arrow know the years 1 to 9999; Spark would take later ones, and readers would fail on them.
_FIRST, _LAST = "0001-01-01", "9999-12-31"


def fit(
    rows: DataFrame,
    *,
    columns: Mapping[str, str],
    arriving: Mapping[str, str],
    passed_over: Sequence[str] = (),
    missing: Sequence[str] = (),
    hint: str = "",
) -> DataFrame:
    """Give records the columns of a contract. Grain: one row a record, in and out.

    Args:
        rows: `_record`, a struct of the columns of `arriving`; `_unreadable` (null for a record); `_unknown` (a map of
            further values, or null); and technical columns, which stay.
        columns: the contract's, name → canonical type.
        arriving: the columns that came, name → canonical type. Texts are read as the contract's type, instants without
            a zone as UTC.
        passed_over: columns that came and are no part of the record (what says the operation).
        missing, hint: said of every record, as `_rescued` has them.

    Returns:
        The contract's columns, the technical ones that stay, and `_rescued`, null where all fits.
    """
    from pyspark.sql import functions as F

    came = {name.lower(): name for name in arriving}
    values: dict[str, Column] = {}
    wrong: dict[str, Column] = {}
    for name, of in columns.items():
        mine = came.get(name.lower())
        if mine is None:
            values[name] = F.lit(None).cast(of)
            continue
        value = read_as(rows, mine, arriving[mine], of)
        values[name] = value
        wrong[name] = F.when(_of(mine).isNotNull() & value.isNull(), as_text(_of(mine), arriving[mine]))
    known = {name.lower() for name in (*columns, *passed_over)}
    unknown = {name: as_text(_of(name), of) for name, of in arriving.items() if name.lower() not in known}
    record = F.col("_unreadable").isNull()
    rescued = _as_json(
        wrong_type=_map(wrong),
        unknown=_joined(_map(unknown), F.col("_unknown")),
        missing=F.when(record, F.array(*map(F.lit, missing))) if missing else F.lit(None).cast("array<string>"),
        hint=F.when(record, F.lit(hint)) if hint else F.lit(None).cast("string"),
        unreadable=F.col("_unreadable"),
    )
    technical = [c for c in rows.columns if c not in ("_record", "_unreadable", "_unknown")]
    return rows.select(*[value.alias(name) for name, value in values.items()], *technical, rescued.alias("_rescued"))


def recovered(rows: DataFrame, *, columns: Mapping[str, str]) -> DataFrame:
    """Rows of bronze under the contract as it is now: what an earlier one could not take is read once more.

    Args:
        rows: columns of an earlier contract, `_rescued`, and others, which stay.
        columns: the contract's now. A column that `rows` lacks is read from `_rescued`, or null.

    Returns:
        All other columns, the contract's, and `_rescued` with what still does not fit.
    """
    from pyspark.sql import functions as F

    there = {c.lower(): c for c in rows.columns}
    said = rows.withColumn("_said", F.from_json("_rescued", _RESCUED))
    kept: dict[str, Column] = {}
    wrong: dict[str, Column] = {}
    for name, of in columns.items():
        text = F.coalesce(_entry("_said.wrong_type", name), _entry("_said.unknown", name))
        mine = F.col(f"`{there[name.lower()]}`") if name.lower() in there else F.lit(None)
        fitting = mine.cast(of) if name.lower() not in there else mine.try_cast(of)
        value = F.coalesce(fitting, _from_text(text, of))
        kept[name] = value
        wrong[name] = F.when(value.isNull(), text)
    known = F.array(*[F.lit(name.lower()) for name in columns])
    unknown = F.map_filter("_said.unknown", lambda k, v: ~F.array_contains(known, F.lower(k)))
    missing = F.filter("_said.missing", lambda name: F.array_contains(known, F.lower(name)))
    unknown, missing = F.when(F.size(unknown) > 0, unknown), F.when(F.size(missing) > 0, missing)
    rescued = _as_json(
        wrong_type=_map(wrong),
        unknown=unknown,
        missing=missing,
        hint=F.when(unknown.isNotNull() | missing.isNotNull(), F.col("_said.hint")),
        unreadable=F.col("_said.unreadable"),
    )
    others = [c for c in rows.columns if c.lower() not in {n.lower() for n in columns} and c != "_rescued"]
    return said.select(
        *others,
        *[value.alias(name) for name, value in kept.items()],
        F.when(F.col("_rescued").isNotNull(), rescued).alias("_rescued"),
    )


def read_as(rows: DataFrame, name: str, arriving: str, wanted: str) -> Column:
    """A column as the wanted type: null where its value is none of that type, exactly."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    column = _of(name)
    if arriving == "string":
        return _from_text(column, wanted)
    if arriving == wanted:
        return _within_calendar(column, wanted)
    if wanted == "string":
        return as_text(column, arriving)
    if is_nested(wanted) or is_nested(arriving):
        return _from_json(as_text(column, arriving), wanted) if is_nested(wanted) else F.lit(None).cast(wanted)
    try:
        value = column.try_cast(wanted)
        rows.select(value, value.try_cast(arriving)).schema  # noqa: B018 - whether Spark knows such casts
    except AnalysisException:
        return F.lit(None).cast(wanted)
    exact = F.when(value.try_cast(arriving).eqNullSafe(column), value)
    return _within_calendar(exact, wanted)


def as_text(column: Column, of: str) -> Column:
    """A value as text: nested ones and bytes as JSON writes them."""
    from pyspark.sql import functions as F

    if is_nested(of):
        return F.to_json(column)
    return F.base64(column) if of == "binary" else column.cast("string")


def _of(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col("_record").getField(name)


def _from_text(text: Column, of: str) -> Column:
    from pyspark.sql import functions as F

    if of == "string":
        return text
    if is_nested(of):
        return _from_json(text, of)
    return F.try_to_binary(text, F.lit("base64")) if of == "binary" else _within_calendar(text.try_cast(of), of)


def _from_json(text: Column, of: str) -> Column:
    """JSON as a nested type: null where any value inside is none of its type. `from_json` alone would put a null in
    that one's place and keep the rest. A name that the type does not have is passed over.
    """
    from pyspark.sql import functions as F

    whole = F.concat(F.lit('{"value":'), text, F.lit("}"))
    read = F.from_json(whole, f"value {of}, _wrong string", {"columnNameOfCorruptRecord": "_wrong"})
    return F.when(read.getField("_wrong").isNull(), read.getField("value"))


def _within_calendar(value: Column, of: str) -> Column:
    from pyspark.sql import functions as F

    if of not in ("date", "timestamp"):
        return value
    first, last = F.lit(_FIRST).cast("date"), F.date_add(F.lit(_LAST).cast("date"), 1)
    return F.when((value >= first) & (value < last), value)


def _entry(of: str, name: str) -> Column:
    """The value of a map whose key is `name`, whatever its case."""
    from pyspark.sql import functions as F

    return F.try_element_at(F.map_values(F.map_filter(of, lambda k, v: F.lower(k) == name.lower())), F.lit(1))


def _map(values: Mapping[str, Column]) -> Column:
    """The values that are not null, by name, or null where none is."""
    from pyspark.sql import functions as F

    if not values:
        return F.lit(None).cast("map<string,string>")
    entries = F.map_filter(
        F.map_from_arrays(F.array(*map(F.lit, values)), F.array(*values.values())), lambda k, v: v.isNotNull()
    )
    return F.when(reduce(or_, [v.isNotNull() for v in values.values()]), entries)


def _joined(one: Column, other: Column) -> Column:
    from pyspark.sql import functions as F

    return F.when(one.isNull(), other).when(other.isNull(), one).otherwise(F.map_concat(one, other))


def _as_json(**parts: Column) -> Column:
    from pyspark.sql import functions as F

    said = F.struct(*[part.alias(name) for name, part in parts.items()])
    is_any = reduce(or_, [part.isNotNull() for part in parts.values()])
    return F.when(is_any, F.to_json(said))
