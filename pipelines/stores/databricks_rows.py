"""Rows of gold.chunk_index in, JSON for Databricks AI Search out, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipelines.stores import Hit
from pipelines.stores.databricks_client import ai_search

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.stores.databricks_filters import Dictionary

_HIT_COLUMNS = ("chunk_id", "document_id", "path", "title", "heading_path", "text")
_COLUMNS = [*_HIT_COLUMNS, "format", "source"]
_MOST_RESULTS = 10_000


def to_input(row: dict[str, Any], vector: NDArray[np.float32]) -> dict[str, Any]:
    """A row to upsert. The only documented type of list is the vector, so the headings are written as JSON."""
    return row | {"heading_path": json.dumps(row["heading_path"]), "vector": vector.tolist()}


def failed_keys(answer: dict[str, Any]) -> list[str]:
    """The keys that failed in an upsert or a delete. Raises the client's error if it failed without naming one."""
    failed: list[str] = (answer.get("result") or {}).get("failed_primary_keys") or []
    if not failed and answer.get("status") != "SUCCESS":
        raise ai_search("exceptions").AISearchException(f"Databricks refused the request and named no row: {answer}")
    return failed


def from_scan(page: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one page of a scan."""
    rows = [
        {field["key"]: _value(field.get("value") or {}) for field in entry["fields"]}
        for entry in page.get("data") or []
    ]
    return [row | {"heading_path": _headings(row.get("heading_path"))} for row in rows]


def query(index: Any, vector: NDArray[np.float32], *, k: int, filters: Dictionary | None) -> list[dict[str, Any]]:
    """The rows nearest to a vector of length 1, with their `score`."""
    answer = index.similarity_search(
        columns=_COLUMNS,
        query_vector=vector.tolist(),
        filters=filters,
        num_results=min(k, _MOST_RESULTS),
        disable_notice=True,
    )
    names = [column["name"] for column in answer["manifest"]["columns"]]
    return [dict(zip(names, values, strict=True)) for values in answer["result"].get("data_array") or []]


def to_hit(row: dict[str, Any]) -> Hit:
    values = {column: row[column] for column in _HIT_COLUMNS} | {"heading_path": tuple(_headings(row["heading_path"]))}
    # The service's score is 1 / (1 + d²) for the Euclidean distance d; between vectors of length 1, cos = 1 - d²/2.
    return Hit(**values, score=(3 - 1 / float(row["score"])) / 2)


def _value(value: dict[str, Any]) -> Any:
    if "list_value" in value:
        return [_value(item) for item in value["list_value"].get("values") or []]
    return next((value[kind] for kind in ("string_value", "number_value", "bool_value") if kind in value), None)


def _headings(value: Any) -> list[str]:
    """The heading path, which is JSON in a Direct Access index and a list in a Delta Sync index."""
    return list(json.loads(value) if isinstance(value, str) else value or [])
