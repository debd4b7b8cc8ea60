"""A filter in, dictionaries for Databricks' standard endpoints out: one for each query whose answers are put together.

The keys of a dictionary are joined by AND; a key is a column, or a column and NOT. Databricks' own OR over columns
takes only one value for each column and no NOT, so every alternative is a query of its own instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeAlias

from transformations.errors import ConfigurationError
from transformations.tables.filters import Filter, In, Not, Or

Dictionary: TypeAlias = "dict[str, str | list[str]]"
_MOST_QUERIES = 32


def to_dictionaries(where: Filter) -> list[Dictionary]:
    """The filter as alternatives, one dictionary each; an empty list if no row can pass.

    >>> to_dictionaries(Or((In("format", ("md", "rst")), Not(In("source", ("wiki",))))))
    [{'format': ['md', 'rst']}, {'source NOT': 'wiki'}]

    Raises:
        ConfigurationError: the filter takes too many queries.
    """
    return [
        {_key(column, values): _value(values) for column, values in alternative.items()}
        for alternative in _alternatives(where, negated=False)
        if all(values.names or values.negated for values in alternative.values())
    ]


@dataclass(frozen=True)
class _Values:
    """The values that a column may have: one of `names`, or with `negated` any other."""

    names: frozenset[str]
    negated: bool

    def __and__(self, other: _Values) -> _Values:
        if self.negated and other.negated:
            return _Values(self.names | other.names, True)
        if self.negated or other.negated:
            allowed, denied = (other, self) if self.negated else (self, other)
            return _Values(allowed.names - denied.names, False)
        return _Values(self.names & other.names, False)


_Alternative: TypeAlias = "dict[str, _Values]"


def _alternatives(where: Filter, *, negated: bool) -> list[_Alternative]:
    """The filter, or its negation, as an OR of ANDs."""
    if isinstance(where, Not):
        return _alternatives(where.part, negated=not negated)
    if isinstance(where, In):
        return [{where.column: _Values(frozenset(where.values), negated)}]
    parts = [_alternatives(part, negated=negated) for part in where.parts]
    if isinstance(where, Or) != negated:
        return [alternative for part in parts for alternative in part]
    count = prod(len(part) for part in parts)
    if count > _MOST_QUERIES:
        raise ConfigurationError(
            f"the filter takes {count} queries at Databricks, {_MOST_QUERIES} are allowed: join its values with `in` "
            "rather than `or`, or ask with a simpler one"
        )
    return [_both(choice) for choice in product(*parts)]


def _both(choice: tuple[_Alternative, ...]) -> _Alternative:
    merged: _Alternative = {}
    for alternative in choice:
        for column, values in alternative.items():
            merged[column] = merged[column] & values if column in merged else values
    return merged


def _key(column: str, values: _Values) -> str:
    return f"{column} NOT" if values.negated else column


def _value(values: _Values) -> str | list[str]:
    names = sorted(values.names)
    return names[0] if len(names) == 1 else names
