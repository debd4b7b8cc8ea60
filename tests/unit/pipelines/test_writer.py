"""The writer against a real store that is down, full, busy, or answers in part: patient, exact, never endless."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.stores import StoreUnavailableError
from pipelines.stores.lance import LanceStore
from pipelines.stores.place import Place
from pipelines.vector_index.writer import ROWS_PER_CALL, IndexWriter
from tests.stores.rows import DIMENSION, SCHEMA, row, table, vector
from transformations.errors import RefusedError
from transformations.index.vectors import Limits, deletable, refusals


class Faulty(LanceStore):
    """The real store behind a fault: `fault(rows)` raises, or answers what was refused, or None to pass."""

    fault: Callable[[pa.Table], Mapping[str, str] | None] = staticmethod(lambda rows: None)
    sizes: list[int]

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        self.sizes.append(rows.num_rows)
        refused = self.fault(rows) or {}
        kept = [r for r in rows.to_pylist() if r["chunk_id"] not in refused]
        super().upsert(table(kept), are_new=are_new)
        return refused

    def delete(self, ids: Sequence[str]) -> None:
        self.fault(table([]))
        super().delete(ids)


@pytest.fixture
def store(tmp_path: Path) -> Faulty:
    made = Faulty(Place(str(tmp_path), "chunks", DIMENSION))
    made.sizes = []
    return made


def write(store: Faulty, rows: Sequence[dict[str, Any]], **options: Any) -> tuple[IndexWriter, list[float]]:
    waits: list[float] = []
    writer = IndexWriter(store, dimension=DIMENSION, sleep=waits.append, **options)
    for _ in writer.upsert(table(rows).to_batches(), schema=SCHEMA):
        pass
    return writer, waits


def held(store: Faulty) -> set[str]:
    return {key for batch in store.ids_with_hashes() for key in batch.column("chunk_id").to_pylist()}


ROWS = [row(n) for n in range(100)]
IDS = {r["chunk_id"] for r in ROWS}


def test_a_store_that_is_busy_is_waited_for_as_long_as_it_asks(store: Faulty):
    answers = [
        StoreUnavailableError("429", retry_after=7.0),
        StoreUnavailableError("503"),
        StoreUnavailableError("503"),
    ]

    def busy(rows: pa.Table) -> None:
        if answers:
            raise answers.pop(0)

    store.fault = busy
    writer, waits = write(store, ROWS)
    assert held(store) == IDS
    assert waits[0] == 7.0
    assert 0.3 < waits[1] < waits[2] < 3, "pauses grow"
    assert writer.written == 100
    answers.append(StoreUnavailableError("429", retry_after=0.1))
    writer.delete(sorted(IDS)[:10])
    assert len(held(store)) == 90


def test_a_call_that_failed_after_it_stored_its_rows_stores_them_once(store: Faulty):
    """Rows said to be new are added without a look; the second try must look."""
    said: list[bool] = []
    upsert = store.upsert

    def lost_answer(rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        said.append(are_new)
        answer = upsert(rows, are_new=are_new)
        if len(said) == 1:
            raise StoreUnavailableError("the connection broke")
        if len(said) == 2:
            raise ValueError("and now something else")
        return answer

    store.upsert = lost_answer
    writer = IndexWriter(store, dimension=DIMENSION, sleep=lambda seconds: None)
    for _ in writer.upsert(table(ROWS).to_batches(), schema=SCHEMA, are_new=True):
        pass
    assert said == [True, False, False, False]
    assert held(store) == IDS
    assert sum(batch.num_rows for batch in store.ids_with_hashes()) == 100


def test_a_store_that_stays_down_ends_the_writing_and_no_row_is_blamed(store: Faulty):
    def down(rows: pa.Table) -> None:
        raise StoreUnavailableError("the store at nowhere does not answer")

    store.fault = down
    waits: list[float] = []
    writer = IndexWriter(store, dimension=DIMENSION, patience=20, sleep=waits.append)
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        list(writer.upsert(table(ROWS).to_batches(), schema=SCHEMA))
    assert sum(waits) <= 20
    assert writer.refused == {}


def test_what_a_client_waits_by_itself_is_part_of_the_patience_after_a_second_try(store: Faulty):
    def slow(rows: pa.Table) -> None:
        time.sleep(0.05)
        raise StoreUnavailableError("no answer", retry_after=0.001)

    store.fault = slow
    with pytest.raises(StoreUnavailableError):
        write(store, ROWS, patience=0.04)
    assert len(store.sizes) == 2


def test_a_row_that_the_store_refuses_is_found_by_halving_and_stays_alone(store: Faulty):
    bad = {ROWS[17]["chunk_id"], ROWS[80]["chunk_id"]}

    def poison(rows: pa.Table) -> None:
        if bad & set(rows["chunk_id"].to_pylist()):
            raise ValueError("a character that cannot be stored")

    store.fault = poison
    writer, _ = write(store, ROWS)
    assert held(store) == IDS - bad
    assert writer.refused == dict.fromkeys(bad, "ValueError: a character that cannot be stored")
    assert writer.written == 98
    assert len(store.sizes) <= 2 * 2 * 8, "logarithmic, not row by row"


def test_a_store_that_is_full_is_not_taken_for_poison(store: Faulty):
    def full(rows: pa.Table) -> None:
        raise OSError("No space left on device")

    store.fault = full
    with pytest.raises(OSError, match="No space left"):
        write(store, ROWS)
    assert len(store.sizes) < 30
    store.fault = lambda rows: None
    write(store, ROWS)
    assert held(store) == IDS


def test_many_refused_rows_side_by_side_stop_nothing(store: Faulty):
    """A plain row goes through, so it is the rows: each is told, the rest is written, and deletes go through."""
    bad = {r["chunk_id"] for r in ROWS[10:60]}

    def poison(rows: pa.Table) -> None:
        if any(r["chunk_id"] in bad and r["text"] != "-" for r in rows.to_pylist()):
            raise ValueError("what no store has heard of")

    store.fault = poison
    writer, _ = write(store, ROWS)
    assert writer.refused == dict.fromkeys(bad, "ValueError: what no store has heard of")
    assert held(store) == IDS - bad
    writer.delete([*bad, ROWS[0]["chunk_id"]])
    assert held(store) == IDS - bad - {ROWS[0]["chunk_id"]}
    assert not {"-"} & {row["text"] for batch in store.rows() for row in batch.to_pylist()}


def test_all_rows_refused_and_no_other_stop_no_delete(store: Faulty):
    write(store, ROWS[:20])

    def poison(rows: pa.Table) -> None:
        if any(r["text"] != "-" for r in rows.to_pylist()):
            raise ValueError("never")

    store.fault = poison
    changed = [row(n, edition=1) for n in range(12)]
    writer, _ = write(store, changed)
    assert writer.refused.keys() == {r["chunk_id"] for r in changed}
    writer.delete([*writer.refused, ROWS[19]["chunk_id"]])
    assert held(store) == {r["chunk_id"] for r in ROWS[12:19]}


NARROW = Limits(text_bytes=100, id_bytes=40, headings=3, row_bytes=600, nul=False, unit_vectors=True)


def odd(number: int, **changed: Any) -> dict[str, Any]:
    return row(number, text="short", path="p", title="t", document_id="d", heading_path=[]) | changed


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"text": "ä" * 50}, None),
        ({"text": "ä" * 51}, "text has 102 bytes, the store takes 100 in one text"),
        ({"heading_path": ["a", "b" * 100, "c"]}, None),
        ({"heading_path": ["a", "b" * 101]}, "heading_path has 101 bytes"),
        ({"heading_path": list("abcd")}, "heading_path has 4 entries, the store takes 3"),
        ({"heading_path": ["a", None]}, "heading_path has an entry that is null"),
        ({"heading_path": ["a", "b\0c"]}, r"heading_path holds the character U\+0000"),
        ({"title": "a\0"}, r"title holds the character U\+0000"),
        ({"title": None}, None),
        ({"source": None}, "source is null"),
        ({"heading_path": None}, "heading_path is null"),
        ({"chunk_id": "é" * 20}, None),
        ({"chunk_id": "é" * 21}, "the chunk_id has 42 bytes, the store takes 40"),
        ({"chunk_id": "a\0b"}, r"the chunk_id holds the character U\+0000"),
        ({"path": "p" * 100, "title": "t" * 100, "text": "x" * 100, "source": "s" * 100}, "the row has .* takes 600"),
        ({"vector": vector(1) * 2}, "the vector's length is 2: the store ranks by Euclidean"),
        ({"vector": [1e-30] * DIMENSION}, "the vector has norm 4e-30, which 32-bit floats cannot square"),
    ],
)
def test_what_a_store_cannot_hold_is_known_before_it_is_asked(changed: dict[str, Any], reason: str | None):
    rows = [odd(1), odd(2, **changed), odd(3)]
    found = refusals(table(rows), dimension=DIMENSION, limits=NARROW)
    assert found.keys() == ({rows[1]["chunk_id"]} if reason else set())
    if reason:
        assert re.search(reason, found[rows[1]["chunk_id"]])
    kept = [r["chunk_id"] for r in rows]
    if "chunk_id" in changed and reason:
        kept.remove(changed["chunk_id"])
    assert deletable([r["chunk_id"] for r in rows], limits=NARROW) == kept


def test_a_call_holds_few_enough_bytes(store: Faulty, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.vector_index.writer._BYTES_PER_CALL", 50_000)
    writer, _ = write(store, [row(n, text="x" * 9_000) for n in range(20)] + [row(30, text="y" * 90_000)])
    assert max(store.sizes) <= 12  # a batch that is full is sent with the one that filled it
    assert writer.written == 21
    assert len(held(store)) == 21


def test_what_a_store_refuses_in_part_is_told_and_the_rest_is_stored(store: Faulty):
    refused = {ROWS[3]["chunk_id"]: "too large"}
    store.fault = lambda rows: refused
    writer, _ = write(store, ROWS)
    assert writer.refused == refused
    assert held(store) == IDS - refused.keys()
    assert writer.written == 99


def test_vectors_without_a_direction_never_reach_the_store(store: Faulty):
    rows = [
        *ROWS[:5],
        row(200, vector=[0.0] * DIMENSION),
        row(201, vector=[float("inf")] * DIMENSION),
        row(202, chunk_id=""),
    ]
    writer, _ = write(store, rows)
    assert set(writer.refused.values()) == {
        "the vector has norm zero",
        "the vector holds NaN or infinity",
        "the chunk_id has 0 characters, 1 to 512 are allowed",
    }
    assert store.sizes == [5]


def test_calls_are_of_one_size_whatever_the_batches_are(store: Faulty):
    store.fault = lambda rows: dict.fromkeys(rows["chunk_id"].to_pylist(), "counted only")
    one = table([row(n) for n in range(500)])
    batches = (batch for _ in range(100) for batch in one.to_batches(max_chunksize=130))
    writer = IndexWriter(store, dimension=DIMENSION)
    assert len(list(writer.upsert(batches, schema=SCHEMA))) == 3
    assert store.sizes == [ROWS_PER_CALL, ROWS_PER_CALL, 10_000]


def test_a_writer_that_may_write_no_longer_stops_before_the_next_call(store: Faulty):
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise RefusedError("the lease is over")

    writer = IndexWriter(store, dimension=DIMENSION, check=check)
    writer.delete(["a"])
    writer.delete(["b"])
    with pytest.raises(RefusedError):
        list(writer.upsert(table(ROWS).to_batches(), schema=SCHEMA))
    assert held(store) == set()
