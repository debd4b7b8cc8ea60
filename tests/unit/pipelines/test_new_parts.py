"""A new stage and a new store, as a contributor adds them: one short file each, and one line in a list of names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.answering.search import Searcher
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES, stage_named
from pipelines.lakehouse.schemas import TABLES
from pipelines.settings.sections import Settings
from pipelines.stores import STORES
from tests.support import toy_stage, toy_store
from tests.support.chunked import settings_for
from transformations.index.fingerprint import row_hash_of
from transformations.tables.filters import equals

INGEST, SYNC = stage_named("ingest-documents"), DOCUMENT_STAGES[4]


@pytest.mark.parametrize("module", [toy_stage, toy_store])
def test_they_are_short(module):
    lines = Path(module.__file__).read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) < 60


def test_a_stage_of_one_file_is_due_once_costs_what_changed_and_ends_the_same_after_a_kill(tmp_path: Path):
    (tmp_path / "landing").mkdir()
    settings = Settings(root=tmp_path)

    def deliver(**texts: str) -> None:
        for name, text in texts.items():
            (settings.landing_path / f"{name}.md").write_text(text, encoding="utf-8")
        run_stages(new_context(settings), stages=[INGEST])

    def run() -> list[dict[str, int]]:
        return [dict(s.counts) for s in run_stages(new_context(settings), stages=[toy_stage.STAGE]).stages]

    def sizes() -> dict[str, int]:
        lake = new_context(settings).lake
        lake.declare(toy_stage.TARGET, toy_stage.SPEC)
        return {row["path"]: row["bytes"] for row in lake.read_arrow(toy_stage.TARGET).to_pylist()}

    assert run() == [], "there is no source yet"
    deliver(a="one", b="four")
    assert run() == [{"insert": 2, "update": 0, "delete": 0}]
    assert run() == []
    deliver(a="seven77")
    (settings.landing_path / "b.md").unlink()
    deliver(c="")
    context = new_context(settings)
    context.lake.declare(toy_stage.TARGET, toy_stage.SPEC)
    work = toy_stage.look(context)
    assert work is not None
    assert toy_stage.work(context, work) == {"insert": 1, "update": 1, "delete": 1}
    # Killed before it was recorded: the next run reads the same, and finds it done.
    assert run() == [{"insert": 0, "update": 0, "delete": 0}]
    assert run() == []
    assert sizes() == {"a.md": 7, "c.md": 0}


def test_a_store_of_one_file_is_kept_in_step_and_searched(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(STORES, "toy", "tests.support.toy_store:ToyStore")
    settings = settings_for(tmp_path, store="toy")
    context = new_context(settings)
    (subject,) = [each.subject for each in SYNC.contexts(context)]
    assert subject is not None
    assert subject.name == settings.embedding.model
    rows = []
    for number, text in enumerate(["one", "two", "three"]):
        row = {"chunk_id": text, "document_id": "d", "path": f"{number}.md", "title": None, "heading_path": ["T"]}
        row |= {"text": text, "text_hash": text, "format": "md", "source": "files", "model": subject.key}
        (vector,) = subject.of.load(threads=1).embed([text])
        rows.append(row | {"row_hash": row_hash_of(row), "vector": vector.tolist()})
    context.lake.append_arrow("gold.chunk_index", pa.Table.from_pylist(rows, schema=TABLES["gold.chunk_index"].schema))
    (first,) = run_stages(new_context(settings), stages=[SYNC]).stages
    assert first.counts["upserts"] == first.counts["rows"] == 3
    assert run_stages(new_context(settings), stages=[SYNC]).stages == ()
    searcher = Searcher(settings)
    assert searcher.search("two", k=1)[0].chunk_id == "two"
    assert [hit.chunk_id for hit in searcher.search("two", k=3, where=equals(path="2.md"))] == ["three"]
    assert searcher.manifest().rows == 3
