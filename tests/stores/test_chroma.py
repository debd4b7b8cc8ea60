"""Chroma beyond the contract: servers that are down, silent, busy or strange, restarts, and what a folder cannot do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.stores import StoreUnavailableError
from pipelines.stores.chroma import ChromaStore
from pipelines.stores.chroma_server import check_server
from tests.stores.chroma_server import serving
from tests.stores.holding import assert_finds, assert_holds, hashes, load
from tests.stores.loopback import free_port, silent
from tests.stores.rows import DIMENSION, manifest, place, row, table, vector
from transformations.errors import ConfigurationError

pytestmark = pytest.mark.long

Open = Callable[..., ChromaStore]
chromadb = pytest.importorskip("chromadb")


@pytest.fixture
def open_index() -> Iterator[Open]:
    opened: list[ChromaStore] = []

    def make(uri: str | Path, *, secret: str | None = None, **options: str) -> ChromaStore:
        opened.append(ChromaStore(place(ChromaStore, str(uri), secret=secret, **options)))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@contextmanager
def answering(status: int, *, retry_after: str = "0", token: str = "") -> Iterator[str]:
    """The uri of a server that has this status for whoever brings the token, and 401 for everyone else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            let_in = not token or self.headers["Authorization"] == f"Bearer {token}"
            self.send_response(status if let_in else 401)
            self.send_header("Retry-After", retry_after)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_cannot_be_is_refused_before_anything_is_connected(open_index: Open):
    with pytest.raises(ConfigurationError, match=r"a folder or like http://localhost:8000.* 's3'"):
        open_index("s3://bucket/index")
    with pytest.raises(ConfigurationError, match=r"holds a password.*index\.secret") as refused:
        open_index("http://me:hunter2@chroma.example:8000")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(
        ConfigurationError, match=r"unknown option of ChromaStore 'timeout'\. Did you mean 'timeout_seconds'"
    ):
        open_index("http://chroma.example:8000", timeout="3")


def test_a_server_that_is_down_silent_or_busy_is_unavailable_and_named(open_index: Open):
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailableError, match=rf"{nobody} does not answer.*chroma run --path"):
        open_index(nobody).manifest()
    with silent() as uri, pytest.raises(StoreUnavailableError, match=f"{uri} does not answer.*ReadTimeout"):
        open_index(uri, timeout_seconds="0.3").manifest()
    for status in (429, 503):
        with (
            answering(status, retry_after="7") as uri,
            pytest.raises(StoreUnavailableError, match=f"{uri} answers {status}") as busy,
        ):
            open_index(uri).upsert(table([row(1)]))
        assert busy.value.retry_after == 7


def test_the_secret_is_sent_as_a_bearer_token_and_a_wrong_one_is_a_setting_to_mend(open_index: Open):
    with answering(503, token="t0ken") as uri:
        with pytest.raises(StoreUnavailableError):
            open_index(uri, secret="t0ken").manifest()
        for wrong in ("hunter2", None):
            with pytest.raises(ConfigurationError, match=r"answers 401.*index\.secret") as refused:
                open_index(uri, secret=wrong).manifest()
            assert "hunter2" not in str(refused.value)


def test_another_program_or_an_old_server_at_the_address_is_refused(open_index: Open):
    with answering(404) as uri, pytest.raises(ConfigurationError, match=f"at {uri} is no Chroma server"):
        open_index(uri).manifest()
    check_server("1.0.0", at="http://chroma.example")
    with pytest.raises(ConfigurationError, match=r"http://chroma.example 0\.6\.3 is too old.*1\.0 or newer"):
        check_server("0.6.3", at="http://chroma.example")


def test_a_restarted_server_has_every_commit_and_an_open_handle_goes_on(open_index: Open, tmp_path: Path):
    rows = [row(n) for n in range(30)]
    with serving(tmp_path) as server:
        store = open_index(server.uri)
        load(store, rows)
        port = server.port
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        store.search(vector(1), k=1)
    with serving(tmp_path, port=port):
        assert store.manifest() == manifest(rows)
        assert_holds(store, rows)
        assert_finds(store, rows, vector(1), k=30)


def test_a_server_that_stops_answering_in_the_middle_is_unavailable(open_index: Open, tmp_path: Path):
    with serving(tmp_path) as server:
        store = open_index(server.uri, timeout_seconds="1")
        load(store, [row(1)])
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailableError, match="ReadTimeout"):
                store.upsert(table([row(2)]))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        store.upsert(table([row(2)]))
        assert_finds(store, [row(1), row(2)], vector(2), k=2)


def test_writers_at_once_at_one_server_leave_every_vector_to_be_found(open_index: Open, chroma_uri: str):
    rows = [row(n) for n in range(400)]
    stores = [open_index(chroma_uri) for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: stores[n].upsert(table(rows[n * 100 : n * 100 + 100])), range(4)))
        assert_finds(stores[0], rows, vector(1), k=400)
    finally:
        stores[0].drop()


def test_looking_at_a_folder_creates_nothing(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path / "index")
    assert store.manifest() is None
    assert store.search(vector(0), k=1) == []
    assert store.forget()
    store.drop()
    assert not (tmp_path / "index").exists()


def test_a_title_that_is_gone_is_gone(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path)
    load(store, [row(1, title="Old")])
    load(store, [row(1, title=None)], version=2)
    assert_holds(store, [row(1, title=None)])
    assert store.search(vector(1), k=1)[0].title is None


def test_more_rows_than_chroma_takes_in_one_call_are_cut_into_several(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path)
    rows = [row(n) for n in range(5500)]  # it takes 5,461
    store.upsert(table(rows))
    assert hashes(store) == {r["chunk_id"]: r["row_hash"] for r in rows}
    store.delete([r["chunk_id"] for r in rows])
    assert hashes(store) == {}


def test_a_batch_that_chroma_refuses_fails_whole(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path)
    load(store, [row(1)])
    for bad in (row(3) | {"vector": [float("nan")] * DIMENSION}, row(3) | {"vector": [1.0]}):
        with pytest.raises(chromadb.errors.InvalidArgumentError):
            store.upsert(table([row(2), bad]))
    assert_holds(store, [row(1)])


def test_after_forget_the_text_search_of_a_folder_has_no_piece_of_the_text(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path)
    load(store, [row(1), row(2, text="It was qjxkvw.")])
    store.delete([row(2)["chunk_id"]])
    store.commit(manifest([row(1)], version=2), expected=store.manifest())
    database = tmp_path / "chroma" / "chroma.sqlite3"
    assert b"qjx" in database.read_bytes()
    store.forget()
    assert not [piece for piece in (b"qjx", b"jxk", b"xkv", b"kvw") if piece in database.read_bytes()]
    assert_finds(store, [row(1)], vector(1), k=5)


_WRITER = """
import sys
from pipelines.stores.chroma import ChromaStore
from tests.stores.rows import place, row, table
store = ChromaStore(place(ChromaStore, sys.argv[1]))
store.upsert(table([row(n) for n in range(10, 20)]))
store.close()
"""


def test_a_folder_that_another_process_writes_must_be_opened_again(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path)
    load(store, [row(n) for n in range(10)])
    assert len(store.search(vector(1), k=100)) == 10
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", _WRITER, str(tmp_path)], cwd=root, check=True)
    assert len(store.search(vector(1), k=100)) == 10, "Chroma sees it now: say so in the capability"
    store.close()
    assert_finds(store, [row(n) for n in range(20)], vector(1), k=100)
