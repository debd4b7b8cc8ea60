"""The contract of a vector store; each store is an adapter in a file beside this one.

A store holds rows of gold.chunk_index by `chunk_id`, and with them a manifest that says which version of which table
they equal. Rows and manifest are lost or restored together, so the index itself says where a sync must go on. A store
declares what it can do beyond this contract (capabilities.py); tests/stores checks both for every store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa

from pipelines.models.embedders import EmbeddingModel
from pipelines.settings.sections import Settings
from pipelines.storage.object_path import ObjectPath, is_object_storage
from pipelines.stores.capabilities import Capability
from pipelines.stores.place import Options, Place, parse_options
from transformations.errors import ConfigurationError, DamagedTableError, LakeloopError, RefusedError
from transformations.index.vectors import Limits, direction_problems
from transformations.tables.filters import Filter, check_filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# To add a store, add its file, and its line here.
STORES = {
    "lance": "pipelines.stores.lance:LanceStore",
    "chroma": "pipelines.stores.chroma:ChromaStore",
    "milvus": "pipelines.stores.milvus:MilvusStore",
    "pgvector": "pipelines.stores.pgvector:PgvectorStore",
    "faiss": "pipelines.stores.faiss:FaissStore",
    "annoy": "pipelines.stores.annoy:AnnoyStore",
    "scann": "pipelines.stores.scann:ScannStore",
    "databricks": "pipelines.stores.databricks:DirectAccessStore",
    "databricks_delta_sync": "pipelines.stores.databricks:DeltaSyncStore",
}

MANIFEST_FORMAT = 2
FILTER_COLUMNS = ("document_id", "path", "format", "source")


@dataclass(frozen=True)
class Manifest:
    """The version of a table that an index equals, and who wrote it.

    Attributes:
        source_table: the table's name.
        source_id: the table's identity; a re-created table has another.
        version: the table's version that the index equals.
        fingerprint: order-independent hash over all rows (transformations/index/fingerprint.py).
        model, revision, dimension, instruction: of the model of the vectors; an index never holds those of two models.
        rows: the number of rows.
        workspace: identity of the workspace that wrote the index.
        place: the folder of that workspace, for people.
        commit: identity of the commit with number `version`: a table that is restored from a copy can have other
            commits with the same numbers.
        options: hash of the `index.options` with which it was written.
        fence: number of the lease under which it was written; it only grows.
        format: format of the manifest; one that is newer than ours is refused.
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
    fence: int = 0
    workspace: str = ""
    place: str = ""
    commit: str = ""
    options: str = ""
    format: int = MANIFEST_FORMAT

    @property
    def model_label(self) -> str:
        """The model as the column `model` of gold.chunk_index names it."""
        return EmbeddingModel(self.model, self.revision, self.dimension, self.instruction).label

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ConfigurationError if a newer lakeloop, or something else, wrote `text`."""
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
    """One chunk that was found. `score` is the cosine similarity, 1 for the same direction."""

    chunk_id: str
    document_id: str
    path: str
    title: str | None
    heading_path: tuple[str, ...]
    text: str
    score: float


class StoreUnavailableError(LakeloopError):
    """The store is down, slow, or limits the rate: the same call may succeed later.

    Attributes:
        retry_after: seconds that the store asks to wait; None if it does not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Store(Protocol):
    """One index in one store. Ids are `chunk_id`; rows are Arrow tables with gold.chunk_index's columns.

    `open_store` makes an adapter from a Place; it connects at its first call. Many threads may search with one adapter,
    also while others commit; writers take turns. Its calls raise StoreUnavailableError if the cause may pass by itself,
    ConfigurationError if a person must act, and the library's own error if it refuses a batch: the caller then halves
    the batch until it has found the bad row.
    """

    # The model of index.options; `place.parsed` returns an instance.
    options: ClassVar[type[Options]]
    capabilities: Mapping[str, Capability]
    # A row beyond these limits never reaches the store: it is set aside with the reason.
    limits: Limits

    def manifest(self) -> Manifest | None:
        """What the index equals; None if there is no index, or if it was never committed.

        Raises:
            DamagedTableError: a file of the index, in a folder of this machine, is lost.
        """

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        """Insert or replace by id; writing the same rows twice changes nothing. Ids are distinct within a call.

        Args:
            are_new: the index has none of these ids, so the store need not look for them. Only a first try may say so,
                since a call that failed may have stored them.

        Returns:
            Id → reason for the rows that the store refused; all others are stored. Empty for nearly all stores.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Delete by id; an id that is not there is no error."""

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        """Set the manifest, and show readers the writes since the last commit.

        Raises:
            RefusedError: the index no longer has the manifest `expected`, or has one with a higher fence.
        """

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        """All (chunk_id, row_hash) as last written, committed or not; a recovery compares these."""

    def rows(self) -> Iterator[pa.RecordBatch]:
        """All rows that readers see, with every column; an audit compares these."""

    def search(self, vector: NDArray[np.float32], *, k: int, where: Filter | None = None) -> list[Hit]:
        """The k rows nearest by cosine, best first, among those that readers see and that pass `where`."""

    def forget(self) -> str:
        """Drop old states and compact, so that deleted rows leave the store's files. Returns what remains, in words."""

    def drop(self) -> None:
        """Remove the index with its manifest."""

    def close(self) -> None:
        """Close connections and files."""


def open_store(settings: Settings, *, dimension: int, name: str | None = None) -> Store:
    """The index `name` (None: that of the settings) in the store that the settings name.

    Nothing is created before the first write.

    Raises:
        ConfigurationError: an unknown store, or an option that it does not take.
    """
    index = settings.index
    adapter = adapter_named(index.store)
    secret = index.secret.get_secret_value() if index.secret else None
    options = parse_options(index.store, index.options, model=adapter.options)
    place = settings.place(settings.index_uri) if is_object_storage(settings.index_uri) else None
    storage = place.client_options if isinstance(place, ObjectPath) else None
    store: Store = adapter(Place(settings.index_uri, name or index.name, dimension, secret, options, storage))
    return store


def adapter_named(store: str) -> Any:
    """The adapter's class. Raises ConfigurationError for an unknown store."""
    if store not in STORES:
        raise ConfigurationError.unknown_name("store", store, STORES)
    module, cls = STORES[store].split(":")
    return getattr(import_module(module), cls)


def damaged_index(place: Path | str, error: Exception) -> DamagedTableError:
    """An error for an index on disk that lacks a file or cannot be read."""
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return DamagedTableError(
        f"the index at {place} is damaged: a file is missing or cannot be read ({why}). Nothing was changed. All that "
        "it held is in gold.chunk_index: put the folder back from a copy, or remove it, and run: lakeloop sync-index"
    )


def check_query(vector: NDArray[np.float32], *, dimension: int, where: Filter | None) -> None:
    """Raises ConfigurationError for a vector of another dimension or without a direction, and for a bad filter.

    For NaN, infinity or zeros each store would do something else: fail, find nothing, find anything.
    """
    if vector.shape != (dimension,):
        raise ConfigurationError(f"the query's vector has shape {vector.shape}, the index holds ({dimension},)")
    for _, problem in direction_problems(vector[None, :]):
        raise ConfigurationError(
            f"the query's vector {problem}: nothing is near to it. Nothing was searched. Look at what made the vector."
        )
    if where is not None:
        check_filter(where, known=FILTER_COLUMNS)


def check_succession(held: Manifest | None, *, expected: Manifest | None, new: Manifest) -> None:
    """The check of `commit` before it sets the manifest. Raises RefusedError."""
    if held != expected or (held is not None and held.fence > new.fence):
        raise RefusedError(
            f"another sync moved the index meanwhile: it is at {_brief(held)}, this one began from {_brief(expected)} "
            "and was not committed. Run it again."
        )


def _brief(manifest: Manifest | None) -> str:
    return "nothing" if manifest is None else f"version {manifest.version} (lease {manifest.fence})"
