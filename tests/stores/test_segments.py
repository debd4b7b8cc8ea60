"""Base, tail and tombstones: what the suite for all stores cannot see, with a base over a few rows already."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.settings.sections import Settings
from pipelines.stores import Store, open_store, scann
from pipelines.stores.faiss import FaissStore
from pipelines.stores.place import Place
from pipelines.stores.scann import ScannStore
from tests.stores.holding import assert_finds, assert_holds, hashes, held, load, other_process
from tests.stores.rows import DIMENSION, manifest, row, table, vector
from tests.stores.segment_files import named, present, state
from transformations.errors import ConfigurationError, DamagedTableError, MissingDependencyError
from transformations.tables.filters import Not, equals

pytestmark = pytest.mark.long

EARLY = {"base_rows": "100"}
# Exact on a few hundred rows. RFlat is a kind that FAISS cannot tell which rows to leave out.
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "Flat": ("faiss", {}),
    "HNSW": ("faiss", {"factory": "HNSW16", "search": "efSearch=200"}),
    "IVF": ("faiss", {"factory": "IVF4,Flat"}),
    "RFlat": ("faiss", {"factory": "IVF4,Flat,RFlat"}),
    "annoy": ("annoy", {"search_k": "100000"}),
    "scann": ("scann", {"leaves_to_search": "1000", "candidates": "20"}),
}
Open = Callable[..., Store]


@pytest.fixture
def open_index(tmp_path: Path) -> Open:
    """The index of a kind, opened anew at each call, with its base built early; or a skip with the reason."""

    def opened(kind: str = "Flat", *, dimension: int = DIMENSION, **options: str) -> Store:
        store, fitting = KINDS[kind]
        index = {"store": store, "uri": str(tmp_path), "options": EARLY | fitting | options}
        made = open_store(Settings(root=tmp_path, index=index), dimension=dimension)
        try:
            made.manifest()
        except MissingDependencyError as error:
            pytest.skip(str(error))
        return made

    return opened


@pytest.mark.parametrize("kind", KINDS)
def test_search_after_edits_and_deletes_is_what_an_exact_one_finds(open_index: Open, tmp_path: Path, kind: str):
    rows = {n: row(n) for n in range(400)} | {n: row(n, vector=vector(n) * 7) for n in range(50, 60)}
    load(open_index(kind), list(rows.values()))
    base = state(tmp_path)["base"]
    assert base, "no base was built"
    changed = {n: row(n, edition=1) for n in range(100, 130)} | {n: row(n) for n in range(400, 410)}
    gone = [rows.pop(n) for n in range(20, 50)]
    rows |= changed
    store = open_index(kind)
    store.delete([r["chunk_id"] for r in gone])
    store.upsert(table(list(changed.values())))
    store.commit(manifest(list(rows.values()), version=2), expected=store.manifest())
    assert state(tmp_path)["base"] == base, "edits within their share leave the base alone"
    assert len(state(tmp_path)["tail"]) == 2
    assert_holds(store, rows.values())
    few, many = equals(document_id="document-7"), Not(equals(format="md"))
    for query in (vector(25), vector(55), vector(110), vector(110, edition=1), vector(405), vector(900)):
        for k in (1, 10, 45):
            assert_finds(store, list(rows.values()), query, k=k)
        assert_finds(store, list(rows.values()), query, k=5, where=few)
        assert_finds(store, list(rows.values()), query, k=5, where=many)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_are_found_as_there_are_when_most_of_the_base_is_dead(open_index: Open, tmp_path: Path, kind: str):
    rows = [row(n) for n in range(400)]
    store = open_index(kind, compact_ratio="10")
    load(store, rows)
    alive = sorted(rows, key=lambda r: float(np.dot(r["vector"], vector(900))))[:60]  # the farthest from the query
    kept = {r["chunk_id"] for r in alive}
    store.delete([r["chunk_id"] for r in rows if r["chunk_id"] not in kept])
    store.commit(manifest(alive, version=2), expected=store.manifest())
    assert state(tmp_path)["base"]
    for k in (1, 30, 60, 61):
        assert_finds(store, alive, vector(900), k=k)


@pytest.mark.parametrize("kind", ["Flat", "annoy", "scann"])
def test_a_tail_that_outgrows_its_share_goes_into_a_new_base(open_index: Open, tmp_path: Path, kind: str):
    rows = [row(n) for n in range(300)]
    store = open_index(kind, compact_rows="40", compact_ratio="0.2")
    load(store, rows)
    base = state(tmp_path)["base"]
    rows[:30] = [row(n, edition=1) for n in range(30)]
    load(store, rows[:30], version=2)
    assert state(tmp_path)["base"] == base, "30 rows and the 30 tombstones of their older selves are a fifth of 300"
    rows[30] = row(30, edition=1)
    load(store, rows[30:31], version=3)
    assert state(tmp_path)["base"] != base
    assert state(tmp_path)["tail"] == []
    for query in (vector(3), vector(3, edition=1), vector(30, edition=1), vector(299)):
        assert_finds(open_index(kind), rows, query, k=10)
    assert_holds(open_index(kind), rows)
    store.delete([r["chunk_id"] for r in rows[50:]])
    store.commit(manifest(rows[:50], version=4), expected=store.manifest())
    assert state(tmp_path)["base"] is None, "50 rows need no base"
    assert_finds(store, rows[:50], vector(3), k=60)


def test_a_base_of_another_kind_than_the_settings_name_is_built_anew(open_index: Open, tmp_path: Path):
    rows = [row(n) for n in range(200)]
    load(open_index("Flat"), rows)
    base = state(tmp_path)["base"]
    assert_finds(open_index("HNSW", search=""), rows, vector(900), k=5)  # until then the old one is read
    load(open_index("HNSW"), rows[:1], version=2)
    assert state(tmp_path)["base"]["recipe"] == "build_version=2, factory=HNSW16" != base["recipe"]
    assert_finds(open_index("HNSW"), rows, vector(900), k=5)


def test_a_base_that_an_older_version_built_is_built_anew(
    open_index: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [row(n) for n in range(200)]
    with monkeypatch.context() as before:
        before.setattr(FaissStore, "build_version", 1)
        load(open_index("HNSW"), rows)
    assert state(tmp_path)["base"]["recipe"] == "factory=HNSW16", "as every version wrote it until then"
    old = state(tmp_path)["base"]["index"]
    load(open_index("HNSW"), rows[:1], version=2)
    assert state(tmp_path)["base"]["index"] != old
    assert_finds(open_index("HNSW"), rows, vector(900), k=5)


def test_scann_searches_all_leaves_of_a_base_that_was_built_to_search_few():
    scann_ops = pytest.importorskip("scann").scann_ops_pybind
    vectors = np.random.default_rng(7).normal(size=(2_000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    built = scann_ops.builder(vectors, 10, "dot_product").tree(num_leaves=40, num_leaves_to_search=1)
    index = built.score_ah(2, anisotropic_quantization_threshold=0.2).build()
    store = ScannStore(Place("anywhere", "chunks", 16))
    found = store._ask(index, vectors[0], count=2_000, among=np.ones(2_000, dtype=bool))
    assert len(set(found)) == 2_000


@pytest.mark.parametrize("base_rows", ["20", "1000"])
def test_many_small_commits_leave_few_files(open_index: Open, tmp_path: Path, base_rows: str):
    expected = {n: row(n) for n in range(30)}
    store = open_index(base_rows=base_rows)
    load(store, list(expected.values()))
    for version in range(2, 72):
        if version % 7:
            expected[version % 20] = row(version % 20, edition=version)
            store.upsert(table([expected[version % 20]]))
        else:
            gone = expected.pop(20 + version // 7 % 10)
            store.delete([gone["chunk_id"]])
        store.commit(manifest(list(expected.values()), version=version), expected=store.manifest())
        assert len(present(tmp_path)) < 50
    assert_holds(store, expected.values())
    assert_finds(store, list(expected.values()), vector(900), k=30)


def test_files_that_no_state_names_are_removed_and_those_of_the_state_before_are_kept(open_index: Open, tmp_path: Path):
    rows = [row(n) for n in range(150)]
    store = open_index(compact_rows="1", compact_ratio="0")
    load(store, rows)
    first = named(tmp_path)
    stray = tmp_path / "chunks.faiss" / "index-of-a-killed-commit.faiss"
    stray.write_bytes(b"half")
    load(store, rows[:2], version=2)
    assert present(tmp_path) == named(tmp_path) > first
    load(store, rows[:2], version=3)
    assert present(tmp_path) == named(tmp_path)
    assert not first & present(tmp_path)


def test_readers_go_on_with_the_state_that_they_opened(open_index: Open):
    rows = [row(n) for n in range(12_000)]
    store = open_index(compact_rows="1", compact_ratio="0")
    load(store, rows)
    first, second = open_index().rows(), None
    begun = [next(first)]
    for version in range(2, 5):
        rows[0] = row(0, edition=version)
        load(store, rows[:1], version=version)
        if version == 2:
            second = open_index().rows()
            begun.append(next(second))
    assert second is not None
    for batch, rest, edition in ((begun[0], first, 0), (begun[1], second, 2)):
        read = [r for b in (batch, *rest) for r in b.select(["chunk_id", "text"]).to_pylist()]
        assert len(read) == 12_000
        assert row(0, edition=edition)["text"] in {r["text"] for r in read}
    assert_finds(store, rows, vector(0, edition=4), k=3)


def test_who_only_looks_at_an_index_takes_no_loaded_base_from_who_searches_it(
    open_index: Open, monkeypatch: pytest.MonkeyPatch
):
    rows = [row(n) for n in range(150)]
    load(open_index(), rows)
    loads: list[Path] = []
    real = FaissStore._load
    monkeypatch.setattr(FaissStore, "_load", lambda self, path: (loads.append(path), real(self, path))[1])
    searching = open_index()
    for _ in range(3):
        assert_finds(searching, rows, vector(900), k=3)
        looking = open_index()  # as a searcher does each second
        assert looking.manifest() is not None
        looking.close()
    assert len(loads) == 1


def test_a_base_stays_loaded_and_one_that_is_lost_is_named(open_index: Open, tmp_path: Path):
    rows = [row(n) for n in range(150)]
    load(open_index(), rows)
    assert_finds(open_index(), rows, vector(900), k=3)
    index = tmp_path / "chunks.faiss" / state(tmp_path)["base"]["index"]
    index.unlink()
    other = open_index()
    assert_finds(other, rows, vector(901), k=3)
    other.close()
    with pytest.raises(DamagedTableError, match=rf"is damaged: .*{index.name}.* lakeloop sync-index"):
        open_index().search(vector(900), k=3)


_WRITER = """
import sys, json
from pipelines.settings.sections import Settings
from pipelines.stores import open_store
from tests.stores.segment_files import named, present, state
from tests.stores.rows import DIMENSION, manifest, row, table
store = open_store(Settings(**json.loads(sys.argv[1])), dimension=DIMENSION)
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 50):
    store.upsert(table([row(number, edition=1)]))
    store.delete([row(number + 100)["chunk_id"]])
"""


def test_writers_in_two_processes_wait_for_each_other_and_searchers_see_what_is_committed(
    open_index: Open, tmp_path: Path
):
    rows = [row(n) for n in range(300)]
    store = open_index(base_rows="100")
    load(store, rows)
    assert_finds(store, rows, vector(900), k=20)
    settings = json.dumps({"root": str(tmp_path), "index": {"store": "faiss", "uri": str(tmp_path)}})
    writers = [other_process(_WRITER, settings, first) for first in ("0", "50")]
    assert [w.wait(timeout=60) for w in writers] == [0, 0]
    assert_finds(store, rows, vector(900), k=20)
    rows[:200] = [row(n, edition=1) for n in range(100)]
    open_index().commit(manifest(rows, version=2), expected=store.manifest())
    assert_finds(store, rows, vector(900), k=20)
    assert_holds(store, rows)


def test_forget_says_what_waits_for_a_commit(open_index: Open, tmp_path: Path):
    rows = [row(n) for n in range(150)]
    store = open_index()
    assert store.forget() == "nothing: there is no index"
    load(store, rows)
    store.delete([rows[7]["chunk_id"]])
    assert "commit, then forget" in store.forget()
    assert_holds_but(store, rows, gone=rows[7])
    store.commit(manifest(rows[:7] + rows[8:], version=2), expected=store.manifest())
    assert store.forget().startswith("nothing")
    assert rows[7]["text"].encode() not in b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    assert_holds(store, rows[:7] + rows[8:])


def assert_holds_but(store: Store, rows: list[dict[str, Any]], *, gone: dict[str, Any]) -> None:
    """Readers see all rows; `gone` is deleted for the next commit."""
    assert held(store).keys() == {r["chunk_id"] for r in rows}
    assert hashes(store).keys() == {r["chunk_id"] for r in rows} - {gone["chunk_id"]}


def test_an_option_that_does_not_fit_is_named(open_index: Open):
    rows = [row(n) for n in range(150)]
    with pytest.raises(ConfigurationError, match=r"unknown option of annoy 'tree'.*'trees'"):
        open_index("annoy", tree="7")
    with pytest.raises(
        ConfigurationError, match=r"index.options.base_rows of faiss is 'few': .* integer.*default: 5000"
    ):
        open_index(base_rows="few")
    with pytest.raises(ConfigurationError, match=r"index.options.factory is 'Flut', which FAISS cannot make"):
        load(open_index(factory="Flut"), rows)
    load(open_index(), rows)
    assert open_index().search(vector(0), k=1)
    with pytest.raises(ConfigurationError, match=r"index.options.search is 'nprobe=2', which FAISS does not take"):
        open_index(search="nprobe=2").search(vector(0), k=1)


def test_an_index_that_is_not_ours_to_read_is_named(open_index: Open, tmp_path: Path):
    load(open_index(), [row(n) for n in range(150)])
    assert open_index().search(vector(0), k=1)
    with pytest.raises(ConfigurationError, match=r"whose vectors have dimension 8: .* Name another index"):
        open_index(dimension=8).search(vector(0)[:8], k=1)
    [file] = tmp_path.glob("*/state.json")
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ConfigurationError, match="it has format 2, this lakeloop reads 1"):
        open_index()
    with pytest.raises(ConfigurationError, match="in a folder of this machine, not at s3://bucket"):
        open_store(Settings(index={"store": "faiss", "uri": "s3://bucket"}), dimension=DIMENSION)


def test_scann_is_asked_for_on_linux_only(open_index: Open, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    scann._scann.cache_clear()
    with pytest.raises(MissingDependencyError, match="for Linux only"):
        open_store(Settings(index={"store": "scann"}), dimension=DIMENSION).manifest()


@pytest.mark.parametrize(
    ("store", "options"),
    [
        ("faiss", {}),
        ("faiss", {"factory": "HNSW16"}),
        ("faiss", {"factory": "HNSW32"}),
        ("faiss", {"factory": "IVF64,Flat"}),
        ("annoy", {}),
        ("scann", {}),
    ],
)
def test_the_defaults_find_nearly_all_among_vectors_that_stand_in_no_clusters(
    tmp_path: Path, store: str, options: dict[str, str]
):
    """Like real ones: a few directions hold most of what tells them apart (docs/benchmarks.md has real ones)."""
    chance, width, count = np.random.default_rng(5), 96, 6_000
    spectrum = np.arange(1, width + 1) ** -0.4
    vectors = (chance.standard_normal((count + 100, width)) * spectrum).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    held_vectors, asked = vectors[:count], vectors[count:]
    template = row(0)
    rows = [template | {"chunk_id": str(n), "vector": v} for n, v in enumerate(held_vectors)]
    made = open_store(
        Settings(root=tmp_path, index={"store": store, "uri": str(tmp_path), "options": options}), dimension=width
    )
    try:
        made.manifest()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    made.upsert(table(rows))
    made.commit(manifest(rows[:1]), expected=None)
    assert state(tmp_path)["base"], "no base was built"
    exact = [set(np.argpartition(-(held_vectors @ query), 10)[:10].tolist()) for query in asked]
    found = [{int(hit.chunk_id) for hit in made.search(query, k=10)} for query in asked]
    recall = np.mean([len(a & b) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall >= 0.98, f"recall@10 {recall:.3f}"
