"""An alert in, a sentence for every table and column out that its query or its condition names and that is not there.

Queries are read by DuckDB's parser, which understands nearly all of Spark's SQL; one that it does not (with LATERAL
VIEW, for example) is not looked into.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from pipelines.lakehouse.schemas import TABLES

# Of names that settings decide: docs/tables.md.
_DECLARED = ("bronze.records_", "silver.records_", "gold.features_")
# A text in Spark's SQL, in either kind of quotes.
_TEXT = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*["]""")


def alert_problems(alert: Mapping[str, Any], *, schemas: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the alert names in vain; `schemas` are those that the bundle deploys, by key."""
    query = _parsed(alert["query_text"])
    if query is None:
        return
    yield from _table_problems(query, schemas)
    columns = _columns(query, schemas)
    evaluation = alert["evaluation"]
    for place, operand in (("source", evaluation["source"]), ("threshold", _threshold(evaluation))):
        name = operand.get("name")
        if columns is not None and name is not None and name.lower() not in columns:
            yield f"evaluation.{place}: the query gives no column {name!r}; it gives {sorted(columns)}"


def _threshold(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The column that a threshold names, if it is no value."""
    column: Mapping[str, Any] = (evaluation.get("threshold") or {}).get("column") or {}
    return column


def _parsed(query: str) -> dict[str, Any] | None:
    """The syntax tree of a query, if it can be read."""
    with duckdb.connect() as connection:
        row = connection.execute("SELECT json_serialize_sql(?)", [_in_duckdb_words(query)]).fetchone()
    tree = json.loads(row[0]) if row else {"error": True}
    node: dict[str, Any] | None = None if tree["error"] else tree["statements"][0]["node"]
    return node


def _in_duckdb_words(query: str) -> str:
    """The query with names and RLIKE as DuckDB has them; what its texts say is of no interest here."""
    return re.sub(r"(?i)\bRLIKE\b", "~", _TEXT.sub("''", query)).replace("`", '"')


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every node of a syntax tree."""
    if isinstance(node, Mapping):
        yield node
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _nodes(child)


def _subqueries(query: Mapping[str, Any]) -> dict[str, Any]:
    """name -> query of everything that stands behind a WITH."""
    maps = [node["cte_map"]["map"] for node in _nodes(query) if "cte_map" in node]
    return {entry["key"].lower(): _query_of(entry["value"]) for entries in maps for entry in entries}


def _query_of(value: Mapping[str, Any]) -> Any:
    """The query of a WITH; DuckDB 1 has it one level deeper than DuckDB 2."""
    return value["query_node"] if "query_node" in value else value["query"]["node"]


def _table_problems(query: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    named = _subqueries(query)
    for node in _nodes(query):
        if node.get("type") != "BASE_TABLE" or (not node["schema_name"] and node["table_name"].lower() in named):
            continue
        path = ".".join(part for part in (node["catalog_name"], node["schema_name"], node["table_name"]) if part)
        if node["catalog_name"] == "system" or node["schema_name"] == "information_schema":
            continue
        table = _own_table(node, schemas)
        if table is None:
            yield f"query_text: {path} lies in no schema of the bundle"
        elif table not in TABLES and not table.startswith(_DECLARED):
            yield f"query_text: there is no table {path}; no stage makes {table}"


def _own_table(node: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The name that stages know a table by (silver.chunks), if it lies in a schema that the bundle deploys."""
    for key, schema in schemas.items():
        if (node["catalog_name"], node["schema_name"]) == (schema["catalog_name"], schema["name"]):
            return f"{key}.{node['table_name']}"
    return None


def _columns(query: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]]) -> set[str] | None:
    """The names of what a query gives, in lower case; None if they cannot be known."""
    if query["type"] != "SELECT_NODE":
        return None
    found: set[str] = set()
    for item in query["select_list"]:
        names = _names_of(item, query, schemas)
        if names is None:
            return None
        found |= names
    return found


def _names_of(
    item: Mapping[str, Any], query: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]]
) -> set[str] | None:
    if item["alias"]:
        return {item["alias"].lower()}
    if item["type"] == "COLUMN_REF":
        return {item["column_names"][-1].lower()}
    source = query["from_table"]
    if item["type"] != "STAR" or item["exclude_list"] or item["replace_list"]:
        return None
    if source["type"] == "SUBQUERY":
        return _columns(source["subquery"]["node"], schemas)
    if source["type"] == "BASE_TABLE" and (table := _own_table(source, schemas)) in TABLES:
        return {name.lower() for name in TABLES[table].columns}
    return None
