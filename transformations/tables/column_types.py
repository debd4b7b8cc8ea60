"""Types of columns as Spark writes them in, their canonical form, their Arrow types, and which one is wider, out."""

from __future__ import annotations

import re

import pyarrow as pa

from transformations.errors import ConfigurationError

_SIMPLE = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
_OTHER_NAMES = {"byte": "tinyint", "short": "smallint", "integer": "int", "long": "bigint", "real": "float"}
_INTEGERS = ("tinyint", "smallint", "int", "bigint")
# Digits that hold every value of an integer type.
_DIGITS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def canonical_type(text: str) -> str:
    """The type as Spark's `simpleString` writes it: "LONG" → "bigint", "struct<a: int>" → "struct<a:int>".

    Raises:
        ConfigurationError: no column of lakeloop's tables can have this type.
    """
    text = text.strip()
    lower = text.lower()
    if (name := _OTHER_NAMES.get(lower, lower)) in _SIMPLE:
        return name
    if lower in ("decimal", "dec", "numeric"):
        return "decimal(10,0)"
    if found := re.fullmatch(r"(?:decimal|dec|numeric)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", lower):
        precision, scale = int(found[1]), int(found[2] or 0)
        if 1 <= precision <= 38 and scale <= precision:
            return f"decimal({precision},{scale})"
    elif found := re.fullmatch(r"(array|map|struct)\s*<(.*)>", text, re.IGNORECASE | re.DOTALL):
        kind, parts = found[1].lower(), split_top(found[2])
        if kind == "array" and len(parts) == 1:
            return f"array<{canonical_type(parts[0])}>"
        if kind == "map" and len(parts) == 2:
            return f"map<{canonical_type(parts[0])},{canonical_type(parts[1])}>"
        fields = [part.replace(":", " ", 1).split(None, 1) for part in parts]
        if kind == "struct" and all(len(field) == 2 and _FIELD.fullmatch(field[0]) for field in fields):
            return f"struct<{','.join(f'{name}:{canonical_type(of)}' for name, of in fields)}>"
    raise ConfigurationError(
        f"{text!r} is not the type of a column. Known: {', '.join(_SIMPLE)}, decimal(precision,scale), array<…>, "
        "map<…,…>, struct<name: …>."
    )


def is_type(text: str) -> bool:
    """Whether `text` is the canonical form of a type that a column of lakeloop's tables can have."""
    try:
        return canonical_type(text) == text
    except ConfigurationError:
        return False


def arrow_type(text: str) -> pa.DataType:
    """The Arrow type of a canonical type."""
    if text in _SIMPLE:
        return _SIMPLE[text]
    if found := _DECIMAL.fullmatch(text):
        return pa.decimal128(int(found[1]), int(found[2]))
    kind, _, inside = text.removesuffix(">").partition("<")
    parts = split_top(inside)
    if kind == "array":
        return pa.list_(arrow_type(parts[0]))
    if kind == "map":
        return pa.map_(arrow_type(parts[0]), arrow_type(parts[1]))
    fields = [part.split(":", 1) for part in parts]
    return pa.struct([(name, arrow_type(of)) for name, of in fields])


def is_nested(text: str) -> bool:
    return "<" in text


def widens(narrow: str, wide: str) -> bool:
    """Whether `wide` is a different type that holds every value of `narrow`, and Delta can widen `narrow` to it."""
    if narrow in _INTEGERS and wide in _INTEGERS:
        return _INTEGERS.index(narrow) < _INTEGERS.index(wide)
    if (narrow, wide) == ("float", "double"):
        return True
    if wide == "double":
        return narrow in _INTEGERS[:3]
    to = _DECIMAL.fullmatch(wide)
    if to is None:
        return False
    precision, scale = int(to[1]), int(to[2])
    if narrow in _DIGITS:
        return precision - scale >= _DIGITS[narrow]
    of = _DECIMAL.fullmatch(narrow)
    if of is None or narrow == wide:
        return False
    return scale >= int(of[2]) and precision - scale >= int(of[1]) - int(of[2])


def wider_integers(text: str) -> tuple[str, ...]:
    """The integer types that are wider than the type `text`, the nearest first; none if it is no integer type."""
    return _INTEGERS[_INTEGERS.index(text) + 1 :] if text in _INTEGERS else ()


def split_top(text: str) -> list[str]:
    """`text` cut at the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "<(") - (sign in ">)")
        if sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]
