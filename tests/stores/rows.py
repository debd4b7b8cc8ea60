"""Small, made rows of gold.chunk_index: vectors that tell their neighbours, texts and names that invite mistakes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.stores import Manifest
from pipelines.stores.place import Place, parse_options
from transformations.index.fingerprint import fingerprint, row_hash_of

DIMENSION = 16
SCHEMA = INDEX_SCHEMA
ODD_VALUES = [
    "it's",
    'a "b"',
    "c\\d",
    "100%",
    "$(x)",
    "'; DROP TABLE chunks; --",
    "日本語",
    "a\nb",
    "{}",
    "x' OR '1'='1",
]


def vector(number: int, *, edition: int = 0) -> np.ndarray:
    """A unit vector of its own."""
    values = np.random.default_rng([number, edition]).standard_normal(DIMENSION).astype(np.float32)
    return values / np.linalg.norm(values)


def row(number: int, *, edition: int = 0, **changed: Any) -> dict[str, Any]:
    """The row of one chunk; another `edition` has other text and another vector, `changed` columns are as given."""
    text = f"Chunk {number} says {ODD_VALUES[number % len(ODD_VALUES)]}" + (f", again {edition}" if edition else "")
    values = {
        "chunk_id": hashlib.sha256(str(number).encode()).hexdigest()[:32],
        "document_id": f"document-{number // 10}",
        "path": f"docs/{ODD_VALUES[number // 10 % len(ODD_VALUES)]}/{number // 10}.md",
        "title": None if number % 7 == 0 else f"Title {number // 10}",
        "heading_path": [] if number % 5 == 0 else ["Guide", f"Part, {number}"],
        "text": text,
        "text_hash": hashlib.sha256(text.encode()).hexdigest(),
        "format": ("rst", "md", "html")[number % 3],
        "source": "wiki" if number % 2 else "files",
        "model": f"test@1/{DIMENSION}",
        "vector": vector(number, edition=edition),
    } | changed
    return values | {"row_hash": row_hash_of(values)}


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def manifest(rows: Sequence[dict[str, Any]], *, version: int = 1, fence: int = 1, **changed: Any) -> Manifest:
    values: dict[str, Any] = {
        "source_table": "gold.chunk_index",
        "source_id": "table-1",
        "version": version,
        "fingerprint": fingerprint(r["row_hash"] for r in rows),
        "model": "test",
        "revision": "1",
        "dimension": DIMENSION,
        "rows": len(rows),
        "fence": fence,
    }
    return Manifest(**values | changed)


def place(
    adapter: Any,
    uri: str,
    *,
    name: str = "chunks",
    dimension: int = DIMENSION,
    secret: str | None = None,
    **options: str,
) -> Place:
    """What `open_store` makes an adapter of."""
    parsed = parse_options(adapter.__name__, options, model=adapter.options)
    return Place(uri, name, dimension, secret, parsed)
