"""The store for Milvus: a collection of Milvus Lite in a folder, or of a Milvus server, used by the same calls.

`index.uri` is a folder, which then holds `milvus.db`, or an address like http://localhost:19530, with `index.secret` as
the server's token. The use of a server is tested with the server of Milvus Lite; a Milvus cluster has not been tried.

The manifest is a property of the collection, so both are dropped and restored together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.stores import Hit, Manifest, check_query, check_succession
from pipelines.stores.capabilities import declare, never, notimpl, notyet, yes
from pipelines.stores.milvus_server import Server, pymilvus
from pipelines.stores.place import Options, Place, PositiveSeconds
from transformations.index.vectors import MAX_ID_LENGTH, Limits
from transformations.tables.filters import And, Filter, In, Not

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SCHEMA = INDEX_SCHEMA
_MANIFEST_KEY = "lakeloop.manifest"
_HIT_COLUMNS = ["chunk_id", "document_id", "path", "title", "heading_path", "text"]
_ROWS_PER_CALL = 1000
# The longest text that Milvus takes; it refuses a row with a longer one.
_MAX_TEXT_BYTES = 65535
_MAX_HEADINGS = 64

_BOTH = {
    "atomic_commit": notyet("Milvus has no transaction over several calls: readers see each batch as it is written"),
    "compare_and_set": notyet("the manifest is read, compared, then written; the lease keeps a second writer away"),
    "filters": yes("values are quoted and escaped, as Milvus Lite knows no parameters"),
    "approximate_search": notimpl("every search is exact (FLAT); Milvus's HNSW is not used yet"),
}
_LITE = declare(
    **_BOTH,
    several_writers=notyet("Milvus Lite locks its files to one process"),
    other_processes=notyet("Milvus Lite locks its files to one process; `milvus-lite server` serves several"),
    object_storage=never("Milvus Lite keeps local files"),
    forgets_at_once=yes("all rows are copied into a new collection, the files of the old one are removed"),
)
_SERVER = declare(
    **_BOTH,
    several_writers=notimpl("Milvus allows it, Milvus Lite's server does not; not tried with a Milvus cluster"),
    other_processes=yes("tested with Milvus Lite's server; not tried with a Milvus cluster"),
    object_storage=notimpl("a Milvus cluster keeps its files there; not tried"),
    forgets_at_once=notyet("Milvus keeps the files that it has compacted until its garbage collection"),
)


class MilvusOptions(Options):
    timeout_seconds: PositiveSeconds = Field(60, description="how many seconds one call may take")


class MilvusStore:
    """One collection, `lakeloop_<name>`: a name in Milvus does not begin with a digit."""

    options: ClassVar[type[Options]] = MilvusOptions
    capabilities = _LITE
    limits = Limits(text_bytes=_MAX_TEXT_BYTES, id_bytes=MAX_ID_LENGTH, headings=_MAX_HEADINGS)

    def __init__(self, place: Place) -> None:
        options = place.parsed(MilvusOptions)
        self._server = Server(place.uri, token=place.secret, timeout=options.timeout_seconds)
        if self._server.file is None:
            self.capabilities = _SERVER
        self._name = f"lakeloop_{place.name}"
        self._dimension = place.dimension
        self._loaded = False

    def manifest(self) -> Manifest | None:
        text = self._properties().get(_MANIFEST_KEY) if self._exists() else None
        return None if text is None else Manifest.from_json(text)

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        if rows.num_rows:
            self._create_if_missing()
        for batch in rows.select(_SCHEMA.names).to_batches(max_chunksize=_ROWS_PER_CALL):
            self._call("upsert", data=batch.to_pylist())
        return {}

    def delete(self, ids: Sequence[str]) -> None:
        if not self._exists():
            return
        for start in range(0, len(ids), _ROWS_PER_CALL):
            self._call("delete", filter=_expression(In("chunk_id", tuple(ids[start : start + _ROWS_PER_CALL]))))

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        self._create_if_missing()
        check_succession(self.manifest(), expected=expected, new=manifest)
        # Until a flush Milvus Lite has the rows in a log that is not synced to the disk, and searches scan them.
        self._call("flush")
        self._call("alter_collection_properties", properties={_MANIFEST_KEY: manifest.to_json()})

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        return self._batches(["chunk_id", "row_hash"])

    def rows(self) -> Iterator[pa.RecordBatch]:
        return self._batches(_SCHEMA.names)

    def search(self, vector: NDArray[np.float32], *, k: int, where: Filter | None = None) -> list[Hit]:
        check_query(vector, dimension=self._dimension, where=where)
        if not self._exists():
            return []
        self._load()
        (hits,) = self._call(
            "search",
            data=[vector.tolist()],
            anns_field="vector",
            search_params={"metric_type": "COSINE"},
            limit=k,
            filter="" if where is None else _expression(where),
            output_fields=_HIT_COLUMNS,
        )
        return [
            Hit(
                **{**{c: hit["entity"][c] for c in _HIT_COLUMNS}, "heading_path": tuple(hit["entity"]["heading_path"])},
                score=hit["distance"],
            )
            for hit in hits
        ]

    def forget(self) -> str:
        if not self._exists():
            return "nothing: there is no index"
        self._call("flush")
        if self._server.file is None:
            self._call("compact")
            return "deleted rows, in files that Milvus has compacted, until its garbage collection removes them"
        # Milvus Lite cannot be asked to compact. If the process is stopped between dropping the old collection and
        # renaming the copy, rows and manifest are lost together, and the next sync fills the index again.
        copy = f"forgetting_{self._name}"
        self._call("drop_collection", on=copy)
        self._create(copy, properties=self._properties())
        for rows in self._pages(_SCHEMA.names):
            self._call("insert", on=copy, data=rows)
        self._call("flush", on=copy)
        self._call("drop_collection")
        self._call("rename_collection", on=copy, new_name=self._name)
        self._call("load_collection")
        return "nothing: all rows were copied, and the files they were in are removed"

    def drop(self) -> None:
        if self._exists():
            self._call("drop_collection")

    def close(self) -> None:
        self._server.close()
        self._loaded = False

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([_SCHEMA.field(column) for column in columns])
        if self._exists():
            for rows in self._pages(columns):
                yield pa.RecordBatch.from_pylist(rows, schema=schema)

    def _pages(self, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        self._load()
        pages = self._call("query_iterator", batch_size=_ROWS_PER_CALL, output_fields=list(columns))
        try:
            while True:
                with self._server.errors():
                    rows = pages.next()
                if not rows:
                    return
                yield [dict(row) for row in rows]
        finally:
            pages.close()

    def _exists(self) -> bool:
        # Looking must not create Milvus Lite's file.
        if self._server.file is not None and not self._server.file.exists():
            return False
        return bool(self._call("has_collection"))

    def _properties(self) -> dict[str, str]:
        return dict(self._call("describe_collection")["properties"])

    def _load(self) -> None:
        """Load the collection: Milvus searches and reads only what is loaded, and Milvus Lite starts with nothing."""
        if not self._loaded:
            self._call("load_collection")
            self._loaded = True

    def _create_if_missing(self) -> None:
        if not self._call("has_collection"):
            self._create(self._name, properties={})

    def _create(self, name: str, *, properties: Mapping[str, str]) -> None:
        client, kinds = pymilvus().MilvusClient, pymilvus().DataType
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        text = {"max_length": _MAX_TEXT_BYTES}
        for column in _SCHEMA.names:
            if column == "chunk_id":
                schema.add_field(column, kinds.VARCHAR, is_primary=True, max_length=MAX_ID_LENGTH)
            elif column == "vector":
                schema.add_field(column, kinds.FLOAT_VECTOR, dim=self._dimension)
            elif column == "heading_path":
                schema.add_field(column, kinds.ARRAY, element_type=kinds.VARCHAR, max_capacity=_MAX_HEADINGS, **text)
            else:
                schema.add_field(column, kinds.VARCHAR, nullable=column == "title", **text)
        index = client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        self._call("create_collection", on=name, schema=schema, consistency_level="Strong", properties=dict(properties))
        # There is nothing to wait for: a FLAT index is only the vectors.
        self._call("create_index", on=name, index_params=index, sync=False)
        self._call("load_collection", on=name)

    def _call(self, method: str, *, on: str | None = None, **arguments: Any) -> Any:
        return self._server.call(method, on or self._name, **arguments)


def _expression(where: Filter) -> str:
    """The filter as an expression of Milvus. Columns are known names, values are literals."""
    if isinstance(where, In):
        return f"{where.column} in [{', '.join(map(_literal, where.values))}]"
    if isinstance(where, Not):
        return f"not ({_expression(where.part)})"
    return (" and " if isinstance(where, And) else " or ").join(f"({_expression(part)})" for part in where.parts)


# Characters that must be escaped between double quotes.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def _literal(value: str) -> str:
    return f'"{value.translate(_ESCAPES)}"'
