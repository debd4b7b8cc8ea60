"""Milvus beyond the contract: servers that are down, silent or old, restarts, locks of Milvus Lite, odd filters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.stores import StoreUnavailableError
from pipelines.stores.milvus import MilvusStore
from pipelines.stores.milvus_server import check_server
from tests.stores.holding import assert_finds, assert_holds, load
from tests.stores.loopback import free_port, silent
from tests.stores.milvus_server import serving
from tests.stores.rows import manifest, place, row, table, vector
from transformations.errors import ConfigurationError
from transformations.tables.filters import In, Not, equals

pytestmark = pytest.mark.long

Open = Callable[..., MilvusStore]
pymilvus = pytest.importorskip("pymilvus")


@pytest.fixture
def open_index() -> Iterator[Open]:
    opened: list[MilvusStore] = []

    def make(uri: str | Path, **options: str) -> MilvusStore:
        opened.append(MilvusStore(place(MilvusStore, str(uri), **options)))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def in_another_process(folder: Path) -> subprocess.CompletedProcess[str]:
    """Reads the version that the index in the folder equals."""
    program = (
        "import sys; from pipelines.stores.milvus import MilvusStore; from tests.stores.rows import place; "
        "print(MilvusStore(place(MilvusStore, sys.argv[1])).manifest().version)"
    )
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-c", program, str(folder)], cwd=root, capture_output=True, text=True)


def test_what_cannot_be_is_refused_before_anything_is_connected(open_index: Open):
    with pytest.raises(ConfigurationError, match=r"a folder or like http://localhost:19530.* 's3'"):
        open_index("s3://bucket/index")
    with pytest.raises(ConfigurationError, match=r"holds a password.*index\.secret") as refused:
        open_index("http://me:hunter2@milvus.example:19530")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(
        ConfigurationError, match=r"unknown option of MilvusStore 'timeout'\. Did you mean 'timeout_seconds'"
    ):
        open_index("http://milvus.example:19530", timeout="3")


def test_a_server_that_is_down_or_silent_is_unavailable_and_named(open_index: Open):
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailableError, match=rf"{nobody} does not answer.*Is it running\?"):
        open_index(nobody).manifest()
    with silent() as uri, pytest.raises(StoreUnavailableError, match=f"{uri} does not answer"):
        open_index(uri, timeout_seconds="0.5").upsert(table([row(1)]))


def test_an_old_server_is_refused():
    for version in ("v2.5.0", "2.6.1-rc1", "milvus_lite-3.2.2"):
        check_server(version, at="http://milvus.example")
    for version in ("v2.4.17", "milvus_lite-3.1"):
        with pytest.raises(ConfigurationError, match=r"http://milvus\.example .* is too old.*Upgrade the server"):
            check_server(version, at="http://milvus.example")


def test_a_restarted_server_has_every_commit(open_index: Open, tmp_path: Path):
    rows = [row(n) for n in range(30)]
    with serving(tmp_path) as server:
        store = open_index(server.uri)
        load(store, rows)
        port = server.port
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        store.search(vector(1), k=1)
    with serving(tmp_path, port=port):
        assert store.manifest() == manifest(rows)
        reopened = open_index(server.uri)
        assert_holds(reopened, rows)
        assert_finds(reopened, rows, vector(1), k=30)


def test_a_server_that_stops_answering_in_the_middle_is_unavailable(open_index: Open, tmp_path: Path):
    with serving(tmp_path) as server:
        store = open_index(server.uri, timeout_seconds="1")
        load(store, [row(1)])
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailableError, match="DEADLINE_EXCEEDED"):
                store.upsert(table([row(2)]))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        store.upsert(table([row(2)]))
        assert_finds(store, [row(1), row(2)], vector(2), k=2)


def test_looking_at_a_folder_creates_nothing(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path / "index")
    assert store.manifest() is None
    assert store.search(vector(0), k=1) == []
    assert store.forget()
    store.drop()
    assert not (tmp_path / "index").exists()


def test_a_file_is_one_process_s_until_its_last_handle_lets_go(open_index: Open, tmp_path: Path):
    first, second = open_index(tmp_path), open_index(tmp_path)
    load(first, [row(1)])
    assert second.manifest() == first.manifest()
    first.close()
    refused = in_another_process(tmp_path)
    assert "StoreUnavailableError" in refused.stderr
    assert "milvus.db cannot be opened. As a rule another process has it open" in refused.stderr
    assert_holds(second, [row(1)])
    second.close()
    assert in_another_process(tmp_path).stdout == "1\n"


def test_a_title_that_is_gone_is_gone(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path)
    load(store, [row(1, title="Old")])
    load(store, [row(1, title=None)], version=2)
    assert_holds(store, [row(1, title=None)])


def test_a_value_that_reads_like_an_expression_is_a_value(open_index: Open, tmp_path: Path):
    values = [
        '"] or path in ["',
        '\\" or true or "\\',
        "\\\\",
        "\\n is no \n",
        "{x}",
        "$meta",
        "\r\t\0\x0b\x1f\x7f",
        "\u2028\u2029",
        "%",
        "",
    ]
    rows = [row(n, path=value) for n, value in enumerate(values)]
    store = open_index(tmp_path)
    load(store, rows)
    for value in values:
        assert_finds(store, rows, vector(3), k=20, where=equals(path=value))
        assert_finds(store, rows, vector(3), k=20, where=Not(equals(path=value)))
    assert_finds(store, rows, vector(3), k=20, where=In("path", tuple(values[:4])))


def test_a_batch_that_milvus_refuses_fails_whole(open_index: Open, tmp_path: Path):
    store = open_index(tmp_path)
    load(store, [row(1)])
    for bad in (row(3, text="x" * 70000), row(3) | {"vector": [1.0]}, row(3) | {"chunk_id": "x" * 513}):
        with pytest.raises(pymilvus.MilvusException):
            store.upsert(table([row(2), bad]))
    assert_holds(store, [row(1)])


def test_a_copy_that_an_interrupted_forget_left_is_no_obstacle_to_the_next_one(open_index: Open, tmp_path: Path):
    rows = [row(n) for n in range(1500)]
    store, other = open_index(tmp_path), open_index(tmp_path)
    load(store, rows)
    assert_finds(other, rows, vector(1), k=5)
    client = pymilvus.MilvusClient(str(tmp_path / "milvus.db"), dedicated=True)
    client.create_collection("forgetting_lakeloop_chunks", dimension=4)
    client.close()
    store.forget()
    assert store.manifest() == manifest(rows)
    for handle in (store, other, open_index(tmp_path)):
        assert_holds(handle, rows)
        assert_finds(handle, rows, vector(1), k=5)
