"""Records as a source gives them in, the same records with a contract's columns, and what did not fit as JSON, out.

`_rescued` is described in expectations/tables/contracts.py. No value is changed silently: if its column's type cannot
hold it exactly, it is null in the column and kept unchanged in `_rescued`. A text whose value the column holds, but
which differs from the usual form of that value, is kept in `_texts`: another contract can then read the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformations.tables.column_types import is_nested
from transformations.tables.text_values import (
    PLAIN,
    Reading,
    is_null_text,
    nested_within_calendar,
    read_text,
    within_calendar,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

_RESCUED = (
    "wrong_type map<string,string>, unknown map<string,string>, missing array<string>, hint string, unreadable string"
)
_TEXTS = "map<string,string>"
INSTANT_AS_JSON = "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"
_TEMPORAL = ("date", "timestamp")


def fit(
    rows: DataFrame,
    *,
    columns: Mapping[str, str],
    arriving: Mapping[str, str],
    readings: Mapping[str, Reading] | None = None,
    passed_over: Sequence[str] = (),
    missing: Sequence[str] = (),
    hint: str = "",
) -> DataFrame:
    """Give records the columns of a contract. Grain: one row for each record, in and out.

    Args:
        rows: `_record`, a struct of the columns of `arriving`; `_unreadable` (null for a record); `_unknown` (a map of
            further values, or null); and technical columns, which stay.
        columns: the contract's columns, name → canonical type.
        arriving: the columns of the records, by the source's names, name → canonical type. Texts are read as the
            contract's type, exactly.
        readings: how the source writes a contract's column, for those that it does not write the plain way.
        passed_over: columns that are no part of the record, such as the one that names the operation.
        missing, hint: the same for every record; they become parts of `_rescued`.

    Returns:
        The contract's columns, the technical ones, `_texts` and `_rescued`; each of the two is null if all fits.
    """
    from pyspark.sql import functions as F

    readings = readings or {}
    by_lower_name = {name.lower(): name for name in arriving}
    called = {name: readings.get(name, PLAIN).source or name for name in columns}
    values: dict[str, Column] = {}
    for number, (name, type_) in enumerate(columns.items()):
        source = by_lower_name.get(called[name].lower())
        read = None if source is None else read_as(rows, source, arriving[source], type_, readings.get(name, PLAIN))
        values[f"_v{number}"] = F.lit(None).cast(type_) if read is None else read
    technical = [c for c in rows.columns if c not in ("_record", "_unreadable", "_unknown")]
    rows = rows.select("*", *[value.alias(place) for place, value in values.items()])

    wrong: dict[str, Column] = {}
    texts: dict[str, Column] = {}
    for place, (name, type_) in zip(values, columns.items(), strict=True):
        source = by_lower_name.get(called[name].lower())
        if source is None or arriving[source] == "void":
            continue
        value, reading = F.col(place), readings.get(name, PLAIN)
        is_text = arriving[source] == "string"
        is_null = is_null_text(_of(source), reading) if is_text else F.lit(False)
        wrong[name] = F.when(
            _of(source).isNotNull() & value.isNull() & ~is_null, as_text(_of(source), arriving[source])
        )
        if is_text and (type_ != "string" or reading.null_texts):
            is_another = ~as_text(value, type_).eqNullSafe(_of(source))
            texts[name] = F.when((value.isNotNull() | is_null) & is_another, _of(source))
    known = {name.lower() for name in (*called.values(), *passed_over)}
    unknown = {name: as_text(_of(name), type_) for name, type_ in arriving.items() if name.lower() not in known}
    record = F.col("_unreadable").isNull()
    rescued = _as_json(
        wrong_type=_map(wrong),
        unknown=_joined(_map(unknown), F.col("_unknown")),
        missing=F.when(record, F.array(*map(F.lit, missing))) if missing else F.lit(None).cast("array<string>"),
        hint=F.when(record, F.lit(hint)) if hint else F.lit(None).cast("string"),
        unreadable=F.col("_unreadable"),
    )
    return rows.select(
        *[F.col(place).alias(name) for place, name in zip(values, columns, strict=True)],
        *technical,
        _map(texts).alias("_texts"),
        rescued.alias("_rescued"),
    )


def recovered(
    rows: DataFrame,
    *,
    columns: Mapping[str, str],
    readings: Mapping[str, Reading] | None = None,
    is_text: bool = False,
    earlier: Mapping[str, Sequence[str]] | None = None,
) -> DataFrame:
    """Read rows of bronze under the contract as it is now: values that an earlier contract refused are read again.

    Args:
        rows: columns of an earlier contract, `_texts`, `_rescued`, and others, which stay.
        columns: the columns of the contract now. A column that `rows` lacks is read from `_rescued`, or is null.
        readings: how the source writes the columns, according to the contract now.
        is_text: whether the source gives texts only. Values are then read from their texts, with the same result as
            if the source were read again.
        earlier: for a column that was renamed, the columns of `rows` that hold its values under earlier names.

    Returns:
        The other columns (without `_texts`), the contract's, and `_rescued` with what still does not fit.
    """
    from pyspark.sql import functions as F

    readings = readings or {}
    earlier = earlier or {}
    there = {f.name.lower(): f for f in rows.schema.fields}
    parsed = rows.withColumn("_said", F.from_json("_rescued", _RESCUED))
    kept = F.col("_texts") if "_texts" in rows.columns else F.lit(None).cast(_TEXTS)
    maps = {"_kept": kept, "_wrong": F.col("_said.wrong_type"), "_unknown": F.col("_said.unknown")}
    for place, entries in maps.items():
        parsed = parsed.withColumn(place, _by_lower_name(entries))

    sources: dict[str, Column] = {}
    values: dict[str, Column] = {}
    for number, (name, type_) in enumerate(columns.items()):
        reading = readings.get(name, PLAIN)
        names = [name.lower(), *map(str.lower, earlier.get(name, ()))]
        texts = [F.try_element_at(place, F.lit(n)) for n in names for place in ("_kept", "_wrong")]
        texts.append(F.try_element_at("_unknown", F.lit((reading.source or name).lower())))
        candidates = [F.lit(None).cast(type_)]
        for field in (there[n] for n in names if n in there):
            column, was = F.col(f"`{field.name}`"), field.dataType.simpleString()
            is_renamed = field.name.lower() != names[0]
            if (is_text and (was != type_ or not reading.is_plain)) or (is_renamed and was != type_):
                texts.append(as_text(column, was))
            else:
                candidates.append(column if was == type_ else column.try_cast(type_))
        sources[f"_t{number}"] = F.coalesce(*texts)
        values[f"_v{number}"] = F.when(F.col(f"_t{number}").isNull(), F.coalesce(*candidates)).otherwise(
            read_text(F.col(f"_t{number}"), type_, reading)
        )
    parsed = parsed.select("*", *[text.alias(place) for place, text in sources.items()])
    parsed = parsed.select("*", *[value.alias(place) for place, value in values.items()])

    wrong = {
        name: F.when(F.col(v).isNull() & ~is_null_text(F.col(t), readings.get(name, PLAIN)), F.col(t))
        for v, t, name in zip(values, sources, columns, strict=True)
    }
    called = F.array(*[F.lit((readings.get(name, PLAIN).source or name).lower()) for name in columns])
    known = F.array(*[F.lit(name.lower()) for name in columns])
    unknown = F.map_filter(
        "_said.unknown",
        lambda k, v: ~(F.array_contains(called, F.lower(k)) & F.map_contains_key("_unknown", F.lower(k))),
    )
    missing = F.filter("_said.missing", lambda name: F.array_contains(known, F.lower(name)))
    unknown, missing = F.when(F.size(unknown) > 0, unknown), F.when(F.size(missing) > 0, missing)
    rescued = _as_json(
        wrong_type=_map(wrong),
        unknown=unknown,
        missing=missing,
        hint=F.when(unknown.isNotNull() | missing.isNotNull(), F.col("_said.hint")),
        unreadable=F.col("_said.unreadable"),
    )
    own = {n.lower() for n in columns}
    others = [c for c in rows.columns if c.lower() not in own and c not in ("_rescued", "_texts")]
    return parsed.select(
        *[F.col(f"`{c}`") for c in others],
        *[F.col(place).alias(name) for place, name in zip(values, columns, strict=True)],
        rescued.alias("_rescued"),
    )


def read_as(rows: DataFrame, name: str, arriving: str, wanted: str, reading: Reading = PLAIN) -> Column:
    """A column as the wanted type; null for a value that this type cannot hold exactly."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    column = _of(name)
    if arriving == "void":
        return F.lit(None).cast(wanted)
    if arriving == "string":
        return read_text(column, wanted, reading)
    if arriving == wanted:
        if not is_nested(wanted):
            return within_calendar(column, wanted)
        record: Any = rows.schema["_record"].dataType
        return nested_within_calendar(column, record[name].dataType)
    if wanted == "string":
        return as_text(column, arriving)
    if is_nested(wanted) or is_nested(arriving):
        return read_text(as_text(column, arriving), wanted) if is_nested(wanted) else F.lit(None).cast(wanted)
    if (wanted in _TEMPORAL) != (arriving in _TEMPORAL):
        # Only the column's format says what unit a number is in, and since when it counts.
        return read_text(as_text(column, arriving), wanted, reading)
    try:
        value = column.try_cast(wanted)
        rows.select(value, value.try_cast(arriving)).schema  # noqa: B018 - whether Spark knows such casts
    except AnalysisException:
        return F.lit(None).cast(wanted)
    exact = F.when(value.try_cast(arriving).eqNullSafe(column), value)
    return within_calendar(exact, wanted)


def as_text(column: Column, of: str) -> Column:
    """A value as text: nested values as JSON, bytes as base64."""
    from pyspark.sql import functions as F

    if is_nested(of):
        form = {"timestampFormat": INSTANT_AS_JSON, "timestampNTZFormat": INSTANT_AS_JSON[:-3]}
        return F.to_json(column, {**form, "ignoreNullFields": "false"})
    return F.base64(column) if of == "binary" else column.cast("string")


def in_utc(value: Column, of: DataType) -> Column:
    """`value` with its instants without a zone, at any depth, taken as UTC, whatever the session's zone is."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, MapType, StructType, TimestampNTZType

    if isinstance(of, TimestampNTZType):
        return F.concat(value.cast("string"), F.lit("Z")).try_cast("timestamp")
    if "timestamp_ntz" not in of.simpleString():
        return value
    if isinstance(of, ArrayType):
        return F.transform(value, lambda item: in_utc(item, of.elementType))
    if isinstance(of, MapType):
        keys = F.transform_keys(value, lambda k, v: in_utc(k, of.keyType))
        return F.transform_values(keys, lambda k, v: in_utc(v, of.valueType))
    assert isinstance(of, StructType)
    fields = [in_utc(value.getField(f.name), f.dataType).alias(f.name) for f in of.fields]
    return F.when(value.isNotNull(), F.struct(*fields))


def _of(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col("_record").getField(name)


def _map(values: Mapping[str, Column]) -> Column:
    """A map of the values that are not null, by name; null if there is none."""
    from pyspark.sql import functions as F

    if not values:
        return F.lit(None).cast(_TEXTS)
    entries = F.map_filter(
        F.map_from_arrays(F.array(*map(F.lit, values)), F.array(*values.values())), lambda k, v: v.isNotNull()
    )
    # Not a chain of ORs: thousands of them would be deeper than the JVM's stack.
    return F.when(F.coalesce(*values.values()).isNotNull(), entries)


def _by_lower_name(entries: Column) -> Column:
    """The map with its names in lower case; names that differ only in their case are left out, as ambiguous."""
    from pyspark.sql import functions as F

    names = F.transform(F.map_keys(entries), F.lower)
    pairs = F.zip_with(
        names, F.map_values(entries), lambda name, text: F.struct(name.alias("name"), text.alias("text"))
    )
    alone = F.filter(pairs, lambda pair: F.size(F.filter(names, lambda name: name == pair.getField("name"))) == 1)
    return F.map_from_entries(alone)


def _joined(one: Column, other: Column) -> Column:
    from pyspark.sql import functions as F

    return F.when(one.isNull(), other).when(other.isNull(), one).otherwise(F.map_concat(one, other))


def _as_json(**parts: Column) -> Column:
    from pyspark.sql import functions as F

    text = F.to_json(F.struct(*[part.alias(name) for name, part in parts.items()]))
    return F.when(text != "{}", text)
