"""The store for PostgreSQL with pgvector: a table. Writes are visible at once; the manifest moves in one transaction.

The uri is `postgresql://user@host:port/database`, the password is `index.secret`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.stores import Hit, Manifest, check_query, check_succession
from pipelines.stores.capabilities import declare, never, notimpl, yes
from pipelines.stores.pgvector_server import Server, psycopg
from pipelines.stores.place import Options, Place
from transformations.errors import ConfigurationError
from transformations.index.vectors import Limits, matrix_of
from transformations.tables.filters import And, Filter, In, Not

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from psycopg import Connection
    from psycopg.sql import Composed

_SCHEMA = INDEX_SCHEMA
_TYPES = dict.fromkeys(_SCHEMA.names, "text") | {"heading_path": "text[]", "vector": "vector"}
_HIT_COLUMNS = ("chunk_id", "document_id", "path", "title", "heading_path", "text")
_UNSAMPLED = ("title", "heading_path", "text", "vector")
_LARGEST_HNSW = 2000
_ROWS_PER_PAGE = 2000


class PgvectorOptions(Options):
    hnsw: Literal["true", "false"] = Field(
        "false", description="whether an approximate index is kept, made at the next commit; else every search is exact"
    )


class PgvectorStore:
    """One table, `lakeloop_<name>`; the manifests of all indexes are rows of `lakeloop_manifests`."""

    options: ClassVar[type[Options]] = PgvectorOptions
    capabilities = declare(
        atomic_commit=notimpl("rows are visible as they are written; new before old, so a document is never missing"),
        compare_and_set=yes("the manifest's row is locked, compared and written in one transaction"),
        several_writers=yes("rows of one call are one transaction; the order of their ids keeps writers from deadlock"),
        other_processes=yes(),
        filters=yes(),
        approximate_search=yes("HNSW with the option hnsw, else exact; a filter makes it scan on until k rows pass"),
        object_storage=never("the server holds its files itself"),
        forgets_at_once=never("the write-ahead log, replicas and backups keep the text until the server recycles them"),
    )

    # A text in PostgreSQL cannot hold U+0000, and no field can be larger than 1 GB.
    limits = Limits(nul=False, row_bytes=1_000_000_000)

    def __init__(self, place: Place) -> None:
        self._name, self._dimension = place.name, place.dimension
        self._hnsw = place.parsed(PgvectorOptions).hnsw == "true"
        if self._hnsw and place.dimension > _LARGEST_HNSW:
            raise ConfigurationError(
                f"pgvector's HNSW takes up to {_LARGEST_HNSW} dimensions, the model has {place.dimension}: leave out "
                "index.options.hnsw, then every search is exact"
            )
        self._server = Server(place.uri, secret=place.secret, hnsw=self._hnsw)
        if place.name == "manifests":
            raise ConfigurationError(
                "an index in PostgreSQL cannot be called 'manifests': name another with index.name"
            )

    def manifest(self) -> Manifest | None:
        found = self._read(
            "SELECT manifest FROM lakeloop_manifests WHERE index_name = %s AND to_regclass(%s) IS NOT NULL",
            (self._name, f'"lakeloop_{self._name}"'),
        )
        return Manifest.from_json(found[0][0]) if found and found[0][0] else None

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        if not rows.num_rows:
            return {}
        with self._writing() as connection, connection.cursor() as cursor:
            cursor.execute(self._sql("CREATE TEMP TABLE staged (LIKE {table}) ON COMMIT DROP"))
            with cursor.copy(self._sql("COPY staged ({columns}) FROM STDIN (FORMAT BINARY)")) as copy:
                copy.set_types(list(_TYPES.values()))
                for row in _tuples(rows, dimension=self._dimension):
                    copy.write_row(row)
            cursor.execute(
                self._sql(
                    "INSERT INTO {table} ({columns}) SELECT {columns} FROM staged ORDER BY chunk_id "
                    "ON CONFLICT (chunk_id) DO UPDATE SET ({columns}) = ROW (EXCLUDED.*)"
                )
            )
        return {}

    def delete(self, ids: Sequence[str]) -> None:
        if ids and self._exists():
            with self._writing() as connection:
                connection.execute(self._sql("DELETE FROM {table} WHERE chunk_id = ANY(%s)"), (list(ids),))

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        with self._writing() as connection:
            index = "CREATE INDEX IF NOT EXISTS {hnsw} ON {table} USING hnsw (vector vector_cosine_ops)"
            connection.execute(self._sql(index if self._hnsw else "DROP INDEX IF EXISTS {hnsw}"))
        with self._writing() as connection:
            # If there are two first commits, the second waits here, and then sees what the first one wrote.
            connection.execute(
                "INSERT INTO lakeloop_manifests (index_name) VALUES (%s) ON CONFLICT DO NOTHING", (self._name,)
            )
            held = connection.execute(
                "SELECT manifest FROM lakeloop_manifests WHERE index_name = %s FOR UPDATE", (self._name,)
            ).fetchone()
            assert held is not None
            check_succession(Manifest.from_json(held[0]) if held[0] else None, expected=expected, new=manifest)
            connection.execute(
                "UPDATE lakeloop_manifests SET manifest = %s WHERE index_name = %s", (manifest.to_json(), self._name)
            )

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        yield from self._pages("chunk_id, row_hash", pa.schema([_SCHEMA.field("chunk_id"), _SCHEMA.field("row_hash")]))

    def rows(self) -> Iterator[pa.RecordBatch]:
        columns = ("vector::real[]" if name == "vector" else name for name in _SCHEMA.names)
        yield from self._pages(", ".join(columns), _SCHEMA)

    def search(self, vector: NDArray[np.float32], *, k: int, where: Filter | None = None) -> list[Hit]:
        check_query(vector, dimension=self._dimension, where=where)
        condition, values = ("true", []) if where is None else _condition(where)
        found = self._read(
            f"SELECT {', '.join(_HIT_COLUMNS)}, 1 - (vector <=> %s) FROM {{table}} WHERE {condition} "  # noqa: S608
            "ORDER BY vector <=> %s LIMIT %s",
            (vector, *values, vector, k),
        )
        return [
            Hit(**dict(zip(_HIT_COLUMNS, row[:-1], strict=True)) | {"heading_path": tuple(row[4])}, score=row[-1])
            for row in found
        ]

    def forget(self) -> str:
        if self._exists():
            with self._server.errors(), self._server.lane() as lane:
                # Also ANALYZE, since the planner's statistics hold samples of the other columns.
                lane.connection.execute(self._sql("VACUUM (FULL, ANALYZE) {table}"))
                with suppress(psycopg().errors.InsufficientPrivilege):  # then the server's own checkpoint does it
                    lane.connection.execute("CHECKPOINT")
        return (
            "the table's files are rewritten; PostgreSQL's write-ahead log keeps the text until its segments are "
            "recycled, the planner's statistics may keep a path for a while, replicas and backups are not touched"
        )

    def drop(self) -> None:
        if self._exists():
            with self._writing() as connection:
                connection.execute(self._sql("DROP TABLE {table}"))
                connection.execute("DELETE FROM lakeloop_manifests WHERE index_name = %s", (self._name,))

    def close(self) -> None:
        self._server.close()

    def _sql(self, text: str) -> Composed:
        """`text` with quoted names for its placeholders. The names of SQL indexes have a dot, which no table's has, so
        the two never collide."""
        sql = psycopg().sql
        composed: Composed = sql.SQL(text).format(
            table=sql.Identifier(f"lakeloop_{self._name}"),
            hnsw=sql.Identifier(f"lakeloop_{self._name}.hnsw"),
            key=sql.Identifier(f"lakeloop_{self._name}.key"),
            columns=sql.SQL(", ").join(map(sql.Identifier, _TYPES)),
        )
        return composed

    def _pages(self, columns: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Pages in the order of the key, with one query each, so that nothing stays open between two pages."""
        query, last = f"SELECT {columns} FROM {{table}} WHERE chunk_id > %s ORDER BY chunk_id LIMIT %s", ""  # noqa: S608
        while found := self._read(query, (last, _ROWS_PER_PAGE)):
            arrays = [pa.array(c, type=f.type) for c, f in zip(zip(*found, strict=True), schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            last = found[-1][0]

    def _read(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        """The rows that a query gives; none if there is no such table."""
        with self._server.errors(), self._server.lane() as lane:
            if not lane.has_vector:
                return []
            try:
                with lane.connection.cursor(binary=True) as cursor:
                    found: list[Any] = cursor.execute(self._sql(query), parameters).fetchall()
                    return found
            except psycopg().errors.UndefinedTable:
                return []

    def _exists(self) -> bool:
        with self._server.errors(), self._server.lane() as lane:
            found = lane.connection.execute("SELECT to_regclass(%s)", (f'"lakeloop_{self._name}"',)).fetchone()
        return found is not None and found[0] is not None

    @contextmanager
    def _writing(self) -> Iterator[Connection[Any]]:
        """One transaction; the table is created first if it does not exist."""
        if not self._exists():
            self._create()
        with self._server.errors(), self._server.lane() as lane, lane.connection.transaction():
            yield lane.connection

    def _create(self) -> None:
        columns = ", ".join(f"{name} {kind}" for name, kind in _TYPES.items())
        columns = columns.replace("chunk_id text", 'chunk_id text COLLATE "C" CONSTRAINT {key} PRIMARY KEY')
        columns = columns.replace("vector vector", f"vector vector({self._dimension}) NOT NULL")
        with self._server.errors(), self._server.lane() as lane:
            connection = lane.connection
            with connection.transaction():
                # Without this lock CREATE … IF NOT EXISTS fails if another connection does it at the same moment.
                connection.execute("SELECT pg_advisory_xact_lock(hashtext('lakeloop'))")
                self._server.create_extension(lane)
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS lakeloop_manifests (index_name text PRIMARY KEY, manifest text)"
                )
                if not self._exists():
                    connection.execute(self._sql(f"CREATE TABLE {{table}} ({columns})"))
                    # Otherwise the planner keeps samples of the texts in a table of its own, which forget cannot reach.
                    unsampled = ", ".join(f"ALTER {name} SET STATISTICS 0" for name in _UNSAMPLED)
                    connection.execute(self._sql(f"ALTER TABLE {{table}} {unsampled}"))
                    # The manifest of a table that someone dropped by hand.
                    connection.execute("DELETE FROM lakeloop_manifests WHERE index_name = %s", (self._name,))
            self._server.adopt_extension(lane)


def _tuples(rows: pa.Table, *, dimension: int) -> Iterator[tuple[Any, ...]]:
    vectors = matrix_of(rows["vector"], dimension=dimension)
    return zip(*(vectors if name == "vector" else rows[name].to_pylist() for name in _TYPES), strict=True)


def _condition(where: Filter) -> tuple[str, list[list[str]]]:
    """The filter as SQL with parameters, and their values. Columns are known names."""
    if isinstance(where, In):
        return f"{where.column} = ANY(%s)", [list(where.values)]
    if isinstance(where, Not):
        inside, values = _condition(where.part)
        return f"NOT ({inside})", values
    parts = [_condition(part) for part in where.parts]
    joined = (" AND " if isinstance(where, And) else " OR ").join(f"({text})" for text, _ in parts)
    return joined, [value for _, values in parts for value in values]
