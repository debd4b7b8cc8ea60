"""One suite for all stores: what the contract promises to everyone, then what each store declares beyond it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.settings.sections import Settings
from pipelines.stores import FILTER_COLUMNS, MANIFEST_FORMAT, Store, open_store
from pipelines.stores.capabilities import CAPABILITIES
from pipelines.vector_index.writer import IndexWriter
from tests.stores.holding import assert_finds, assert_holds, hashes, held, load, other_process
from tests.stores.rows import DIMENSION, SCHEMA, manifest, row, table, vector
from transformations.errors import ConfigurationError, RefusedError
from transformations.tables.filters import And, Filter, In, Not, Or, equals

Make = Callable[..., Store]


def test_rows_said_to_be_new_are_stored_like_others(make_store: Make):
    store, rows = make_store(), [row(n) for n in range(60)]
    assert store.upsert(table(rows[:40]), are_new=True) == {}
    assert store.upsert(table(rows[40:]), are_new=True) == {}
    changed = [row(n, edition=1) for n in range(5)]
    store.upsert(table(changed))
    store.commit(manifest(rows), expected=None)
    assert_holds(make_store(), [*changed, *rows[5:]])


def test_an_option_that_a_store_does_not_know_is_named(store_settings: str):
    given = json.loads(store_settings)
    settings = Settings(**given | {"index": given["index"] | {"options": {"speed": "high"}}})
    with pytest.raises(ConfigurationError, match=r"unknown option of \w+ 'speed'"):
        open_store(settings, dimension=DIMENSION)


def test_a_new_index_is_empty_and_says_so(make_store: Make):
    store = make_store()
    assert store.manifest() is None
    assert store.search(vector(0), k=3) == []
    assert held(store) == {}
    assert hashes(store) == {}
    store.delete(["nobody"])
    store.upsert(table([]))
    assert store.manifest() is None


def test_every_declaration_answers_every_question(make_store: Make):
    answers = make_store().capabilities
    assert list(answers) == list(CAPABILITIES)
    assert all(answer.note for answer in answers.values() if answer.support != "yes"), "what is missing has a reason"


def test_rows_come_back_as_they_were_written(make_store: Make):
    rows = [row(n) for n in range(200)]
    load(make_store(), rows)
    store = make_store()
    assert_holds(store, rows)
    assert store.manifest() == manifest(rows)


def test_the_same_rows_twice_leave_the_index_as_once(make_store: Make):
    rows = [row(n) for n in range(50)]
    store = make_store()
    load(store, rows)
    load(make_store(), rows, version=2)
    assert_holds(make_store(), rows)
    assert_finds(make_store(), rows, vector(3), k=50)


def test_a_changed_row_replaces_the_old_one(make_store: Make):
    rows = [row(n) for n in range(40)]
    store = make_store()
    load(store, rows)
    rows[7:12] = [row(n, edition=1) for n in range(7, 12)]
    rows[20] = row(20, source="moved")
    load(store, [*rows[7:12], rows[20]], version=2)
    assert_holds(store, rows)
    for query in (vector(8), vector(8, edition=1), vector(20)):
        assert_finds(store, rows, query, k=10)


def test_deleted_rows_are_gone_and_unknown_ids_are_no_error(make_store: Make):
    rows = [row(n) for n in range(60)]
    store = make_store()
    load(store, rows)
    store.delete([r["chunk_id"] for r in rows[:25]] + ["nobody", "it's"])
    store.commit(manifest(rows[25:], version=2), expected=store.manifest())
    assert_holds(make_store(), rows[25:])
    assert_finds(make_store(), rows[25:], vector(3), k=60)
    load(store, rows[:5], version=3)  # what was deleted may come back
    assert_holds(make_store(), rows[:5] + rows[25:])


def test_a_thousand_rows_can_be_deleted_at_once(make_store: Make):
    rows = [row(n) for n in range(1200)]
    store = make_store()
    load(store, rows)
    store.delete([r["chunk_id"] for r in rows[:1100]])
    store.commit(manifest(rows[1100:], version=2), expected=store.manifest())
    assert_holds(store, rows[1100:])


def test_search_is_exact_on_little_data_best_first(make_store: Make):
    rows = [row(n) for n in range(300)]
    store = make_store()
    load(store, rows)
    for number in range(300, 310):
        assert_finds(store, rows, vector(number), k=10)
    assert_finds(store, rows, vector(5) * 3, k=1)
    assert len(store.search(vector(1), k=1000)) == 300
    best = store.search(vector(21), k=1)[0]
    expected = rows[21]
    assert (best.document_id, best.path, best.title, best.heading_path, best.text) == (
        expected["document_id"],
        expected["path"],
        expected["title"],
        tuple(expected["heading_path"]),
        expected["text"],
    )


FILTERS: list[Filter] = [
    equals(format="rst"),
    Not(equals(format="rst")),
    In("format", ("rst", "md")),
    equals(format="md", source="wiki"),
    Or((equals(format="md"), equals(source="wiki"))),
    Not(Or((equals(format="md"), equals(source="wiki")))),
    And((Not(equals(source="wiki")), Or((equals(format="html"), equals(document_id="document-2"))))),
    equals(source="nowhere"),
    Not(And((equals(format="md"), Not(equals(source="wiki"))))),
]


def test_filters_pass_what_the_definition_passes(make_store: Make):
    rows = [row(n) for n in range(120)]
    store = make_store()
    load(store, rows)
    paths = sorted({r["path"] for r in rows})
    for where in [*FILTERS, *(equals(path=path) for path in paths), In("path", tuple(paths))]:
        assert_finds(store, rows, vector(500), k=120, where=where)
        assert_finds(store, rows, vector(500), k=4, where=where)


def test_a_filter_on_an_unknown_column_and_a_query_of_another_dimension_are_refused(make_store: Make):
    store = make_store()
    load(store, [row(n) for n in range(3)])
    with pytest.raises(ConfigurationError, match=r"unknown filter column 'sourc'\. Did you mean 'source'"):
        store.search(vector(0), k=1, where=equals(sourc="wiki"))
    with pytest.raises(ConfigurationError, match=rf"the index holds \({DIMENSION},\)"):
        store.search(np.ones(DIMENSION + 1, dtype=np.float32), k=1)
    assert set(FILTER_COLUMNS) <= set(table([]).column_names)


def test_only_the_writer_who_read_the_manifest_may_move_it(make_store: Make):
    rows = [row(n) for n in range(10)]
    first, second = make_store(), make_store()
    load(first, rows)
    seen = second.manifest()
    first.commit(manifest(rows, version=2, fence=2), expected=first.manifest())
    with pytest.raises(RefusedError, match="another sync moved the index"):
        second.commit(manifest(rows, version=3, fence=3), expected=seen)
    with pytest.raises(RefusedError):  # the lease that it was written under is older than the index's
        second.commit(manifest(rows, version=3, fence=1), expected=second.manifest())
    with pytest.raises(RefusedError):
        second.commit(manifest(rows, version=3, fence=3), expected=None)
    assert make_store().manifest() == manifest(rows, version=2, fence=2)


def test_a_manifest_of_a_newer_lakeloop_is_not_read(make_store: Make):
    rows = [row(n) for n in range(3)]
    store = make_store()
    load(store, rows)
    store.commit(replace(manifest(rows), format=MANIFEST_FORMAT + 1), expected=store.manifest())
    with pytest.raises(ConfigurationError, match="written by a newer lakeloop"):
        make_store().manifest()


def test_a_sync_that_stops_before_its_commit_is_finished_by_the_next_one(make_store: Make):
    rows = [row(n) for n in range(30)]
    load(make_store(), rows)
    stopped = make_store()
    changed = [row(n, edition=1) for n in range(5)]
    stopped.upsert(table(changed))
    stopped.delete([rows[29]["chunk_id"]])
    store = make_store()
    assert store.manifest() == manifest(rows)
    if store.capabilities["atomic_commit"].support == "yes":
        assert {r["text"] for r in held(store).values()} == {r["text"] for r in rows}
        assert_finds(store, rows, vector(29), k=30)
    after = changed + rows[5:29]
    assert hashes(store) == {r["chunk_id"]: r["row_hash"] for r in after}
    store.upsert(table(changed))
    store.delete([rows[29]["chunk_id"]])
    store.commit(manifest(after, version=2), expected=store.manifest())
    assert_holds(make_store(), after)
    assert_finds(make_store(), after, vector(29), k=30)


def test_two_indexes_are_apart(make_store: Make):
    rows, others = [row(n) for n in range(20)], [row(n) for n in range(100, 110)]
    first, second = make_store("first_index"), make_store("second_index")
    load(first, rows)
    load(second, others)
    assert_holds(make_store("first_index"), rows)
    make_store("first_index").drop()
    assert make_store("first_index").manifest() is None
    assert_holds(make_store("second_index"), others)


@pytest.mark.parametrize("seed", [1, 2, pytest.param(3, marks=pytest.mark.long)])
def test_any_order_of_writes_equals_the_last_of_them(make_store: Make, seed: int):
    chance = random.Random(seed)
    expected: dict[str, dict[str, Any]] = {}
    for version in range(1, 9):
        store = make_store()
        for _ in range(chance.randint(1, 3)):
            numbers = chance.sample(range(80), chance.randint(1, 25))
            if chance.random() < 0.6:
                rows = [row(n, edition=chance.randint(0, 3)) for n in numbers]
                store.upsert(table(rows))
                expected |= {r["chunk_id"]: r for r in rows}
            else:
                ids = [row(n)["chunk_id"] for n in numbers]
                store.delete(ids)
                expected = {key: r for key, r in expected.items() if key not in ids}
        rows = list(expected.values())
        store.commit(manifest(rows, version=version), expected=store.manifest())
        assert_finds(make_store(), rows, vector(1000 + version), k=10)
    assert_holds(make_store(), expected.values())


def test_forgotten_text_is_in_no_file(make_store: Make, tmp_path: Path):
    secret = "Zanzibar-Quokka-7781"
    rows = [row(n) for n in range(40)] + [row(40, text=f"This names {secret} once.")]
    store = make_store()
    load(store, rows)
    store.delete([rows[40]["chunk_id"]])
    store.commit(manifest(rows[:40], version=2), expected=store.manifest())
    said = store.forget()
    assert_holds(make_store(), rows[:40])
    assert_finds(make_store(), rows[:40], vector(40), k=40)
    if store.capabilities["forgets_at_once"].support == "yes":
        store.close()
        files = [p for p in (tmp_path / "index").rglob("*") if p.is_file()]
        assert not [p for p in files if secret.encode() in p.read_bytes()]
    else:
        assert len(said) > 20, "what the store keeps, and until when, is said"


_READER = """
import sys, pathlib, json
from pipelines.settings.sections import Settings
from pipelines.stores import open_store
from tests.stores.holding import Rows, assert_finds, assert_holds, hashes, held, load, nearest, other_process
from tests.stores.rows import vector
settings = Settings(**json.loads(sys.argv[1]))
store = open_store(settings, dimension=16)
print(store.manifest().version, store.search(vector(3), k=1)[0].chunk_id)
"""


def test_a_reader_in_another_process_sees_the_last_commit(make_store: Make, store_settings: str):
    store = make_store()
    if store.capabilities["other_processes"].support != "yes":
        pytest.skip(store.capabilities["other_processes"].note)
    rows = [row(n) for n in range(10)]
    load(store, rows)
    reader = other_process(_READER, store_settings)
    assert reader.communicate(timeout=60)[0].split() == ["1", rows[3]["chunk_id"]]


_WRITER = """
import sys, json
from pipelines.settings.sections import Settings
from pipelines.stores import open_store
from tests.stores.holding import Rows, assert_finds, assert_holds, hashes, held, load, nearest, other_process
from tests.stores.rows import row, table
settings = Settings(**json.loads(sys.argv[1]))
first = int(sys.argv[2])
store = open_store(settings, dimension=16)
for start in range(first, first + 100, 20):
    store.upsert(table([row(n) for n in range(start, start + 20)]))
store.close()
"""


def test_writers_in_two_processes_lose_and_double_nothing(make_store: Make, store_settings: str):
    store = make_store()
    if store.capabilities["several_writers"].support != "yes":
        pytest.skip(store.capabilities["several_writers"].note)
    load(store, [row(0)])
    writers = [other_process(_WRITER, store_settings, first) for first in ("0", "100")]
    assert [w.wait(timeout=120) for w in writers] == [0, 0]
    rows = [row(n) for n in range(200)]
    store = make_store()
    store.commit(manifest(rows, version=2), expected=store.manifest())
    assert_holds(store, rows)
    assert_finds(make_store(), rows, vector(3), k=200)


# What documents hold that some store might not; each in a row of its own.
HARD_ROWS: list[dict[str, Any]] = [
    *({column: "a\0b"} for column in ("title", "text", "path", "source", "chunk_id", "document_id")),
    {"text": "ends in one\0"},
    {"heading_path": ["a\0b"]},
    {"text": "x" * 65_535},
    {"text": "x" * 65_536},
    {"text": "ä" * 40_000},
    {"text": "two megabytes " * 150_000},
    {"title": "t" * 70_000},
    {"heading_path": ["h"] * 64},
    {"heading_path": ["h"] * 65},
    {"heading_path": ["h" * 66_000]},
    {"heading_path": [""]},
    {"chunk_id": "i" * 512},
    {"chunk_id": "😀" * 512},
    {"chunk_id": "i" * 513},
    {"chunk_id": " "},
    {"chunk_id": "a\nb"},
    {"title": "", "path": "", "source": "", "format": "", "document_id": "", "text_hash": "", "model": ""},
    {"text": "\x01\x02\x1b\x7f\x85\u2028\ufeff\uffff\U0010ffff"},
    *({column: None} for column in ("title", "path", "source", "text", "heading_path", "text_hash")),
    {"heading_path": ["a", None]},
    {"vector": [0.0] * DIMENSION},
    {"vector": [float("nan")] * DIMENSION},
    {"vector": [1.0] * (DIMENSION - 1) + [float("inf")]},
    {"vector": (vector(7) * 5).tolist()},
]


def test_what_a_store_cannot_hold_is_told_and_all_else_comes_back_as_it_was(make_store: Make):
    store = make_store()
    hard = [row(n) | changed for n, changed in enumerate(HARD_ROWS)]
    easy = [row(n) for n in range(900, 960)]
    writer = IndexWriter(store, dimension=DIMENSION)
    for _ in writer.upsert(table([*hard, *easy]).to_batches(max_chunksize=7), schema=SCHEMA):
        pass
    kept = [r for r in [*hard, *easy] if r["chunk_id"] not in writer.refused]
    assert {r["chunk_id"] for r in easy} <= {r["chunk_id"] for r in kept}
    assert not any("Error" in reason or "Exception" in reason for reason in writer.refused.values()), "known beforehand"
    assert len(kept) + len(writer.refused) == len(hard) + len(easy)
    store.commit(manifest(kept), expected=None)
    assert_holds(make_store(), kept)
    assert_finds(store, kept, vector(1000), k=5)
    writer.delete([r["chunk_id"] for r in [*hard, *easy]])
    store.commit(manifest([], version=2), expected=store.manifest())
    assert hashes(make_store()) == {}


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1e-30, 3e38])
def test_a_query_without_a_direction_is_refused_by_every_store_alike(make_store: Make, value: float):
    store = make_store()
    load(store, [row(n) for n in range(3)])
    with pytest.raises(ConfigurationError, match=r"the query's vector .* Nothing was searched"):
        store.search(np.full(DIMENSION, value, dtype=np.float32), k=1)
