"""The stores for Databricks AI Search (formerly Vector Search): one that we write, one that reads the table itself.

The uri is `databricks://<endpoint>/<catalog>.<schema>`, the token is `index.secret`. They were tested with a double
that was written from the documentation, never with the service.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.stores import Hit, Manifest, StoreUnavailableError, check_query, check_succession
from pipelines.stores.capabilities import declare, never, notyet, yes
from pipelines.stores.databricks_client import Connection, DatabricksOptions, ai_search
from pipelines.stores.databricks_filters import to_dictionaries
from pipelines.stores.databricks_rows import failed_keys, from_scan, query, to_hit, to_input
from pipelines.stores.place import Options, Place
from transformations.errors import ConfigurationError, LakeloopError
from transformations.index.vectors import ANYTHING, Limits, matrix_of
from transformations.tables.filters import Filter, matches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.stores.databricks_filters import Dictionary

_SCHEMA = INDEX_SCHEMA
_HASHES = pa.schema([_SCHEMA.field("chunk_id"), _SCHEMA.field("row_hash")])
_MANIFEST_ID = "lakeloop:manifest"
_ROWS_PER_SCAN = 250
_IDS_PER_DELETE = 10_000
# A request may have 10 MB. A number takes some 22 bytes of JSON, and all texts of a row together far fewer than 20,000.
_BYTES_PER_REQUEST, _BYTES_PER_NUMBER, _BYTES_OF_TEXTS = 8_000_000, 22, 20_000
# States of a Delta Sync index in which no update runs.
_AT_REST = ("ONLINE", "ONLINE_NO_PENDING_UPDATE", "ONLINE_PIPELINE_FAILED", "OFFLINE_FAILED")
_MODEL_LABEL = re.compile(r"(?P<model>.+?)@(?P<revision>[^/]*)/(?P<dimension>\d+)(?:\+(?P<instruction>.*))?", re.DOTALL)
_COMMON = {
    "other_processes": yes(),
    "filters": yes("alternatives are a query each; standard endpoints only, storage-optimized ones read another form"),
    "approximate_search": yes("the service's HNSW, up to 10,000 rows; nobody can ask it for an exact search"),
    "object_storage": never("the service holds its files itself"),
    "forgets_at_once": never("the service compacts when it likes"),
}


class _AiSearchStore:
    """The part that both kinds of index share, which is reading."""

    options: ClassVar[type[Options]] = DatabricksOptions

    def __init__(self, place: Place) -> None:
        self._dimension = place.dimension
        self._connection = Connection(place)

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        for rows in self._scan():
            yield pa.RecordBatch.from_pylist([{c: row[c] for c in _HASHES.names} for row in rows], schema=_HASHES)

    def rows(self) -> Iterator[pa.RecordBatch]:
        for rows in self._scan():
            yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    def search(self, vector: NDArray[np.float32], *, k: int, where: Filter | None = None) -> list[Hit]:
        check_query(vector, dimension=self._dimension, where=where)
        index = self._connection.index()
        if index is None:
            return []
        found: dict[str, Hit] = {}
        for dictionary in [None] if where is None else to_dictionaries(where):
            # One hit more, since the manifest's row may be among them.
            for row in self._query(index, vector / np.linalg.norm(vector), k=k + 1, filters=dictionary):
                if row["chunk_id"] == _MANIFEST_ID:
                    continue
                if where is not None and not matches(row, where):
                    raise LakeloopError(f"Databricks answered {dictionary} with a row that it excludes: {row}")
                found[row["chunk_id"]] = to_hit(row)
        return sorted(found.values(), key=lambda hit: -hit.score)[:k]

    def forget(self) -> str:
        return "Databricks does not say when deleted rows leave its storage; drop removes the index with all of them"

    def drop(self) -> None:
        self._connection.drop()

    def close(self) -> None:
        self._connection.close()

    def _query(
        self, index: Any, vector: NDArray[np.float32], *, k: int, filters: Dictionary | None
    ) -> list[dict[str, Any]]:
        if filters is not None and not self._connection.is_standard:
            raise ConfigurationError(
                f"the endpoint {self._connection.endpoint!r} is storage-optimized: its filters have a form that "
                "lakeloop does not write. Name a standard endpoint in index.uri, or search without a filter."
            )
        return query(index, vector, k=k, filters=filters)

    def _scan(self) -> Iterator[list[dict[str, Any]]]:
        index, last = self._connection.index(), ""
        while index is not None and last is not None:
            page = index.scan(num_results=_ROWS_PER_SCAN, last_primary_key=last)
            rows = from_scan(page)
            if not rows:
                return
            yield [row for row in rows if row["chunk_id"] != _MANIFEST_ID]
            last = page.get("last_primary_key")


class DirectAccessStore(_AiSearchStore):
    """A Direct Access index. The manifest is a row of its own, which readers do not see."""

    capabilities = declare(
        **_COMMON,
        atomic_commit=notyet("rows are visible as they are written; new before old, so a document is never missing"),
        compare_and_set=notyet("the API has no conditional write: the manifest is read, compared, then written"),
        several_writers=yes("rows are written by primary key"),
    )
    # According to the documentation; this was not tried with the service.
    limits = Limits(row_bytes=100_000, unit_vectors=True)
    _ready: Any = None

    def manifest(self) -> Manifest | None:
        index = self._connection.index()
        if index is None:
            return None
        found = self._query(index, self._manifest_vector, k=1, filters={"chunk_id": _MANIFEST_ID})
        return Manifest.from_json(found[0]["text"]) if found else None

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        if not rows.num_rows:
            return {}
        index = self._ready_index()
        vectors = matrix_of(rows["vector"], dimension=self._dimension)
        inputs = [to_input(row, v) for row, v in zip(rows.drop_columns("vector").to_pylist(), vectors, strict=True)]
        refused: dict[str, str] = {}
        step = max(1, _BYTES_PER_REQUEST // (_BYTES_PER_NUMBER * self._dimension + _BYTES_OF_TEXTS))
        for start in range(0, len(inputs), step):
            failed = failed_keys(index.upsert(inputs[start : start + step]))
            refused |= dict.fromkeys(failed, "Databricks refused the row and gave no reason")
        return refused

    def delete(self, ids: Sequence[str]) -> None:
        index = self._connection.index()
        if index is None:
            return
        for start in range(0, len(ids), _IDS_PER_DELETE):
            failed = failed_keys(index.delete(list(ids[start : start + _IDS_PER_DELETE])))
            if failed:
                raise StoreUnavailableError(f"Databricks did not delete {len(failed)} rows, among them {failed[0]}")

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        index = self._ready_index()
        check_succession(self.manifest(), expected=expected, new=manifest)
        row = dict.fromkeys(_SCHEMA.names, "") | {
            "chunk_id": _MANIFEST_ID,
            "heading_path": [],
            "text": manifest.to_json(),
        }
        if failed_keys(index.upsert([to_input(row, self._manifest_vector)])):
            raise StoreUnavailableError("Databricks did not store the index's manifest: nothing was committed")

    @property
    def _manifest_vector(self) -> NDArray[np.float32]:
        vector = np.zeros(self._dimension, dtype=np.float32)
        vector[0] = 1
        return vector

    def _ready_index(self) -> Any:
        index = self._connection.index() or self._connection.create(
            "direct_access",
            primary_key="chunk_id",
            embedding_dimension=self._dimension,
            embedding_vector_column="vector",
            # The documented types have no lists other than the vector.
            schema=dict.fromkeys(_SCHEMA.names, "string") | {"vector": "array<float>"},
        )
        if index is not self._ready:
            self._connection.wait_until(
                lambda: index.describe()["status"].get("ready", False), what="is not ready to be written to"
            )
            self._ready = index
        return index


class DeltaSyncStore(_AiSearchStore):
    """A Delta Sync index over gold.chunk_index: Databricks reads the table itself; a commit starts this and waits.

    In its manifest the table's identity and the fingerprint are empty, since the service does not know them.
    """

    capabilities = declare(
        **_COMMON,
        atomic_commit=notyet("it is not documented what readers see while an update runs"),
        compare_and_set=never("only Databricks moves the index, to the table's newest version"),
        several_writers=never("only Databricks writes to the index"),
    )
    limits = ANYTHING

    def manifest(self) -> Manifest | None:
        index = self._connection.index()
        if index is None:
            return None
        description = index.describe()
        version = _version(description["status"])
        if version is None:
            return None
        rows = from_scan(index.scan(num_results=1))
        label = _MODEL_LABEL.fullmatch(rows[0]["model"]) if rows else None
        return Manifest(
            source_table=description["delta_sync_index_spec"]["source_table"],
            source_id="",
            version=version,
            fingerprint="",
            model=label["model"] if label else "",
            revision=label["revision"] if label else "",
            dimension=self._dimension,
            instruction=(label["instruction"] or "") if label else "",
            rows=int(description["status"].get("indexed_row_count", 0)),
        )

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        """Do nothing: Databricks reads the rows from the table."""
        return {}

    def delete(self, ids: Sequence[str]) -> None:
        """Do nothing: Databricks reads the deletes from the table."""

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        """Let Databricks read the table, and wait until the index is at the manifest's version or a later one."""
        check_succession(self.manifest(), expected=expected, new=manifest)
        index = self._connection.index() or self._connection.create(
            "delta_sync",
            primary_key="chunk_id",
            source_table_name=self._connection.source_table or f"{self._connection.catalog}.{manifest.source_table}",
            pipeline_type="TRIGGERED",
            embedding_dimension=self._dimension,
            embedding_vector_column="vector",
            columns_to_sync=_SCHEMA.names,
        )
        was_busy, asked = True, False

        def has_caught_up() -> bool:
            nonlocal was_busy, asked
            status = index.describe()["status"]
            version = _version(status)
            if version is not None and version >= manifest.version:
                return True
            state = status.get("detailed_state", "")
            is_busy = state not in _AT_REST
            if was_busy and not is_busy:
                if asked and "FAILED" in state:
                    raise ConfigurationError(
                        f"Databricks could not sync the index {self._connection.index_name}: {status.get('message')}"
                    )
                # Ask again if an update has ended that began before the version existed.
                with suppress(ai_search("exceptions").ResourceConflict):
                    index.sync()
                asked = True
            was_busy = is_busy
            return False

        self._connection.wait_until(has_caught_up, what=f"is not at version {manifest.version} of its table")


def _version(status: Mapping[str, Any]) -> int | None:
    """The version of the source table that the index has read; None if it has read none."""
    version = (status.get("triggered_update_status") or {}).get("last_processed_commit_version")
    return None if version is None else int(version)
