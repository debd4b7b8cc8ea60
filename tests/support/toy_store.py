"""A store as a contributor would begin one: an index is one Parquet file with its manifest, replaced as a whole."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.stores import Hit, Manifest, check_query, check_succession
from pipelines.stores.capabilities import declare, never, yes
from pipelines.stores.place import Options, Place
from transformations.index.vectors import Limits
from transformations.tables.filters import matches

_NO = never("one file, written by one process")


class ToyStore:
    options, limits = Options, Limits()
    capabilities = declare(
        atomic_commit=yes(), filters=yes(), other_processes=yes(), forgets_at_once=yes(),
        compare_and_set=_NO, several_writers=_NO, approximate_search=_NO, object_storage=_NO,
    )  # fmt: skip

    def __init__(self, place: Place) -> None:
        self.dimension, self.file = place.dimension, Path(place.uri) / f"{place.name}.parquet"
        self.held, self.of = self._read()

    def _read(self):
        table = pq.read_table(self.file) if self.file.exists() else INDEX_SCHEMA.empty_table()
        told = (table.schema.metadata or {}).get(b"manifest")
        return {row["chunk_id"]: row for row in table.to_pylist()}, told and Manifest.from_json(told.decode())

    def manifest(self):
        return self._read()[1]

    def upsert(self, rows, *, are_new=False):
        self.held |= {row["chunk_id"]: row for row in rows.to_pylist()}
        return {}

    def delete(self, ids):
        self.held = {key: row for key, row in self.held.items() if key not in set(ids)}

    def commit(self, manifest, *, expected):
        check_succession(self.manifest(), expected=expected, new=manifest)
        table = pa.Table.from_pylist([*self.held.values()], schema=INDEX_SCHEMA)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({"manifest": manifest.to_json()}), f"{self.file}.new")
        os.replace(f"{self.file}.new", self.file)

    def ids_with_hashes(self):
        yield from pa.Table.from_pylist([*self.held.values()], schema=INDEX_SCHEMA).to_batches()

    def rows(self):
        yield from pa.Table.from_pylist([*self._read()[0].values()], schema=INDEX_SCHEMA).to_batches()

    def search(self, vector, *, k, where=None):
        check_query(vector, dimension=self.dimension, where=where)
        rows = [row for row in self._read()[0].values() if where is None or matches(row, where)]
        scores = [float(np.dot(vector, row["vector"]) / np.linalg.norm(vector)) for row in rows]
        best = sorted(zip(scores, rows, strict=True), key=lambda pair: -pair[0])[:k]
        fields = ("chunk_id", "document_id", "path", "title")
        return [Hit(*(row[f] for f in fields), tuple(row["heading_path"]), row["text"], score) for score, row in best]

    def forget(self):
        return "nothing"

    def drop(self):
        self.file.unlink(missing_ok=True)

    def close(self):
        pass
