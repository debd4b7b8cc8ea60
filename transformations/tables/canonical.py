"""Values of any Spark type in, a text for each that no other value has, and a hash of whole rows, out.

`to_json` and a cast to text do not give such texts: they cut instants to milliseconds, leave out nulls, and write the
number NaN like the word "NaN". Here each text names the kind of its value and marks its end, so that two values next to
each other cannot be read as two others. Equal values have the same text: 1 as an int, as a bigint and as 1.00; every
NaN. -0.0 and 0.0 have different texts, as they print differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

_NULL = "n"


def values_hash(rows: DataFrame, columns: Sequence[str]) -> Column:
    """64 hexadecimal digits for the values of `columns` in a row, in that order; names do not count."""
    from pyspark.sql import functions as F

    if not columns:
        return F.sha2(F.lit(""), 256)
    return F.sha2(F.concat(*[canonical(F.col(f"`{c}`"), rows.schema[c].dataType) for c in columns]), 256)


def said_hash(rows: DataFrame, columns: Sequence[str]) -> Column:
    """64 hexadecimal digits for the names and values of those of `columns` that are not null in a row.

    So a column that is added to a table changes the hash only of rows that have a value in it.
    """
    from pyspark.sql import functions as F

    parts = [
        F.when(F.col(f"`{c}`").isNull(), F.lit("")).otherwise(
            F.concat(_measured("k", F.lit(c)), canonical(F.col(f"`{c}`"), rows.schema[c].dataType))
        )
        for c in sorted(columns)
    ]
    return F.sha2(F.concat(*parts) if parts else F.lit(""), 256)


def canonical(column: Column, of: DataType) -> Column:
    """The text of a value of the type `of`; never null (a null value has a text, too)."""
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    if isinstance(of, T.NullType):
        return F.lit(_NULL)
    return F.when(column.isNull(), F.lit(_NULL)).otherwise(_text(column, of))


def _text(column: Column, of: DataType) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    if isinstance(of, T.UserDefinedType):
        return _text(column, of.sqlType())
    if isinstance(of, T.ArrayType):
        return _many("a", column, lambda each: canonical(each, of.elementType))
    if isinstance(of, T.MapType):
        # A map has no order, so its entries are sorted, once each is a text.
        entries = F.transform(
            F.map_entries(column),
            lambda entry: F.concat(canonical(entry["key"], of.keyType), canonical(entry["value"], of.valueType)),
        )
        return _many("m", F.array_sort(entries), lambda each: each)
    if isinstance(of, T.StructType):
        fields = [canonical(column.getField(field.name), field.dataType) for field in of.fields]
        return F.concat(F.lit(f"r{len(fields)};"), *fields)
    return _scalar(column, of)


def _scalar(column: Column, of: DataType) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    def ended(kind: str, value: Column) -> Column:
        return F.concat(F.lit(kind), value, F.lit(";"))

    if isinstance(of, T.StringType | T.CharType | T.VarcharType):
        return _measured("s", column)
    if isinstance(of, T.BinaryType):
        return ended("x", F.hex(column))
    if isinstance(of, T.BooleanType):
        return ended("b", column.cast("string"))
    if isinstance(of, T.IntegralType):
        return ended("i", column.cast("string"))
    if isinstance(of, T.DecimalType):
        plain = column.cast("string")
        if of.scale:
            # Without zeros at the end of the fraction, so that 1.00 is written as 1.
            plain = F.regexp_replace(F.format_string("%s", plain), r"\.?0+$", "")
        return ended("i", F.when(column == 0, F.lit("0")).otherwise(plain))
    if isinstance(of, T.FloatType | T.DoubleType):
        return ended("f", F.when(F.isnan(column), F.lit("NaN")).otherwise(column.cast("double").cast("string")))
    if isinstance(of, T.DateType):
        return ended("D", F.unix_date(column).cast("string"))
    if isinstance(of, T.TimestampType):
        return ended("T", F.unix_micros(column).cast("string"))
    if isinstance(of, T.VariantType):
        return _measured("v", F.to_json(column))
    # Instants without a zone, intervals, times of day: their texts are exact and do not depend on a zone.
    return _measured(of.typeName()[:3], column.cast("string"))


def _many(kind: str, column: Column, each: Callable[[Column], Column]) -> Column:
    from pyspark.sql import functions as F

    count = F.size(column).cast("string")
    return F.concat(F.lit(kind), count, F.lit(";"), F.array_join(F.transform(column, each), ""))


def _measured(kind: str, text: Column) -> Column:
    """A text with its length in front, so that no character in it can be taken for its end."""
    from pyspark.sql import functions as F

    return F.concat(F.lit(kind), F.octet_length(text).cast("string"), F.lit(":"), text)
