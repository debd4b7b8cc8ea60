r"""A column of texts, a type, and how the column writes its values in, the values, exactly as the texts say, out.

A text is a value only if it has one of the forms below, and only if the type holds it exactly; else the result is null.

    boolean            true, false, t, f, yes, no, y, n, 1, 0, in any case
    tinyint … bigint   digits with or without a sign, no leading zeros
    decimal(p,s)       the same, also with a fraction and an exponent; a number that would be rounded is no value
    float, double      the same, NaN, Infinity; a number with more digits than the type keeps is no value
    date               2024-01-31
    timestamp          2024-01-31, 2024-01-31 10:30, 2024-01-31T10:30:00.123456+02:00 (T or a blank; Z, UTC or an
                       offset; without one it is UTC)
    binary             base64
    array, map, struct JSON, whose members have these forms; a struct may have no other names than those of its type
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, cast

from transformations.tables.column_types import is_nested, split_top

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

EPOCHS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
_INTEGERS = ("tinyint", "smallint", "int", "bigint")
_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
_DATE = r"\d{4}-\d{2}-\d{2}"
_ZONE = r"(Z|UTC|[+-]\d{2}(:?\d{2})?)"
_INSTANT = rf"^{_DATE}([T ]\d{{2}}:\d{{2}}(:\d{{2}}(\.\d{{1,6}}0*)?)?( ?{_ZONE})?)?\z"
# How many decimal digits a binary number always keeps, and the least number for which it keeps them.
_KEPT = {"float": (6, 1.17549435e-38), "double": (15, 2.2250738585072014e-308)}
# Python knows the years 1 to 9999; Spark would take later ones, and readers would then fail.
_FIRST, _LAST = "0001-01-01", "9999-12-31"
_STRING_OR_NUMBER = r'"((?:[^"\\]|\\.)*+)"|(-?\d[\d.eE+-]*+|-?Infinity|NaN)'
_END = "this is where the text ends"
_QUOTED = re.compile(r"'[^']*'")
_OPTIONAL = re.compile(r"\[[^\[\]]*\]")
# The runs of letters that Spark's parser takes; letters for weeks and days of the week are not among them.
_LETTERS = re.compile("y{1,6}|[ML]{1,4}|[dHhKkms]{1,2}|D{1,3}|S{1,9}|a|[XxZ]{1,5}|z{1,4}|VV|O|OOOO")
_RUN = re.compile(r"([A-Za-z])\1*")


@dataclass(frozen=True)
class Reading:
    """How a source writes the values of one column.

    Attributes:
        source: the source's name of the column; None: the column's own name.
        format: for a date or instant, a pattern such as dd.MM.yyyy, or one of `EPOCHS`; None: the forms above.
        null_texts: texts that mean that there is no value.
        thousands_mark: what may stand between groups of three digits; "": nothing.
        decimal_mark: what stands before a fraction.
    """

    source: str | None = None
    format: str | None = None
    null_texts: tuple[str, ...] = ()
    thousands_mark: str = ""
    decimal_mark: str = "."

    @property
    def is_plain(self) -> bool:
        """Whether texts are read in the usual way; the name in the source does not matter."""
        return self == Reading(source=self.source)


PLAIN = Reading()


def pattern_fault(pattern: str, of: str) -> str | None:
    """Why a pattern cannot write every date or instant (`of` is the type) exactly; None if it can."""
    if pattern in EPOCHS:
        return None if of == "timestamp" else f"{pattern} since 1970 say an instant, and the column is a {of}"
    required = plain = _QUOTED.sub(" ", pattern)
    while (outside := _OPTIONAL.sub("", required)) != required:
        required = outside
    if "'" in plain or set("[]") & set(required):
        return "a quote or a bracket in it has no other end"
    unknown = [run[0] for run in _RUN.finditer(plain) if not _LETTERS.fullmatch(run[0])] + re.findall("[{}#]", plain)
    if unknown:
        return f"{sorted(set(unknown))} in it mean nothing here; yyyy, MM, dd, HH, mm, ss, SSS, XXX and the like do"
    letters, always = set(plain), set(required)
    if "y" not in always or not ("D" in always or ("d" in always and always & set("ML"))):
        return "a year, a month and a day must be in it"
    if of == "date" and letters & set("HhKkmsSaXxZzVO"):
        return "it has a time, and the column is a date"
    if "SSSSSSS" in pattern:
        return "an instant has six digits after the second at most"
    return None


def read_text(text: Column, of: str, reading: Reading = PLAIN) -> Column:
    """The exact value of a text; null if it is no value of the type, or is one of the reading's `null_texts`."""
    from pyspark.sql import functions as F

    value = text if of == "string" else _nested(text, of) if is_nested(of) else _scalar(text, of, reading)
    return F.when(~is_null_text(text, reading), value) if reading.null_texts else value


def is_null_text(text: Column, reading: Reading) -> Column:
    """Whether a text means that there is no value."""
    from pyspark.sql import functions as F

    return F.coalesce(text.isin(list(reading.null_texts)), F.lit(False)) if reading.null_texts else F.lit(False)


def within_calendar(value: Column, of: str) -> Column:
    """The value; null if it is a day or an instant outside of the years 1 to 9999, which other engines cannot hold."""
    from pyspark.sql import functions as F

    if of == "date":
        return F.when((value >= F.lit(_FIRST).cast(of)) & (value <= F.lit(_LAST).cast(of)), value)
    if of == "timestamp":
        first, last = F.lit(f"{_FIRST}T00:00:00Z").cast(of), F.lit(f"{_LAST}T23:59:59.999999Z").cast(of)
        return F.when((value >= first) & (value <= last), value)
    return value


def nested_within_calendar(value: Column, of: DataType) -> Column:
    """The array, map or struct; null if a day or an instant anywhere in it is outside of the years 1 to 9999."""
    from pyspark.sql import functions as F

    is_within = _is_within_calendar(value, of)
    return value if is_within is None else F.when(is_within, value)


def _is_within_calendar(value: Column, of: DataType) -> Column | None:
    """True if the value, or all that is in it, is null or in these years; None if its type holds no time."""
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    if isinstance(of, T.DateType | T.TimestampType):
        return value.isNull() | within_calendar(value, of.simpleString()).isNotNull()
    parts: list[Column] = []
    if isinstance(of, T.StructType):
        found = [_is_within_calendar(value.getField(f.name), f.dataType) for f in of.fields]
        parts = [part for part in found if part is not None]
    elif isinstance(of, T.MapType):
        sides = ((F.map_keys(value), of.keyType), (F.map_values(value), of.valueType))
        parts = [part for side, kind in sides if (part := _are_within_calendar(side, kind)) is not None]
    elif isinstance(of, T.ArrayType):
        part = _are_within_calendar(value, of.elementType)
        parts = [] if part is None else [part]
    return value.isNull() | reduce(and_, parts) if parts else None


def _are_within_calendar(values: Column, of: DataType) -> Column | None:
    from pyspark.sql import functions as F

    holds_time = _is_within_calendar(F.lit(None), of) is not None
    return F.forall(values, lambda each: cast("Column", _is_within_calendar(each, of))) if holds_time else None


def _scalar(text: Column, of: str, reading: Reading) -> Column:
    from pyspark.sql import functions as F

    if of == "binary":
        found = F.try_to_binary(text, F.lit("base64"))
        return F.when(F.base64(found) == text, found)
    plain = F.btrim(text, F.lit(" \t"))
    if of == "boolean":
        lower = F.lower(plain)
        return F.when(lower.isin(*_TRUE), True).when(lower.isin(*_FALSE), False)
    if of == "date":
        return within_calendar(_date(plain, reading.format), of)
    if of == "timestamp":
        return within_calendar(_instant(plain, reading.format), of)
    return _number(plain, of, reading)


def _number(text: Column, of: str, reading: Reading) -> Column:
    from pyspark.sql import functions as F

    group, mark = reading.thousands_mark, re.escape(reading.decimal_mark)
    whole = r"(0|[1-9]\d*)" if not group else rf"(0|[1-9]\d{{0,2}}({re.escape(group)}\d{{3}})+|[1-9]\d*)"
    plain = F.replace(text, F.lit(group), F.lit("")) if group else text
    if of in _INTEGERS:
        return F.when(text.rlike(f"^[+-]?{whole}\\z"), plain.try_cast(of))
    if reading.decimal_mark != ".":
        plain = F.replace(plain, F.lit(reading.decimal_mark), F.lit("."))
    # Longer exponents would only be slow, since no type holds such a number.
    is_number = text.rlike(rf"^[+-]?({whole}({mark}\d*)?|{mark}\d+)([eE][+-]?\d{{1,4}})?\z")
    digits = _digits(plain)
    # Spark's decimals cannot read a zero with a large exponent.
    value = F.coalesce(plain.try_cast(of), F.when(digits == "", F.lit(0).cast(of)))
    is_exact = digits == _digits(value.cast("string"))
    if of not in _KEPT:
        return F.when(is_number & is_exact, value)
    kept, least = _KEPT[of]
    is_large = (F.abs(value) >= F.lit(least)) & (F.abs(value) < F.lit(float("inf")))
    number = F.when(is_number & (is_exact | (is_large & (F.length(digits) <= kept))), value)
    return F.when(text.rlike("^(?i)([+-]?inf(inity)?|nan)\\z"), value).otherwise(number)


def _digits(number: Column) -> Column:
    """The significant digits of a number's text. Texts of nearly equal numbers are equal if these digits are."""
    from pyspark.sql import functions as F

    return F.regexp_replace(F.regexp_replace(number, "[eE].*$|[^0-9]", ""), "^0+|0+$", "")


def _date(text: Column, pattern: str | None) -> Column:
    from pyspark.sql import functions as F

    if pattern is None:
        return F.when(text.rlike(rf"^{_DATE}\z"), text.try_cast("date"))
    # Counted in days, which the session's zone cannot move.
    days = F.call_function("div", F.unix_micros(_instant(text, pattern)), F.lit(86_400_000_000))
    return F.date_add(F.lit("1970-01-01").cast("date"), days.cast("int"))


def _instant(text: Column, pattern: str | None) -> Column:
    """The instant of a text; a text without a zone is UTC, whatever the session's zone is."""
    from pyspark.sql import functions as F

    if pattern in EPOCHS:
        micros = F.try_multiply(_number(text, "bigint", PLAIN), F.lit(EPOCHS[pattern]))
        return F.timestamp_micros(micros)
    if pattern is not None:
        has_zone = set(_QUOTED.sub("", pattern)) & set("XxZzVO")
        if has_zone:
            return F.try_to_timestamp(text, F.lit(pattern))
        return F.try_to_timestamp(F.concat(text, F.lit(" +00:00")), F.lit(f"{pattern} xxx"))
    whole = F.regexp_replace(text, f"^({_DATE})$", "$1T00:00Z")
    whole = F.regexp_replace(whole, r"^(.{10})[T ](\d{2}:\d{2})(?!:)", "$1T$2:00")
    whole = F.regexp_replace(F.regexp_replace(whole, " ?UTC$| Z$", "Z"), " ([+-])", "$1")
    whole = F.regexp_replace(whole, r"([+-]\d{2})(\d{2})$", "$1:$2")
    whole = F.regexp_replace(whole, r"^(.{10}T[\d:.]+)$", "$1Z")
    return F.when(text.rlike(_INSTANT), whole.try_cast("timestamp"))


def _nested(text: Column, of: str) -> Column:
    """The value of JSON; null if the type cannot hold everything that the JSON says."""
    from pyspark.sql import functions as F

    # `from_json` reads numbers as doubles, which lose digits; strings it keeps.
    return _read_nested(F.regexp_replace(text, _STRING_OR_NUMBER, '"$1$2"'), text, of)[0]


def _read_nested(text: Column, raw: Column, of: str) -> tuple[Column, Column]:
    """The value of JSON, and whether the type holds everything that the JSON says.

    Args:
        text: the JSON, in which numbers are written as strings.
        raw: the same with its numbers as they came, for members that are wanted as text.
    """
    from pyspark.sql import functions as F

    kind, _, inside = of.removesuffix(">").partition("<")
    parts = split_top(inside)
    if kind == "array":
        items = _parsed(text, "array<string>", "[")
        values, are_good = _each(items, _parsed(raw, "array<string>", "["), parts[0])
        is_good = F.coalesce(items.isNotNull() & are_good, F.lit(False))
        return F.when(is_good, values), is_good
    names, raw_names = (_parsed(column, "map<string,string>", "{") for column in (text, raw))
    keys = F.map_keys(names)
    # `from_json` keeps both values of a name that is there twice.
    good = [names.isNotNull(), F.size(keys) == F.size(F.array_distinct(keys))]
    if kind == "map":
        new_keys, good_keys = _each(keys, keys, parts[0])
        values, good_values = _each(F.map_values(names), F.map_values(raw_names), parts[1])
        good += [good_keys, good_values, F.size(F.array_distinct(new_keys)) == F.size(keys)]
        value = F.map_from_arrays(new_keys, values)
    else:
        fields = [part.split(":", 1) for part in parts]
        good.append(F.size(F.array_except(keys, F.array(*[F.lit(name) for name, _ in fields]))) == 0)
        members = []
        for name, field in fields:
            member, raw_member = (F.try_element_at(column, F.lit(name)) for column in (names, raw_names))
            member, is_value = _member(member, raw_member, field)
            members.append(member.alias(name))
            good.append(is_value)
        value = F.struct(*members)
    is_good = F.coalesce(reduce(and_, good), F.lit(False))
    return F.when(is_good, value), is_good


def _each(items: Column, raw: Column, of: str) -> tuple[Column, Column]:
    """Each text of an array as a value of a type, and whether all of them are such values."""
    from pyspark.sql import functions as F

    pairs = F.zip_with(items, raw, lambda item, other: F.struct(item.alias("text"), other.alias("raw")))

    def read(pair: Column) -> tuple[Column, Column]:
        return _member(pair.getField("text"), pair.getField("raw"), of)

    return F.transform(pairs, lambda pair: read(pair)[0]), F.forall(pairs, lambda pair: read(pair)[1])


def _member(text: Column, raw: Column, of: str) -> tuple[Column, Column]:
    from pyspark.sql import functions as F

    if of == "string":
        # A text is wanted, and there is a list or an object whose numbers are no longer written as they came.
        is_changed = raw.rlike(r"^[\[{]") & (raw != text)
        return text, ~F.coalesce(is_changed, F.lit(False))
    if is_nested(of):
        value, is_good = _read_nested(text, raw, of)
        return value, text.isNull() | is_good
    value = _scalar(text, of, PLAIN)
    return value, text.isNull() | value.isNotNull()


def _parsed(text: Column, of: str, first: str) -> Column:
    """The members of a JSON text as texts; null unless it is exactly one whole list or object."""
    from pyspark.sql import functions as F

    strictly = {"allowSingleQuotes": "false"}
    whole = F.from_json(F.concat(F.lit('{"value":'), text, F.lit(f',"{_END}":0}}')), "map<string,string>", strictly)
    is_whole = (F.size(whole) == 2) & F.try_element_at(whole, F.lit(_END)).isNotNull()
    is_kind = text.rlike(rf"^\s*\{first}")
    return F.when(is_kind & is_whole, F.from_json(text, of, strictly))
