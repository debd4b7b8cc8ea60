"""Ids, texts, vectors and sources in; one LanceDB table out: the sink of a peer without an upsert of its own.

LangChain's and LlamaIndex's own LanceDB adapters append, so that whatever is written twice is there twice. What both
ask of a store is an upsert by id; this is one, by `merge_insert`, one commit a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from benchmarks.sync.embedder import DIMENSION
from benchmarks.sync.peer import TABLE

_DELETES_PER_CALL = 1000


class Sink:
    """The table, made with its first rows."""

    def __init__(self, uri: str) -> None:
        self._database = lancedb.connect(uri)
        names = self._database.list_tables().tables
        self._table = self._database.open_table(TABLE) if TABLE in names else None

    def upsert(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        vectors: Any,
        *,
        documents: Sequence[str],
        metadata: Sequence[str],
    ) -> None:
        """Insert or replace by id. `vectors` is float32 [n, 384], or n lists of 384 floats."""
        matrix = np.asarray(vectors, dtype=np.float32)
        rows = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "text": pa.array(texts, pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), DIMENSION),
                "document": pa.array(documents, pa.string()),
                "metadata": pa.array(metadata, pa.string()),
            }
        )
        if self._table is None:
            self._table = self._database.create_table(TABLE, rows)
        else:
            self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, ids: Sequence[str]) -> None:
        self._delete("id", ids)

    def delete_document(self, document: str) -> None:
        self._delete("document", [document])

    def _delete(self, column: str, values: Sequence[str]) -> None:
        for start in range(0, len(values), _DELETES_PER_CALL):
            quoted = ", ".join("'" + v.replace("'", "''") + "'" for v in values[start : start + _DELETES_PER_CALL])
            if self._table is not None:
                self._table.delete(f"{column} IN ({quoted})")
