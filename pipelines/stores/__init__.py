"""The contract between an index and the table that it serves; one file a store beside this one.

A store holds rows of gold.chunk_index by `chunk_id`, and with them a manifest that says which version of which table
they equal. Rows and manifest are lost or restored together, so the index itself tells where to go on. What a store
promises beyond this contract it declares (capabilities.py); tests/stores holds every store to both.
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
from pipelines.stores.capabilities import Capability
from pipelines.stores.place import Options, Place, parse_options
from transformations.errors import ConfigurationError, DamagedTableError, LakeloopError, RefusedError
from transformations.index.vectors import Limits, direction_problems
from transformations.tables.filters import Filter, check_filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Adding a store: its file, and its line here.
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
    """What an index equals.

    Attributes:
        source_table: the table's name; source_id: its identity (a re-created table has another).
        version: the table's version that the index equals.
        fingerprint: order-independent hash over all rows (transformations/index/fingerprint.py).
        model, revision, dimension, instruction: of the vectors; an index never holds two kinds.
        rows: how many.
        workspace: identity of the workspace that wrote it; place: its folder, for people.
        commit: identity of the commit that `version` is: a table put back from a copy has others of the same numbers.
        options: what `index.options` were, as a hash.
        fence: number of the lease under which it was written; it only grows.
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
    fence: int = 0
    workspace: str = ""
    place: str = ""
    commit: str = ""
    options: str = ""
    format: int = MANIFEST_FORMAT

    @property
    def model_label(self) -> str:
        """As in gold.chunk_index's column `model`."""
        return EmbeddingModel(self.model, self.revision, self.dimension, self.instruction).label

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


class StoreUnavailableError(LakeloopError):
    """The store is down, slow, or limits the rate: the same call may succeed later.

    Attributes:
        retry_after: seconds that the store asks to wait, where it says so.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Store(Protocol):
    """One index in one store. Ids are `chunk_id`; rows are Arrow tables with gold.chunk_index's columns.

    An adapter is made by `open_store` with a Place and connects at its first call.
    One handle serves many threads that search, through commits by others; writers take turns. Its calls raise
    StoreUnavailableError for what may pass by itself, ConfigurationError for what a person must mend,
    and the library's own error for a batch that it refuses: the caller then halves the batch down to the bad row.
    """

    # What index.options may hold; `place.parsed` has them.
    options: ClassVar[type[Options]]
    capabilities: Mapping[str, Capability]
    # Rows beyond them never reach the store: they are set aside, each with its reason.
    limits: Limits

    def manifest(self) -> Manifest | None:
        """What the index equals, or None where there is no index, or one that was never committed."""

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        """Insert or replace by id; the same rows twice leave the index as once. Ids are distinct within a call.

        `are_new` says that the index has none of these ids, so that a store need not look for them. Only a first try
        may say so: a call that failed may have stored them.

        Returns:
            The ids that the store refused, with its reason; all others are stored. Empty for nearly all stores.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Delete by id; an id that is not there is no error."""

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        """Say what the index now equals, and show readers the writes since the last commit.

        Raises:
            RefusedError: the index no longer has the manifest `expected`, or one of a later fence.
        """

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        """All (chunk_id, row_hash) as last written, committed or not: what recovery compares."""

    def rows(self) -> Iterator[pa.RecordBatch]:
        """All rows that readers see, every column: what audits compare."""

    def search(self, vector: NDArray[np.float32], *, k: int, where: Filter | None = None) -> list[Hit]:
        """The k rows nearest by cosine that readers see and that pass `where`, best first."""

    def forget(self) -> str:
        """Drop every old state and compact, so that deleted rows leave the store's files. Returns what remains."""

    def drop(self) -> None:
        """Remove the index with its manifest."""

    def close(self) -> None:
        """Let go of connections and files."""


def open_store(settings: Settings, *, dimension: int, name: str | None = None) -> Store:
    """The index `name` (the settings' own where None) in the store that the settings name.

    Nothing is created before the first write.

    Raises:
        ConfigurationError: an unknown store, or an option that it does not take.
    """
    index = settings.index
    adapter = adapter_named(index.store)
    secret = index.secret.get_secret_value() if index.secret else None
    options = parse_options(index.store, index.options, model=adapter.options)
    store: Store = adapter(Place(settings.index_uri, name or index.name, dimension, secret, options))
    return store


def adapter_named(store: str) -> Any:
    """The adapter's class. Raises ConfigurationError for an unknown store."""
    if store not in STORES:
        raise ConfigurationError.unknown_name("store", store, STORES)
    module, cls = STORES[store].split(":")
    return getattr(import_module(module), cls)


def damaged_index(place: Path | str, error: Exception) -> DamagedTableError:
    """An error for an index on disk that lacks a file or cannot be read."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return DamagedTableError(
        f"the index at {place} is damaged: a file is missing or cannot be read ({said}). Nothing was changed. All that "
        "it held is in gold.chunk_index: put the folder back from a copy, or remove it, and run: lakeloop sync-index"
    )


def check_query(vector: NDArray[np.float32], *, dimension: int, where: Filter | None) -> None:
    """Raises ConfigurationError for a vector of another dimension or without a direction, and for a bad filter.

    Of NaN, infinity or zeros each store would make something else: an error, no hits, any hits.
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
    """What `commit` demands before it moves the manifest. Raises RefusedError."""
    if held != expected or (held is not None and held.fence > new.fence):
        raise RefusedError(
            f"another sync moved the index meanwhile: it is at {_brief(held)}, this one began from {_brief(expected)} "
            "and was not committed. Run it again."
        )


def _brief(manifest: Manifest | None) -> str:
    return "nothing" if manifest is None else f"version {manifest.version} (lease {manifest.fence})"
