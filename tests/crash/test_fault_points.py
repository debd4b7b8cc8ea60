"""A crash at each step of the protocol: readers go on with a whole state, and the next run is exact."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.flow.stage import Stage
from pipelines.gold import embed_chunks
from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings
from pipelines.silver import refine_documents
from pipelines.stores.lance import LanceStore
from pipelines.vector_index import lease as lease_module
from pipelines.vector_index import state as index_state
from pipelines.vector_index import writer
from pipelines.vector_index.audit import audit
from pipelines.vector_index.lease import Lease
from pipelines.vector_index.state import served, states
from pipelines.vector_index.sync import IndexSync
from pipelines.vector_index.writer import IndexWriter
from tests.support.chunked import INDEX_STAGES, chunk, deliver, settings_for, sync
from tests.support.embedders import counted
from tests.support.state import assert_refined_as_from_scratch
from transformations.index.fingerprint import fingerprint

CHUNKS = [chunk(document, place) for document in range(4) for place in range(10)]


class Crash(BaseException):
    """Nothing catches it: what follows does not run, as after a kill."""


# Where it dies: an attribute, and whether just before or just after it has done its work.
POINTS: dict[str, tuple[Any, str, bool]] = {
    "before the cache is committed": (Lakehouse, "append_arrow", False),
    "after the cache is committed": (Lakehouse, "append_arrow", True),
    "before gold.chunk_index is merged": (embed_chunks, "apply_changes", False),
    "after gold.chunk_index is merged": (embed_chunks, "apply_changes", True),
    "before the lease": (Lease, "acquire", False),
    "after the lease": (Lease, "acquire", True),
    "before the first upsert": (LanceStore, "upsert", False),
    "after the upserts": (LanceStore, "upsert", True),
    "before the deletes": (IndexWriter, "delete", False),
    "after the deletes": (LanceStore, "delete", True),
    "before the manifest moves": (LanceStore, "commit", False),
    "after the manifest moved": (LanceStore, "commit", True),
    "before the run is recorded": (IndexSync, "_record", False),
}


def dying(original: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if after:
            original(*arguments, **named)
        raise Crash

    return call


def seen_by_readers(settings: Settings) -> tuple[int, str]:
    """The version that readers get, after a check that its rows are those that its manifest names."""
    store = served(new_context(settings).lake, "chunks").open(settings)
    manifest = store.manifest()
    rows = [row_hash for batch in store.rows() for row_hash in batch.column("row_hash").to_pylist()]
    assert (fingerprint(rows), len(rows)) == (manifest.fingerprint, manifest.rows), "readers see half a sync"
    return manifest.version, manifest.fingerprint


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for all points, as it would be that crashes again and again."""
    return tmp_path_factory.mktemp("crashing")


# The points between which a reader could see half a sync; of the others CI runs those that leave something behind.
BY_DEFAULT = ("after the cache is committed", "after the upserts", "after the deletes", "after the manifest moved")


def _marks(point: str) -> Any:
    if point in BY_DEFAULT:
        return ()
    return pytest.mark.long if point.startswith("after") else pytest.mark.longest


@pytest.mark.parametrize("point", [pytest.param(p, marks=_marks(p)) for p in POINTS])
def test_a_crash_leaves_readers_a_whole_state_and_the_next_run_is_exact(point: str, root: Path, spark, monkeypatch):
    settings = settings_for(root)
    if new_context(settings).lake.head("silver.chunks") is None:
        deliver(settings, CHUNKS)
        sync(settings)
    before, paid = seen_by_readers(settings), counted()
    rows = new_context(settings).lake.read_arrow("silver.chunks", where={"document_id": "document-0"}).to_pylist()
    deliver(settings, [chunk(0, 0, f"The text as of: {point}.")], rows[:1])
    owner, name, after = POINTS[point]
    with monkeypatch.context() as patch:
        # A process that dies gives no lease back, and its number belongs to nobody.
        patch.setattr(Lease, "release", lambda self, manifest: self._stop.set())
        patch.setattr(os, "getpid", lambda: 999_999_999)
        patch.setattr(lease_module, "holder", lambda run_id: index_state.holder(run_id))
        patch.setattr(owner, name, dying(getattr(owner, name), after=after))
        with pytest.raises(Crash):
            run_stages(new_context(settings), stages=INDEX_STAGES)
    version, _ = seen_by_readers(settings)
    assert version == before[0] or point in ("after the manifest moved", "before the run is recorded")

    sync(settings)
    context = new_context(settings)
    assert all(audit(context, state).is_equal for state in states(context.lake, "chunks"))
    assert counted() - paid <= (2 if point == "before the cache is committed" else 1), "embedded again what was paid"
    assert sync(settings) == {}


def test_a_first_load_that_dies_half_way_is_finished_without_a_row_twice(tmp_path: Path, spark, monkeypatch):
    """An empty index is filled without looking for ids; what a crash left in it must be looked for."""
    settings, calls = settings_for(tmp_path), []
    deliver(settings, CHUNKS)
    upsert = LanceStore.upsert

    def dies_after_two(store: LanceStore, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        calls.append(are_new)
        upsert(store, rows, are_new=are_new)
        if len(calls) == 2:
            raise Crash
        return {}

    monkeypatch.setattr(writer, "ROWS_PER_CALL", 10)
    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "upsert", dies_after_two)
        with pytest.raises(Crash):
            sync(settings)
        assert sync(settings)["sync-index"]["rows"] == 40
    assert calls == [True, True, False, False], "the 20 rows that it left were compared, the others written"
    store = served(new_context(settings).lake, "chunks").open(settings)
    assert sum(batch.num_rows for batch in store.rows()) == 40
    assert all(audit(new_context(settings), state).is_equal for state in states(new_context(settings).lake, "chunks"))


@pytest.mark.parametrize(
    "call",
    [
        pytest.param("before the history", marks=pytest.mark.longest),
        "after the history",
        pytest.param("after the documents", marks=pytest.mark.longest),
    ],
)
@pytest.mark.long
def test_a_crash_between_history_and_documents_leaves_a_past_that_a_rebuild_gives_too(
    call: str, tmp_path: Path, spark, monkeypatch
):
    """One edition is refused, one edited, one gone and one come back: each is told once, whenever it died."""
    settings = settings_for(tmp_path)
    stages = [stage_named("ingest-documents"), stage_named("refine-documents")]
    deliver_files(settings, {"a.md": "Alpha.", "b.md": "Beta.", "c.md": "Gamma."}, stages=stages)
    deliver_files(settings, {"c.md": None}, stages=stages)
    writes, apply_changes = [], refine_documents.apply_changes

    def dying_at_a_write(*arguments: Any) -> Any:
        writes.append(arguments[1])
        if (call, len(writes)) == ("before the history", 1):
            raise Crash
        result = apply_changes(*arguments)
        if (call, len(writes)) in (("after the history", 1), ("after the documents", 2)):
            raise Crash
        return result

    with monkeypatch.context() as patch:
        patch.setattr(refine_documents, "apply_changes", dying_at_a_write)
        with pytest.raises(Crash):
            deliver_files(settings, {"a.md": "Alpha, edited.", "b.md": "", "c.md": "Gamma."}, stages=stages)
    assert writes == ["silver.documents_history", "silver.documents"][: len(writes)]
    run_stages(new_context(settings), stages=stages)
    lake = new_context(settings).lake
    rows = lake.read_arrow("silver.documents_history").to_pylist()
    told = [("a.md", None), ("a.md", None), ("b.md", "delete"), ("b.md", None)]
    told += [("c.md", "delete"), ("c.md", None), ("c.md", None)]
    assert sorted(((row["path"], row["_marks"]) for row in rows), key=str) == sorted(told, key=str)
    texts = dict(zip(*lake.read_arrow("silver.documents", columns=["path", "text"]).to_pydict().values(), strict=True))
    assert texts == {"a.md": "Alpha, edited.", "c.md": "Gamma."}
    assert_refined_as_from_scratch(settings)


def deliver_files(settings: Settings, files: Mapping[str, str | None], *, stages: Sequence[Stage]) -> None:
    for path, text in files.items():
        file = settings.landing_path / path
        file.unlink() if text is None else file.write_text(text, encoding="utf-8")
    run_stages(new_context(settings, force=True), stages=stages)
