"""A filter over metadata columns: text or Python values in, a typed tree out, which each store translates.

    format = 'rst' and not (source in ('docs', 'wiki') or path = 'index.rst')

A value stays a value: no part of it is ever read as a store's query language.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from transformations.errors import ConfigurationError


@dataclass(frozen=True)
class In:
    """The column's value is one of `values` (never empty)."""

    column: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class And:
    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    part: Filter


Filter: TypeAlias = "In | And | Or | Not"


def equals(**columns: str) -> Filter:
    """The filter that each named column has the given value.

    >>> equals(format="rst")
    In(column='format', values=('rst',))

    Raises:
        ConfigurationError: no column at all.
    """
    if not columns:
        raise empty_filter({})
    parts = tuple(In(column, (value,)) for column, value in columns.items())
    return parts[0] if len(parts) == 1 else And(parts)


def empty_filter(given: object) -> ConfigurationError:
    """The error for an empty filter; most often a variable, or a permission, was not filled in."""
    return ConfigurationError(
        f"the filter {given!r} is empty, and so would let everything pass. Leave it out to search all, or say what "
        "must hold, as in format = 'rst'."
    )


def matches(row: Mapping[str, Any], where: Filter) -> bool:
    """Whether a row passes the filter. Every store's translation must give the same answer.

    >>> matches({"format": "md"}, Not(In("format", ("rst", "md"))))
    False
    """
    if isinstance(where, In):
        return row[where.column] in where.values
    if isinstance(where, Not):
        return not matches(row, where.part)
    if isinstance(where, And):
        return all(matches(row, part) for part in where.parts)
    return any(matches(row, part) for part in where.parts)


def columns_of(where: Filter) -> Iterator[str]:
    """Every column that a filter names."""
    if isinstance(where, In):
        yield where.column
    elif isinstance(where, Not):
        yield from columns_of(where.part)
    else:
        for part in where.parts:
            yield from columns_of(part)


def check_filter(where: Filter, *, known: Collection[str]) -> None:
    """Check a filter that was built in Python.

    Raises:
        ConfigurationError: an unknown column, a value that is no text, a comparison without values, or an `and` or `or`
            without parts.
    """
    if _says_nothing(where):
        raise empty_filter(where)
    for column in columns_of(where):
        if column not in known:
            raise ConfigurationError.unknown_name("filter column", column, known)
    for part in _comparisons(where):
        if not part.values or not all(isinstance(value, str) for value in part.values):
            raise ConfigurationError(f"the filter on {part.column!r} takes one text or more, but it is {part.values!r}")


def _says_nothing(where: Filter) -> bool:
    """Whether the filter has an `and` or an `or` without parts."""
    if isinstance(where, In):
        return False
    if isinstance(where, Not):
        return _says_nothing(where.part)
    return not where.parts or any(map(_says_nothing, where.parts))


def _comparisons(where: Filter) -> Iterator[In]:
    if isinstance(where, In):
        yield where
    elif isinstance(where, Not):
        yield from _comparisons(where.part)
    else:
        for part in where.parts:
            yield from _comparisons(part)


_TOKEN = re.compile(r"""\s*(?:(?P<quoted>'(?:[^']|'')*')|(?P<mark>!=|<>|=|\(|\)|,)|(?P<word>[^\s'"=!<>(),]+))""")


def parse_filter(text: str) -> Filter:
    """Read a filter from its text: `column = value`, `!=`, `in (…)`, joined by `and`, `or`, `not` and parentheses.

    A value stands in single quotes (doubled inside); a value without blanks, quotes and operators needs none.

    >>> parse_filter("format=rst and not source in ('a', 'b')")
    And(parts=(In(column='format', values=('rst',)), Not(part=In(column='source', values=('a', 'b')))))

    Raises:
        ConfigurationError: the text is blank, or cannot be read; the message says where.
    """
    if not text.strip():
        raise empty_filter(text)
    parser = _Parser(text)
    where = parser.either()
    parser.end()
    return where


class _Parser:
    """A parser by recursive descent over the tokens, with one method for each level of precedence."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        position, stripped = 0, text.rstrip()
        while position < len(stripped):
            found = _TOKEN.match(stripped, position)
            if found is None:
                raise ConfigurationError(f"the filter {text!r} cannot be read from {stripped[position:]!r} on")
            self._tokens.append((str(found.lastgroup), found.group(str(found.lastgroup))))
            position = found.end()
        self._next = 0

    def either(self) -> Filter:
        parts = [self.both()]
        while self._take("word", "or"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self) -> Filter:
        parts = [self.one()]
        while self._take("word", "and"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def one(self) -> Filter:
        if self._take("word", "not"):
            return Not(self.one())
        if self._take("mark", "("):
            inside = self.either()
            self._want(")")
            return inside
        column = self._value("a column")
        if self._take("mark", "="):
            return In(column, (self._value("a value"),))
        if self._take("mark", "!=") or self._take("mark", "<>"):
            return Not(In(column, (self._value("a value"),)))
        is_not = self._take("word", "not")
        if not self._take("word", "in"):
            raise self._error("=, != or in")
        self._want("(")
        values = [self._value("a value")]
        while self._take("mark", ","):
            values.append(self._value("a value"))
        self._want(")")
        found = In(column, tuple(values))
        return Not(found) if is_not else found

    def end(self) -> None:
        if self._next < len(self._tokens):
            raise self._error("and, or, or its end")

    def _take(self, kind: str, text: str) -> bool:
        if self._next < len(self._tokens):
            found_kind, found = self._tokens[self._next]
            if found_kind == kind and found.lower() == text:
                self._next += 1
                return True
        return False

    def _want(self, mark: str) -> None:
        if not self._take("mark", mark):
            raise self._error(mark)

    def _value(self, wanted: str) -> str:
        if self._next < len(self._tokens):
            kind, found = self._tokens[self._next]
            if kind != "mark":
                self._next += 1
                return found[1:-1].replace("''", "'") if kind == "quoted" else found
        raise self._error(wanted)

    def _error(self, wanted: str) -> ConfigurationError:
        found = self._tokens[self._next][1] if self._next < len(self._tokens) else "its end"
        return ConfigurationError(f"the filter {self._text!r} wants {wanted} where {found!r} stands")
