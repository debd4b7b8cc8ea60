"""pgvector beyond the contract, on a real PostgreSQL: refusals, lost connections, writers at once, HNSW, what stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
import pytest

from pipelines.stores import StoreUnavailableError
from pipelines.stores.pgvector import PgvectorStore
from pipelines.stores.pgvector_server import Lane, Server
from tests.stores.holding import assert_finds, assert_holds, hashes, load
from tests.stores.rows import DIMENSION, manifest, place, row, table, vector
from transformations.errors import ConfigurationError, RefusedError
from transformations.tables.filters import equals

Open = Callable[..., PgvectorStore]


@pytest.fixture
def database(postgres_uri: str) -> Iterator[str]:
    """A database of the test's own."""
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE tried")
        yield postgres_uri.replace("/postgres?", "/tried?")
        connection.execute("DROP DATABASE tried WITH (FORCE)")


@pytest.fixture
def open_index(database: str) -> Iterator[Open]:
    opened: list[PgvectorStore] = []

    def make(uri: str = database, *, name: str = "chunks", **options: str) -> PgvectorStore:
        opened.append(PgvectorStore(place(PgvectorStore, uri, name=name, **options)))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.mark.parametrize(
    "uri", ["postgresql://me:hunter2@db.example/x", "postgresql://me@db.example/x?password=hunter2"]
)
def test_a_uri_with_a_password_is_refused_and_not_repeated(uri: str):
    with pytest.raises(ConfigurationError, match=r"holds a password.*index\.secret") as refused:
        PgvectorStore(place(PgvectorStore, uri))
    assert "hunter2" not in str(refused.value)


def test_what_cannot_be_is_refused_before_anything_is_connected():
    uri = "postgresql://me@db.example/x"
    with pytest.raises(ConfigurationError, match=r"must be like postgresql://.* begins with 'mysql'"):
        PgvectorStore(place(PgvectorStore, "mysql://me:hunter2@db.example/x"))
    with pytest.raises(ConfigurationError, match=r"unknown option of PgvectorStore 'hsnw'. Did you mean 'hnsw'"):
        PgvectorStore(place(PgvectorStore, uri, hsnw="true"))
    with pytest.raises(ConfigurationError, match="'true' or 'false'"):
        PgvectorStore(place(PgvectorStore, uri, hnsw="yes"))
    with pytest.raises(ConfigurationError, match="up to 2000 dimensions, the model has 3072"):
        PgvectorStore(place(PgvectorStore, uri, dimension=3072, hnsw="true"))
    with pytest.raises(ConfigurationError, match="cannot be called 'manifests'"):
        PgvectorStore(place(PgvectorStore, uri, name="manifests"))


def test_a_connection_given_back_while_the_store_is_being_closed_is_closed_too(monkeypatch: pytest.MonkeyPatch):
    server = Server("postgresql://me@db.example/x", secret=None, hnsw=False)
    connection = FakeConnection()
    monkeypatch.setattr(server, "_connect", lambda: Lane(connection, has_vector=True))  # type: ignore[arg-type]
    with server.lane():
        monkeypatch.setattr(server, "_lock", AfterClosing(server))
    assert server._idle == []
    assert connection.closed


class FakeConnection:
    closed = False

    def close(self) -> None:
        self.closed = True


class AfterClosing:
    """The server's lock, where another thread had it first: it closed the server."""

    def __init__(self, server: Server) -> None:
        self._server, self._lock, self._is_first = server, server._lock, True

    def __enter__(self) -> None:
        if self._is_first:
            self._is_first = False
            self._server.close()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_server_that_is_down_is_unavailable_and_a_wrong_name_is_a_setting_to_mend(open_index: Open, database: str):
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        open_index("postgresql://me@127.0.0.1:1/x").manifest()
    with pytest.raises(ConfigurationError, match="refuses us"):
        open_index(database.replace("postgres@", "nobody@")).manifest()
    with pytest.raises(ConfigurationError, match="refuses us"):
        open_index(database.replace("/tried?", "/absent?")).search(vector(0), k=1)


def test_a_broken_connection_is_unavailable_once_and_then_opened_again(open_index: Open, database: str):
    rows = [row(n) for n in range(10)]
    store = open_index()
    load(store, rows)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lakeloop'")
    with pytest.raises(StoreUnavailableError):
        store.upsert(table(rows))
    store.upsert(table(rows))
    assert_holds(store, rows)


def test_a_role_that_may_create_nothing_is_told_so(open_index: Open, database: str):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN")
    try:
        with pytest.raises(ConfigurationError, match=r"does not allow it.*Ask its administrator"):
            open_index(database.replace("postgres@", "reader@")).upsert(table([row(1)]))
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("DROP ROLE reader")


def test_an_extension_that_is_too_old_is_refused(open_index: Open, database: str):
    open_index().upsert(table([row(1)]))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
        assert hashes(open_index())
        with pytest.raises(ConfigurationError, match=r"0\.7\.4 is too old.*0\.8\.0"):
            open_index(hnsw="true").manifest()
        connection.execute("UPDATE pg_extension SET extversion = '0.4.4' WHERE extname = 'vector'")
        with pytest.raises(ConfigurationError, match="ALTER EXTENSION vector UPDATE"):
            open_index().manifest()


def test_a_batch_that_postgresql_cannot_store_fails_whole_and_leaves_the_connection_usable(open_index: Open):
    store = open_index()
    for bad in (row(2, text="a\0b"), row(2) | {"vector": np.full(DIMENSION, np.nan)}):
        with pytest.raises(psycopg.DataError):
            store.upsert(table([row(1), bad, row(3)]))
        assert hashes(store) == {}
    store.upsert(table([row(1)]))
    assert len(hashes(store)) == 1


def test_many_writers_may_begin_at_the_same_moment(open_index: Open):
    rows = [row(n) for n in range(40)]
    stores = [open_index() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        # Everyone writes every row, each in another order: neither the table nor a lock stands in the way.
        list(pool.map(lambda n: stores[n].upsert(table(rows[n * 5 :] + rows[: n * 5])), range(8)))
    store = open_index()
    store.commit(manifest(rows), expected=None)
    assert_holds(store, rows)


def test_of_two_first_commits_at_the_same_moment_one_wins(open_index: Open):
    stores = [open_index() for _ in range(4)]
    stores[0].upsert(table([row(1)]))

    def commit(number: int) -> str:
        try:
            stores[number].commit(manifest([row(1)], version=number), expected=None)
        except RefusedError:
            return "refused"
        return "committed"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(commit, range(4))) == ["committed", "refused", "refused", "refused"]


def test_a_commit_waits_for_another_one_and_then_compares(open_index: Open, database: str):
    first, second = manifest([row(1)], version=1), manifest([row(1)], version=2)
    store = open_index()
    load(store, [row(1)])
    with psycopg.connect(database) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT manifest FROM lakeloop_manifests FOR UPDATE")
        commit = pool.submit(store.commit, replace(second, version=3), expected=first)
        _wait_for_a_lock(database)
        other.execute("UPDATE lakeloop_manifests SET manifest = %s", (second.to_json(),))
        other.commit()
        with pytest.raises(RefusedError, match="version 2"):
            commit.result()


def test_rows_are_locked_in_the_order_of_their_ids(open_index: Open, database: str):
    low, high = sorted((row(1), row(2)), key=lambda r: r["chunk_id"])
    store = open_index()
    load(store, [high, low])
    touch = "UPDATE lakeloop_chunks SET title = 'touched' WHERE chunk_id = %s"
    with psycopg.connect(database) as other, ThreadPoolExecutor(1) as pool:
        other.execute(touch, (low["chunk_id"],))
        upsert = pool.submit(store.upsert, table([high, low]))
        _wait_for_a_lock(database)
        other.execute(touch, (high["chunk_id"],))
        other.commit()
        assert upsert.result() == {}
    assert_holds(store, [low, high])


def test_a_table_that_was_dropped_by_hand_takes_its_manifest_along(open_index: Open, database: str):
    load(open_index(), [row(1)])
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE lakeloop_chunks")
    assert open_index().manifest() is None
    open_index().upsert(table([row(1)]))
    assert open_index().manifest() is None


def test_hnsw_is_used_follows_its_option_and_finds_k_rows_behind_any_filter(open_index: Open, database: str):
    rows = [row(n, source="rare" if n % 500 == 0 else "common") for n in range(4000)]
    store = open_index(hnsw="true")
    load(store, rows)
    index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'lakeloop_chunks.hnsw'"
    used = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'lakeloop_chunks.hnsw'"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ANALYZE lakeloop_chunks")
        assert connection.execute(index).fetchone() == (1,)
        near = store.search(vector(7), k=10)
        assert near[0].chunk_id == rows[7]["chunk_id"]
        assert [hit.score for hit in near] == sorted((hit.score for hit in near), reverse=True)
        assert_finds(store, rows, vector(1), k=8, where=equals(source="rare"))
        assert len(store.search(vector(1), k=200, where=equals(source="common"))) == 200
        store.close()
        deadline = time.monotonic() + 60
        while not connection.execute(used).fetchone()[0]:  # a server counts once it has ended its side of a session
            assert time.monotonic() < deadline
            time.sleep(0.1)

        exact = open_index()
        exact.commit(replace(manifest(rows), version=2), expected=exact.manifest())
        assert connection.execute(index).fetchone() == (0,)
        assert_finds(exact, rows, vector(1), k=50)


def test_after_forget_only_the_log_still_holds_the_text(open_index: Open, database: str):
    secret = "Zanzibar-Quokka-7781"
    rows = [row(n) for n in range(40)] + [row(40, text=f"This names {secret} once.")]
    store = open_index()
    load(store, rows)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ANALYZE lakeloop_chunks")
        folder = Path(connection.execute("SHOW data_directory").fetchone()[0])
        connection.execute("CHECKPOINT")
    assert _files_with(secret, folder / "base")
    store.delete([rows[40]["chunk_id"]])
    store.commit(manifest(rows[:40], version=2), expected=store.manifest())
    said = store.forget()
    assert not _files_with(secret, folder / "base")
    assert _files_with(secret, folder / "pg_wal"), "it is gone from there too: say so in the capability"
    assert "write-ahead log" in said
    assert_holds(store, rows[:40])


def _files_with(text: str, folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def _wait_for_a_lock(database: str) -> None:
    """Until the store stands before a lock that another transaction holds."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lakeloop' AND wait_event_type = 'Lock'"
    with psycopg.connect(database, autocommit=True) as connection:
        while connection.execute(waiting).fetchone() == (0,):
            time.sleep(0.01)
