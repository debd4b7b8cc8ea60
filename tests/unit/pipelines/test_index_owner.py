"""Whose an index is: two workspaces at one address, copies, leases, options. The first sync of a table needs no JVM."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.answering import search
from pipelines.answering.search import Searcher
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.flow.stage import Work
from pipelines.index.sync_index import STAGE
from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.models.embedders import embedding_model
from pipelines.operations.status import describe
from pipelines.settings.sections import Settings
from pipelines.stores import open_store
from pipelines.vector_index import lease as lease_module
from pipelines.vector_index.lease import writing
from pipelines.vector_index.places import kept, places
from pipelines.vector_index.state import physical_name, served, updated
from transformations.errors import ConfigurationError, RefusedError
from transformations.index.fingerprint import row_hash_of

SYNC = DOCUMENT_STAGES[4:]


def workspace_at(root: Path, **index: Any) -> Settings:
    (root / "landing").mkdir(parents=True, exist_ok=True)
    return Settings(root=root, embedding={"model": "tests.support.embedders:Free"}, index=index)


def add(settings: Settings, *texts: str) -> None:
    """Rows of gold.chunk_index, in one commit."""
    rows = []
    for text in texts:
        row = dict.fromkeys(INDEX_SCHEMA.names, text) | {"heading_path": [], "model": embedding_model(settings).label}
        vector = np.zeros(64, dtype=np.float32)
        vector[len(text) % 64] = 1
        rows.append(row | {"row_hash": row_hash_of(row), "vector": vector.tolist()})
    new_context(settings).lake.append_arrow("gold.chunk_index", rows)


def sync(settings: Settings, *, force: bool = False) -> dict[str, int]:
    outcome = run_stages(new_context(settings, force=force), stages=SYNC)
    return dict(outcome.stages[0].counts) if outcome.stages else {}


def index_rows(settings: Settings) -> set[str]:
    state = served(new_context(settings).lake, settings.index.name)
    return {text for batch in state.open(settings).rows() for text in batch["text"].to_pylist()}


def test_an_index_of_another_workspace_is_refused_by_name_whatever_is_forced(tmp_path: Path):
    shared = {"uri": str(tmp_path / "shared")}
    first, second = workspace_at(tmp_path / "first", **shared), workspace_at(tmp_path / "second", **shared)
    add(first, *(f"of the first {n}" for n in range(20)))
    add(second, "of the second")
    assert sync(first)["rows"] == 20
    for force in (False, True):
        with pytest.raises(RefusedError, match=rf"belongs to the workspace .* in {first.root}") as refusal:
            sync(second, force=force)
        assert "run again with --force" not in str(refusal.value)
    assert any("belongs to the workspace" in warning for warning in describe(second)[0]["warnings"])
    assert index_rows(first) == {f"of the first {n}" for n in range(20)}
    assert sync(first) == {}
    assert Searcher(first).search("anything", k=30)

    # The workspace that served another place before is not deceived either: it neither reads nor writes.
    own = workspace_at(tmp_path / "second", uri="index")
    assert sync(own)["rows"] == 1
    with pytest.raises(RefusedError, match=str(first.root)):
        Searcher(second)
    with pytest.raises(RefusedError, match=str(first.root)):
        sync(second, force=True)
    assert Searcher(own).search("anything", k=1)


def test_rows_that_another_workspace_is_still_writing_are_refused_however_often_it_is_tried(tmp_path: Path):
    shared = {"uri": str(tmp_path / "shared")}
    first, second = workspace_at(tmp_path / "first", **shared), workspace_at(tmp_path / "second", **shared)
    add(first, "of the first")
    add(second, "of the second")
    model = embedding_model(first)
    store = open_store(first, dimension=model.dimension, name=physical_name("chunks", model))
    rows = new_context(first).lake.read_arrow("gold.chunk_index", columns=INDEX_SCHEMA.names)
    store.upsert(rows)  # and no commit: its filling goes on
    for _ in range(2):
        with pytest.raises(RefusedError, match=r"was never finished, and this workspace did not begin it"):
            sync(second, force=True)
        assert places(new_context(second).lake) == [], "it is not taken for its own the next time"
    held = [chunk_id for batch in store.ids_with_hashes() for chunk_id in batch["chunk_id"].to_pylist()]
    assert held == ["of the first"]


def look_of(settings: Settings) -> Work | None:
    (context,) = STAGE.contexts(new_context(settings))
    return STAGE.look(context)


def test_a_copy_of_a_workspace_that_shares_an_index_is_told_apart_and_a_moved_one_goes_on(tmp_path: Path):
    shared = {"uri": str(tmp_path / "shared")}
    first = workspace_at(tmp_path / "first", **shared)
    add(first, "one")
    sync(first)
    shutil.copytree(first.root, tmp_path / "copy")
    copy = workspace_at(tmp_path / "copy", **shared)
    assert sync(copy) == {}, "it was moved, as far as one can tell"
    shutil.copytree(first.root, tmp_path / "late")
    late = workspace_at(tmp_path / "late", **shared)
    add(late, "two of the late one")
    manifest = served(new_context(first).lake, "chunks").manifest(first)
    state = served(new_context(first).lake, "chunks")
    store = state.open(first)
    store.commit(replace(manifest, fence=manifest.fence + 1), expected=manifest)  # the first one went on writing
    with pytest.raises(RefusedError, match=rf"in {first.root}, not to this one in {late.root}"):
        look_of(late)
    assert look_of(first) is None


def test_a_place_is_kept_so_that_a_copy_means_its_own(tmp_path: Path):
    settings = workspace_at(tmp_path)
    assert kept(settings, str(tmp_path / "index")) == "index"
    assert kept(settings, "/elsewhere") == "/elsewhere"
    local = workspace_at(tmp_path / "w")
    add(local, "one")
    sync(local)
    moved = workspace_at(tmp_path / "w", uri="other")
    assert sync(moved)["rows"] == 1
    assert {place.uri for place in places(new_context(moved).lake)} == {
        str(tmp_path / "w" / name) for name in ("index", "other")
    }


def until(happens: Callable[[], bool]) -> None:
    """Wait for it, as long as a busy machine may take."""
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_failed_renewal_does_not_end_a_run_and_a_lost_lease_says_so(tmp_path: Path, monkeypatch):
    settings = workspace_at(tmp_path, lease_seconds=3)
    add(settings, "one")
    sync(settings)
    context, name = new_context(settings), served(new_context(settings).lake, "chunks").index_name
    change, failing = lease_module.change, [1]

    def sometimes(*arguments: Any) -> Any:
        if failing:
            failing.pop()
            raise OSError("no space left")
        return change(*arguments)

    def renewed() -> bool:
        return served(context.lake, "chunks").lease_until > first

    with writing(context, name, at_least=0) as lease:
        first = served(context.lake, "chunks").lease_until
        monkeypatch.setattr(lease_module, "change", sometimes)
        until(lambda: not failing)
        until(renewed)
        lease.check()
        failing += [1] * 100_000
        with pytest.raises(RefusedError, match=r"could not be renewed for \d+ s \(OSError: no space left\)"):
            until(lambda: lease.check() is not None)
        failing.clear()
        change(context.lake, lambda rows: updated(rows, name, fence=lease.fence + 1))
        with pytest.raises(RefusedError, match="another run took the lease"):
            until(lambda: "took the lease" in str(error_of(lease)) and lease.check() is not None)
        lease.release(None)
    assert served(context.lake, "chunks").fence == lease.fence + 1, "what is another's was left alone"


def error_of(lease: Any) -> RefusedError | None:
    try:
        lease.check()
    except RefusedError as error:
        return error
    return None


@pytest.mark.parametrize("store", ["chroma", "milvus", "faiss"])
def test_a_wrong_option_is_told_before_the_first_stage(tmp_path: Path, store: str):
    option = "base_rows" if store == "faiss" else "timeout_seconds"
    uri = "index" if store == "faiss" else "http://127.0.0.1:9"
    settings = workspace_at(tmp_path, store=store, uri=uri, options={option: "soon"})
    with pytest.raises(ConfigurationError, match="soon"):
        run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    assert new_context(settings).lake.head("bronze.documents") is None


@pytest.mark.parametrize(
    "ask", [Searcher.manifest, lambda s: s.search("a", k=1), lambda s: s.search_vector([1.0], k=1)]
)
def test_a_store_is_not_closed_while_it_is_asked_though_the_alias_moves_on(tmp_path: Path, monkeypatch, ask):
    settings = workspace_at(tmp_path)
    label = embedding_model(settings).label

    class Stored:
        """Another thread's look finds the alias moved in the midst of what is asked of it."""

        is_closed = False

        def asked(self, *_: object, **__: object) -> Any:
            searcher._opened = searcher._look(searcher._opened)
            assert not self.is_closed
            return []

        manifest = search = asked

        def close(self) -> None:
            self.is_closed = True

    places = iter(range(9))

    def open_served(*_: object) -> Any:
        state = SimpleNamespace(index_name=f"i{next(places)}", uri="u")
        return state, Stored(), SimpleNamespace(model=settings.embedding.model, model_label=label)

    monkeypatch.setattr(search, "open_served", open_served)
    searcher = Searcher(settings)
    assert ask(searcher) == []
