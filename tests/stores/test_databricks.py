"""Databricks AI Search beyond the contract, against a double: partial answers, busy and slow services, Delta Sync."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pipelines.stores import StoreUnavailableError
from pipelines.stores.databricks import DeltaSyncStore, DirectAccessStore
from pipelines.stores.databricks_filters import to_dictionaries
from pipelines.stores.databricks_rows import failed_keys
from tests.stores.databricks_double import TOKEN, AiSearchDouble, Fault, Table, passes
from tests.stores.holding import assert_finds, assert_holds, hashes, load
from tests.stores.rows import DIMENSION, manifest, place, row, table, vector
from tests.stores.test_contract import FILTERS
from transformations.errors import ConfigurationError, RefusedError
from transformations.index.vectors import refusals
from transformations.tables.filters import And, In, Not, Or, equals, matches

pytestmark = pytest.mark.long

Open = Callable[..., Any]
SOURCE = "main.gold.chunk_index"


@pytest.fixture
def double() -> AiSearchDouble:
    return AiSearchDouble()


@pytest.fixture
def open_index(double: AiSearchDouble) -> Iterator[Open]:
    pytest.importorskip("databricks.ai_search")
    opened = []
    with double.serve() as url:

        def make(
            kind: type = DirectAccessStore, *, endpoint: str = "search", secret: str = TOKEN, **options: str
        ) -> Any:
            uri, options = f"databricks://{endpoint}/main.rag", {"workspace_url": url} | options
            opened.append(kind(place(kind, uri, secret=secret, **options)))
            return opened[-1]

        yield make
        for store in opened:
            store.close()


@pytest.mark.parametrize(
    "where",
    [
        *FILTERS,
        Not(In("format", ("rst", "md"))),
        And((In("format", ("rst", "md")), Not(equals(format="md")), Not(equals(source="wiki")))),
        And((Or((equals(format="md"), equals(source="wiki"))), Or((equals(format="rst"), equals(source="files"))))),
        Not(And((equals(format="md"), Or((equals(source="wiki"), Not(equals(document_id="document-1"))))))),
    ],
    ids=str,
)
def test_the_dictionaries_of_a_filter_pass_together_what_the_filter_passes(where):
    dictionaries = to_dictionaries(where)
    for candidate in (row(n) for n in range(60)):
        assert any(passes(candidate, dictionary) for dictionary in dictionaries) == matches(candidate, where)


def test_a_filter_that_nothing_can_pass_takes_no_query_and_one_of_too_many_is_refused():
    assert to_dictionaries(And((equals(format="md"), equals(format="rst")))) == []
    either = [Or((equals(format=str(n)), equals(source=str(n)))) for n in range(6)]
    with pytest.raises(ConfigurationError, match="64 queries at Databricks, 32 are allowed"):
        to_dictionaries(And(tuple(either)))


def test_rows_that_the_service_refuses_are_named_and_the_others_are_stored(double: AiSearchDouble, open_index: Open):
    rows = [row(n) for n in range(6)]
    double.refused_keys = {rows[1]["chunk_id"], rows[4]["chunk_id"]}
    store = open_index()
    assert store.upsert(table(rows)).keys() == double.refused_keys
    assert hashes(store).keys() == {r["chunk_id"] for r in rows} - double.refused_keys
    assert store.upsert(table([rows[1]])).keys() == {rows[1]["chunk_id"]}
    with pytest.raises(StoreUnavailableError, match="did not delete 1 rows"):
        store.delete([rows[0]["chunk_id"], rows[1]["chunk_id"]])
    double.refused_keys = {"lakeloop:manifest"}
    with pytest.raises(StoreUnavailableError, match="nothing was committed"):
        store.commit(manifest(rows), expected=None)
    assert store.manifest() is None


def test_a_batch_that_fails_without_a_name_is_the_clients_error():
    exceptions = pytest.importorskip("databricks.ai_search.exceptions")
    with pytest.raises(exceptions.AISearchException, match="named no row"):
        failed_keys({"status": "FAILURE"})


def test_vectors_that_euclid_would_rank_otherwise_are_refused():
    long = row(1) | {"vector": np.full(DIMENSION, 1, dtype=np.float32)}
    refused = refusals(table([row(0), long]), dimension=DIMENSION, limits=DirectAccessStore.limits)
    assert list(refused) == [long["chunk_id"]]
    assert "the vector's length is 4" in refused[long["chunk_id"]]


@pytest.mark.parametrize(
    ("status", "headers", "wait"), [(429, {"Retry-After": "7"}, 7), (503, {}, None), (500, {}, None)]
)
def test_a_busy_service_is_unavailable_for_as_long_as_it_asks(
    double: AiSearchDouble, open_index: Open, status: int, headers: dict[str, str], wait: float | None
):
    store = open_index()
    load(store, [row(0)])
    calls: dict[str, Callable[[], object]] = {
        "upsert-data": lambda: store.upsert(table([row(1)])),
        "delete-data": lambda: store.delete(["nobody"]),
        "query": lambda: store.search(vector(0), k=1),
        "scan": lambda: hashes(store),
    }
    for path, call in calls.items():
        double.faults = [Fault(path, status=status, headers=headers)]
        with pytest.raises(StoreUnavailableError, match=str(status)) as unavailable:
            call()
        assert unavailable.value.retry_after == wait
        call()


def test_a_service_that_is_slow_or_gone_is_unavailable(double: AiSearchDouble, open_index: Open):
    store = open_index(timeout_seconds="0.2")
    load(store, [row(0)])
    double.faults = [Fault("query", seconds=0.6)]
    with pytest.raises(StoreUnavailableError, match="no answer"):
        store.search(vector(0), k=1)
    assert store.search(vector(0), k=1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = open_index(workspace_url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(StoreUnavailableError, match="no answer"):
            gone.manifest()


def test_what_a_person_must_mend_is_a_configuration_error(
    double: AiSearchDouble, open_index: Open, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ConfigurationError, match=r"403.*Check index\.secret"):
        open_index(secret="of another workspace").manifest()
    with pytest.raises(ConfigurationError, match="Create the endpoint 'serach'"):
        open_index(endpoint="serach").upsert(table([row(0)]))
    with pytest.raises(ConfigurationError, match=r"unknown option of DirectAccessStore 'wait'"):
        open_index(wait="1")
    with pytest.raises(
        ConfigurationError, match=r"wait_seconds of DirectAccessStore is 'long': input should be a valid number"
    ):
        open_index(wait_seconds="long")
    with pytest.raises(ConfigurationError, match=r"must be like databricks://endpoint/catalog\.schema"):
        DirectAccessStore(place(DirectAccessStore, "databricks://main.rag"))
    monkeypatch.delenv("DATABRICKS_HOST", raising=False)
    with pytest.raises(ConfigurationError, match="address of the Databricks workspace is missing"):
        open_index(workspace_url="").manifest()


def test_only_standard_endpoints_are_filtered(double: AiSearchDouble, open_index: Open):
    double.endpoints["large"] = "STORAGE_OPTIMIZED"
    double.tables[SOURCE] = _table(1, range(3))
    store = open_index(DeltaSyncStore, endpoint="large")
    store.commit(manifest([], version=1), expected=None)
    assert len(store.search(vector(0), k=9)) == 3
    with pytest.raises(ConfigurationError, match="storage-optimized"):
        store.search(vector(0), k=9, where=equals(format="md"))


def test_many_rows_go_in_several_requests_and_come_back_by_pages(double: AiSearchDouble, open_index: Open):
    rows = [row(n) for n in range(1200)]
    store = open_index()
    load(store, rows)
    assert len([r for r in double.requests if r.endswith("upsert-data")]) == 5
    assert_holds(store, rows)
    assert_finds(store, rows, vector(5), k=1150)


def test_writers_who_make_the_index_at_the_same_moment_share_it(double: AiSearchDouble, open_index: Open):
    stores = [open_index() for _ in range(4)]
    double.faults = [Fault("/endpoints/search/indexes", times=8, seconds=0.1)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: stores[n].upsert(table([row(n)])), range(4)))
    assert len(hashes(stores[0])) == 4


def test_delta_sync_follows_the_table_and_says_how_far_it_is(double: AiSearchDouble, open_index: Open):
    store = open_index(DeltaSyncStore)
    assert store.manifest() is None
    assert store.search(vector(0), k=1) == []
    rows = [row(n) for n in range(20)]
    double.tables[SOURCE] = _table(3, range(20))
    assert store.upsert(table(rows)) == {}
    store.commit(manifest(rows, version=3), expected=None)
    held = store.manifest()
    assert (held.source_table, held.version, held.rows, held.model_label) == (SOURCE, 3, 20, f"test@1/{DIMENSION}")
    assert_holds(store, rows)
    assert_finds(store, rows, vector(3), k=20, where=equals(format="md"))

    double.tables[SOURCE].rows, double.tables[SOURCE].version = _table(4, range(5, 25)).rows, 4
    store.delete([r["chunk_id"] for r in rows[:5]])
    store.commit(manifest(rows, version=4), expected=held)
    assert_holds(open_index(DeltaSyncStore), [row(n) for n in range(5, 25)])
    with pytest.raises(RefusedError):
        store.commit(manifest(rows, version=5), expected=held)
    store.drop()
    assert store.manifest() is None


def test_delta_sync_asks_again_where_an_update_had_begun_too_early(double: AiSearchDouble, open_index: Open):
    double.tables[SOURCE] = _table(1, range(3))
    store = open_index(DeltaSyncStore)
    store.commit(manifest([], version=1), expected=None)
    double.sync(double.indexes["main.rag.chunks"], {})
    double.tables[SOURCE].version = 2
    store.commit(manifest([], version=2), expected=store.manifest())
    assert store.manifest().version == 2
    assert len([r for r in double.requests if r.endswith("/sync")]) == 1, "beside the one that was running"


def test_delta_sync_waits_no_longer_than_it_may_and_tells_of_a_failure(double: AiSearchDouble, open_index: Open):
    double.tables[SOURCE] = _table(1, range(3))
    store = open_index(DeltaSyncStore, wait_seconds="0.5")
    with pytest.raises(StoreUnavailableError, match=r"is not at version 9 of its table after 0 s"):
        store.commit(manifest([], version=9), expected=None)
    double.failing_updates = 2
    double.tables[SOURCE].version = 9
    with pytest.raises(ConfigurationError, match=r"could not sync the index main\.rag\.chunks: as the double says"):
        open_index(DeltaSyncStore).commit(manifest([], version=9), expected=store.manifest())


def _table(version: int, numbers: range) -> Table:
    return Table(version, [row(n) | {"vector": row(n)["vector"].tolist()} for n in numbers])
