"""Every place that ever held an index: what forget does there, and what finish leaves. No JVM is started."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.conductor.run import new_context, record, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.flow.stage import Context, everything, moved
from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.models.embedders import embedding_model
from pipelines.operations.forget_index import clear_place, places_to_clear
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from pipelines.vector_index.places import Place, note, places
from pipelines.vector_index.state import change, index_models, served, states, updated
from pipelines.vector_index.swap import finish
from transformations.errors import ConfigurationError
from transformations.index.fingerprint import row_hash_of

EMBED, SYNC = DOCUMENT_STAGES[3], DOCUMENT_STAGES[4:]
SECRET = "Zanzibar-Quokka-7781"


def workspace_at(root: Path, *, model: str = "Free", **index: Any) -> Settings:
    (root / "landing").mkdir(parents=True, exist_ok=True)
    return Settings(root=root, embedding={"model": f"tests.support.embedders:{model}"}, index=index)


def add(settings: Settings, *texts: str) -> None:
    """Rows of gold.chunk_index for the settings' model, in one commit: one document a row."""
    rows = []
    for place, text in enumerate(texts):
        row = dict.fromkeys(INDEX_SCHEMA.names, text) | {"heading_path": [], "model": embedding_model(settings).label}
        vector = np.zeros(64, dtype=np.float32)
        vector[place % 64] = 1
        rows.append(row | {"row_hash": row_hash_of(row), "vector": vector.tolist()})
    new_context(settings).lake.append_arrow("gold.chunk_index", rows)


def sync(settings: Settings) -> None:
    run_stages(new_context(settings), stages=SYNC)


def embedded(settings: Settings) -> None:
    """embed-chunks has run up to now."""
    context = embedding(settings)
    context.lake.ensure("silver.chunks")
    record(EMBED, context, everything(EMBED, context), counts={}, started_at=context.now(), seconds=0.0)


def embedding(settings: Settings) -> Context:
    """A run of embed-chunks for the settings' own model."""
    context = new_context(settings)
    return context.for_subject(index_models(context)[-1])


def holding(root: Path) -> set[str]:
    """The folders of the workspace in which a file tells the secret."""
    files = [path for path in root.rglob("*") if path.is_file() and "lakehouse" not in path.parts]
    return {path.relative_to(root).parts[0] for path in files if SECRET.encode() in path.read_bytes()}


def test_a_document_leaves_every_place_where_an_index_ever_was(tmp_path: Path):
    first = workspace_at(tmp_path, uri="first-place")
    add(first, SECRET, "another", "a third")
    faiss, other = workspace_at(tmp_path, store="faiss", uri="by-faiss"), workspace_at(tmp_path, name="other")
    now = workspace_at(tmp_path)
    for settings in (first, faiss, other, now):
        sync(settings)
    assert holding(tmp_path) == {"first-place", "by-faiss", "index"}
    context = new_context(now)
    found = places_to_clear(context)
    assert {(p.index_name.split("_")[0], p.store, Path(p.uri).name) for p in found} == {
        ("chunks", "lance", "index"),
        ("chunks", "lance", "first-place"),
        ("chunks", "faiss", "by-faiss"),
        ("other", "lance", "index"),
    }
    cleared = [clear_place(context, place, [SECRET]) for place in found]
    assert [(c.rows, c.is_cleared) for c in cleared] == [(1, True)] * 4, [c.line for c in cleared]
    assert holding(tmp_path) == set()
    assert [clear_place(context, place, [SECRET]).rows for place in found] == [0] * 4, "again: nothing is left"
    for settings, place in ((other, "other"), (now, "chunks")):
        state = served(new_context(settings).lake, place)
        rows = [text for batch in state.open(settings).rows() for text in batch["text"].to_pylist()]
        assert sorted(rows) == ["a third", "another"]
        assert state.lease_holder is None


def test_a_workspace_that_was_moved_clears_its_earlier_places_and_leaves_those_outside_it(tmp_path: Path):
    outside = {"uri": str(tmp_path / "outside")}
    add(workspace_at(tmp_path / "before"), SECRET, "another")
    for index in (outside, {"uri": "first-place"}, {}):
        sync(workspace_at(tmp_path / "before", **index))
    (tmp_path / "before").rename(tmp_path / "moved")
    context = new_context(workspace_at(tmp_path / "moved"))
    cleared = {Path(p.uri).name: clear_place(context, p, [SECRET]) for p in places_to_clear(context)}
    assert {name: (c.rows, c.is_cleared) for name, c in cleared.items()} == {
        "index": (1, True),
        "first-place": (1, True),
        "outside": (0, False),
    }
    assert holding(tmp_path / "moved") == set()
    # A copy would say the same of what the workspace that it was copied from still serves.
    assert str(tmp_path / "before") in cleared["outside"].line
    assert "remove the index where that workspace is no more" in cleared["outside"].line


def test_the_command_of_a_receipt_works_beside_the_options_of_another_store(tmp_path: Path):
    (tmp_path / "lakeloop.yml").write_text(
        "index: {store: faiss, options: {base_rows: 7}}\nembedding: {model: tests.support.embedders:Free}\n"
    )
    context = new_context(load_settings(tmp_path / "lakeloop.yml"))
    gone = Place("chunks_12345678", "chunks", "chroma", "http://127.0.0.1:9", context.settings.embedding.model, 64)
    line = clear_place(context, gone, ["some-document"]).line
    words = shlex.split(line[line.index("lakeloop forget") :])
    assert words[:4] == ["lakeloop", "forget", "some-document", "--only-index"]
    overrides = [value for option, value in pairwise(words) if option == "--set"]
    told = load_settings(tmp_path / "lakeloop.yml", overrides=overrides)
    gone.open(told).close()
    assert (told.index.store, told.index.uri, told.index.options) == ("chroma", "http://127.0.0.1:9", {})


def test_a_place_that_does_not_answer_or_is_anothers_is_named(tmp_path: Path):
    settings = workspace_at(tmp_path / "own")
    add(settings, SECRET)
    sync(settings)
    context = new_context(settings)
    gone = Place("chunks_12345678", "chunks", "chroma", "http://127.0.0.1:9", settings.embedding.model, 64)
    note(context.lake, [gone])
    result = clear_place(context, gone, ["some-document"])
    assert not result.is_cleared
    command = "lakeloop forget some-document --only-index --set index.store=chroma --set 'index.uri=http://127.0.0.1:9'"
    assert command in result.line

    stranger = workspace_at(tmp_path / "stranger", uri=str(tmp_path / "shared"))
    add(stranger, "of the stranger", SECRET)
    sync(stranger)
    theirs = served(new_context(stranger).lake, "chunks").place
    note(context.lake, [theirs])
    result = clear_place(context, theirs, [SECRET])
    assert not result.is_cleared
    assert "belongs to the workspace" in result.line
    assert str(stranger.root) in result.line
    assert SECRET in {t for b in theirs.open(stranger).rows() for t in b["text"].to_pylist()}


def test_finish_drops_an_index_where_it_is_also_after_the_settings_went_elsewhere(tmp_path: Path):
    old, new = workspace_at(tmp_path, uri="before"), workspace_at(tmp_path, uri="before", model="Other")
    add(old, SECRET)
    add(new, "of the new one")
    sync(old)
    sync(new)
    assert holding(tmp_path) == {"before"}
    lake = new_context(old).lake
    names = {state.model_name.split(":")[1]: state.index_name for state in states(lake, "chunks")}
    change(lake, lambda rows: updated(updated(rows, names["Free"], role="previous"), names["Other"], role="served"))
    finish(new_context(workspace_at(tmp_path, uri="elsewhere", model="Other")))
    assert holding(tmp_path) == set(), "it was dropped, and not only its place forgotten"
    assert [place.index_name for place in places(lake)] == [names["Other"]]


def test_finish_leaves_the_rows_that_another_index_serves_and_what_it_drops_is_due_again(tmp_path: Path):
    old, new = workspace_at(tmp_path), workspace_at(tmp_path, model="Other")
    second = workspace_at(tmp_path, name="second")
    add(old, "one", "two")
    add(new, "one", "two")
    lake = new_context(old).lake
    for settings in (old, new, second):
        sync(settings)
    for settings in (old, new):
        embedded(settings)
        assert moved(EMBED, embedding(settings)) is None
    names = {state.model_name.split(":")[1]: state.index_name for state in states(lake, "chunks")}
    change(lake, lambda rows: updated(updated(rows, names["Free"], role="previous"), names["Other"], role="served"))
    assert finish(new_context(new))["dropped"] == [names["Free"]]
    models = lake.read_arrow("gold.chunk_index")["model"].to_pylist()
    assert sorted({model.split(":")[1].split("@")[0] for model in models}) == ["Free", "Other"], "the second serves it"
    assert names["Free"] not in {place.index_name for place in places(lake)}
    assert moved(EMBED, embedding(old)) is None, "nothing of it was dropped"
    change(lake, lambda rows: [row for row in rows if row.alias != "second"])
    # What a finish that died left behind is dropped by the next one.
    assert finish(new_context(new))["dropped"] == []
    assert set(lake.read_arrow("gold.chunk_index")["model"].to_pylist()) == {embedding_model(new).label}
    with pytest.raises(ConfigurationError, match="no index that is not served"):
        finish(new_context(new))
    again = moved(EMBED, embedding(old))
    assert again is not None
    assert again.first.since is None, "all of its rows are to be written again"
    assert moved(EMBED, embedding(new)) is None
