"""The contract between an index and the table that it serves; one file a store beside this one.

A store holds rows of gold.chunk_index by `chunk_id`, and with them a manifest that says which version of which table
they equal. Rows and manifest are lost or restored together, so the index itself tells where to go on. Writes become
visible to readers all at once, when the manifest moves (`commit`), for stores that declare `has_atomic_commit`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from pipelines.settings import Settings
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Adding a store: its file, and its line here.
STORES = {"lance": "pipelines.stores.lance:LanceStore"}

MANIFEST_FORMAT = 1
FILTER_COLUMNS = ("document_id", "path", "format", "source")


@dataclass(frozen=True)
class Manifest:
    """What an index equals.

    Attributes:
        source_table: the table's name; source_id: its identity (a re-created table has another).
        version: the table's version that the index equals.
        fingerprint: order-independent hash over all rows (transformations/fingerprint.py).
        model, revision, dimension, instruction: of the vectors; an index never holds two kinds.
        rows: how many.
        format: of this manifest; a newer one than ours is refused.
    """

    source_table: str
    source_id: str
    version: int
    fingerprint: str
    model: str
    revision: str
    dimension: int
    rows: int
    instruction: str = ""
    format: int = MANIFEST_FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ConfigurationError for what a newer lakeloop, or something else, wrote."""
        try:
            values = json.loads(text)
            if values["format"] > MANIFEST_FORMAT:
                raise ConfigurationError(
                    f"the index was written by a newer lakeloop (manifest format {values['format']}, this one reads "
                    f"{MANIFEST_FORMAT}). Upgrade lakeloop here."
                )
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(f"the index's manifest cannot be read ({error}): {text[:200]}") from None


@dataclass(frozen=True)
class Hit:
    """One chunk found. `score` is the cosine similarity, 1 for the same direction."""

    chunk_id: str
    document_id: str
    path: str
    title: str | None
    heading_path: tuple[str, ...]
    text: str
    score: float


class Store(Protocol):
    """One index in one store. Ids are `chunk_id`; rows are Arrow tables with gold.chunk_index's columns."""

    has_atomic_commit: bool

    def manifest(self) -> Manifest | None:
        """What the index equals, or None where there is no index, or one that was never committed."""

    def upsert(self, rows: pa.Table) -> None:
        """Insert or replace by id. The same rows twice leave the index as once."""

    def delete(self, ids: Sequence[str]) -> None:
        """Delete by id; an id that is not there is no error."""

    def commit(self, manifest: Manifest) -> None:
        """Say what the index now equals, and show readers the writes since the last commit."""

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        """All (chunk_id, row_hash) as last written, committed or not: what audits and recovery compare."""

    def rows(self) -> Iterator[pa.RecordBatch]:
        """All rows that readers see."""

    def search(self, vector: NDArray[np.float32], *, k: int, where: Mapping[str, str] | None = None) -> list[Hit]:
        """The k nearest rows that readers see, best first; `where` keeps rows whose columns equal the values."""

    def drop(self) -> None:
        """Remove the index with its manifest."""


def open_store(settings: Settings, *, dimension: int) -> Store:
    """The store that the settings name; nothing is created before the first write.

    Raises:
        ConfigurationError: an unknown store, or its library is not installed.
    """
    if settings.index.store not in STORES:
        raise ConfigurationError.unknown_name("store", settings.index.store, STORES)
    module, name = STORES[settings.index.store].split(":")
    store: Store = getattr(import_module(module), name)(settings.index_uri, dimension=dimension)
    return store


def check_filter(where: Mapping[str, str]) -> None:
    """Raises ConfigurationError for a column that cannot be filtered on."""
    for column in where:
        if column not in FILTER_COLUMNS:
            raise ConfigurationError.unknown_name("filter column", column, FILTER_COLUMNS)
