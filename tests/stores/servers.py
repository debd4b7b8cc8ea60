"""A store's variants, and where each of them runs for the tests: in a folder, or at a server that the test starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stores.databricks_double import TOKEN

# store → the ways to run it; a store that is not named here runs in a folder.
VARIANTS: dict[str, tuple[str, ...]] = {
    "chroma": ("chroma (embedded)", "chroma (server)"),
    "milvus": ("milvus (lite)", "milvus (lite's server)"),
    **{store: (store, f"{store} (early base)") for store in ("faiss", "annoy", "scann")},
    # Its rows come from a table, not from a writer: tests/stores/test_databricks.py.
    "databricks_delta_sync": (),
}
# Libraries that cannot change: with a base over a few rows already, and a search that looks at all of it.
EARLY_BASE = {"base_rows": "20", "compact_rows": "8"}
SEARCH_ALL = {"faiss": {}, "annoy": {"search_k": "1000000"}, "scann": {"leaves_to_search": "1000", "candidates": "20"}}


def address(variant: str, folder: Path, request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The store's name and its `index` settings for a variant. Servers are fixtures, started once a session."""
    if variant == "pgvector":
        return variant, {"uri": request.getfixturevalue("postgres_uri")}
    if variant == "databricks":
        options = {"workspace_url": request.getfixturevalue("databricks_workspace")}
        return variant, {"uri": "databricks://search/main.rag", "secret": TOKEN, "options": options}
    store, _, how = variant.partition(" ")
    if variant in ("chroma (server)", "milvus (lite's server)"):
        return store, {"uri": request.getfixturevalue(f"{store}_uri")}
    if how == "(early base)":
        return store, {"uri": str(folder / "index"), "options": EARLY_BASE | SEARCH_ALL[store]}
    return store, {"uri": str(folder / "index")}
