"""Rows in, a Lance dataset out; readers see the version that the tag `served` names, so whole states only.

Every call is one version of the dataset, atomic by itself. The manifest is part of the dataset's configuration; the
tag moves to the version that carries it, as the last act of a sync. A crash before that leaves readers where they were,
and the next sync writes the same rows again.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.schemas import TABLES
from pipelines.stores import Hit, Manifest, check_filter
from transformations.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TAG = "served"
_MANIFEST_KEY = "lakeloop.manifest"
_HIT_COLUMNS = ["chunk_id", "document_id", "path", "title", "heading_path", "text"]
_DELETES_PER_CALL = 1000
_FRAGMENTS_BEFORE_COMPACTION = 32
# Readers that opened an older version may go on with it for so long.
_KEEP_VERSIONS_FOR = timedelta(hours=1)


class LanceStore:
    """One dataset at `uri`."""

    has_atomic_commit = True

    def __init__(self, uri: str, *, dimension: int) -> None:
        self._uri = uri
        self._dimension = dimension

    def manifest(self) -> Manifest | None:
        dataset = self._open_served()
        text = None if dataset is None else dataset.config().get(_MANIFEST_KEY)
        return None if text is None else Manifest.from_json(text)

    def upsert(self, rows: pa.Table) -> None:
        if rows.num_rows == 0:
            return
        dataset = self._open_latest() or self._create()
        merge = dataset.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(rows.select(self._schema.names).cast(self._schema))

    def delete(self, ids: Sequence[str]) -> None:
        dataset = self._open_latest()
        if dataset is None:
            return
        for start in range(0, len(ids), _DELETES_PER_CALL):
            dataset.delete(f"chunk_id IN ({', '.join(map(_literal, ids[start : start + _DELETES_PER_CALL]))})")

    def commit(self, manifest: Manifest) -> None:
        dataset = self._open_latest() or self._create()
        if len(dataset.get_fragments()) > _FRAGMENTS_BEFORE_COMPACTION:
            dataset.optimize.compact_files()
        dataset.update_config({_MANIFEST_KEY: manifest.to_json()})
        if _TAG in dataset.tags.list():
            dataset.tags.update(_TAG, dataset.version)
        else:
            dataset.tags.create(_TAG, dataset.version)
        dataset.cleanup_old_versions(older_than=_KEEP_VERSIONS_FOR, error_if_tagged_old_versions=False)

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        dataset = self._open_latest()
        if dataset is not None:
            yield from dataset.to_batches(columns=["chunk_id", "row_hash"])

    def rows(self) -> Iterator[pa.RecordBatch]:
        dataset = self._open_served()
        if dataset is not None:
            yield from dataset.to_batches()

    def search(self, vector: NDArray[np.float32], *, k: int, where: Mapping[str, str] | None = None) -> list[Hit]:
        check_filter(where or {})
        if vector.shape != (self._dimension,):
            raise ConfigurationError(
                f"the query's vector has shape {vector.shape}, the index holds ({self._dimension},)"
            )
        dataset = self._open_served()
        if dataset is None:
            return []
        found = dataset.to_table(
            columns=[*_HIT_COLUMNS, "_distance"],
            nearest={"column": "vector", "q": vector, "k": k, "metric": "cosine"},
            filter=" AND ".join(f"{column} = {_literal(value)}" for column, value in (where or {}).items()) or None,
            prefilter=True,
        )
        return [
            Hit(
                **{**{c: row[c] for c in _HIT_COLUMNS}, "heading_path": tuple(row["heading_path"])},
                score=1 - row["_distance"],
            )
            for row in found.to_pylist()
        ]

    def drop(self) -> None:
        if "://" in self._uri:
            dataset = self._open_latest()
            if dataset is not None:
                dataset.drop(self._uri)
        else:
            shutil.rmtree(self._uri, ignore_errors=True)

    @property
    def _schema(self) -> pa.Schema:
        vector = pa.field("vector", pa.list_(pa.float32(), self._dimension))
        schema = TABLES["gold.chunk_index"].schema
        return schema.set(schema.get_field_index("vector"), vector)

    def _create(self) -> Any:
        return _lance().write_dataset(self._schema.empty_table(), self._uri, mode="create")

    def _open_latest(self) -> Any | None:
        return self._open(None)

    def _open_served(self) -> Any | None:
        return self._open(_TAG)

    def _open(self, version: str | None) -> Any | None:
        try:
            dataset = _lance().dataset(self._uri)
        except ValueError as error:
            if "not found" in str(error).lower():
                return None
            raise
        if version is None:
            return dataset
        return dataset.checkout_version(version) if version in dataset.tags.list() else None


def _literal(value: str) -> str:
    """A SQL string literal: the only character with a meaning inside one is the quote."""
    return "'" + value.replace("'", "''") + "'"


def _lance() -> Any:
    try:
        import lance
    except ImportError:
        raise MissingDependencyError.for_extra("pylance", "lance") from None
    # It warns at every fork; ours start another program at once (Java), which is safe.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    return lance
