"""Converts arguments of LangChain and LlamaIndex users into a searcher and a filter, and chunks into their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pipelines.answering.search import Searcher
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError
from transformations.tables.filters import And, Filter, In, Not, Or, equals, parse_filter

# A filter, its text (`format = 'rst' and not source in ('a', 'b')`), or the values that columns must have.
GivenFilter: TypeAlias = "Filter | str | Mapping[str, str] | None"

METADATA = ("document_id", "path", "title", "heading_path")


def searcher_of(source: Settings | Searcher) -> Searcher:
    """A new searcher for settings; a searcher is returned as it is.

    Raises:
        ConfigurationError: there is no index yet.
    """
    return Searcher(source) if isinstance(source, Settings) else source


def filter_of(given: GivenFilter) -> Filter | None:
    """The filter that `given` describes; None: no filter.

    >>> filter_of({"format": "rst"}) == filter_of("format = rst")
    True

    Raises:
        ConfigurationError: its text cannot be read, it is empty, or it has another type. An empty filter is usually a
            permission that was not filled in; to let everything pass would show what it should have hidden.
    """
    if given is None or isinstance(given, In | And | Or | Not):
        return given
    if isinstance(given, str):
        return parse_filter(given)
    if isinstance(given, Mapping):
        return equals(**given)
    raise ConfigurationError(
        f"a filter is a lakeloop filter, its text, or a dict of columns and values, not {type(given).__name__}: {given}"
    )


def metadata_of(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The columns `METADATA` of a chunk as plain values: its document, path, title and headings."""
    return {column: chunk[column] for column in METADATA} | {"heading_path": list(chunk["heading_path"])}
