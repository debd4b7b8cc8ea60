"""From an index entry back to its file: over a small workspace, after edits, refusals, deletions and a lost entry."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.main import main
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.flow.stage import Context
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.operations.trace import Trace, render, trace
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from pipelines.vector_index.state import served
from transformations.errors import ConfigurationError


def _steps(found: Trace, place: str) -> list[dict[str, Any]]:
    return [dict(step.facts) for step in found.steps if step.place == place]


def _without_spark(settings: Settings) -> Context:
    def explode():
        raise AssertionError("a trace asked for Spark")

    context = new_context(settings)
    return Context(settings, open_lakehouse(settings, spark=explode), context.run_id)


@pytest.fixture
def built(tmp_path: Path, spark) -> tuple[Settings, list[str]]:
    """A workspace that two runs built: a.md and b.md arrived in the first, a.md was edited before the second."""
    (tmp_path / "landing").mkdir()
    (tmp_path / "lakeloop.yml").write_text('embedding: {model: "tests.support.embedders:Free"}\n')
    settings = load_settings(tmp_path / "lakeloop.yml")
    (tmp_path / "landing" / "a.md").write_text("# A\n\nAbout the first subject.\n\n## More\n\nWhat stays as it was.\n")
    (tmp_path / "landing" / "b.md").write_text("# B\n\nAbout another subject altogether.\n")
    (tmp_path / "landing" / "bad.txt").write_bytes(b"\x00\x01\x02\x03" * 100)
    runs = []
    for edit in (None, "# A\n\nAbout the first subject, edited.\n\n## More\n\nWhat stays as it was.\n"):
        if edit:
            (tmp_path / "landing" / "a.md").write_text(edit)
            (tmp_path / "landing" / "b.md").unlink()
        context = new_context(settings, force=True)
        run_stages(context, stages=DOCUMENT_STAGES)
        runs.append(context.run_id)
    return settings, runs


def test_the_way_back_from_a_chunk_names_every_row_its_run_and_the_file(built, monkeypatch, capsys):
    settings, (first, second) = built
    context = _without_spark(settings)
    rows = context.lake.read_arrow("silver.chunks", columns=["chunk_id", "text", "_run_id", "_source_version"])
    by_text = {row["text"]: row for row in rows.to_pylist()}
    edited = next(row for text, row in by_text.items() if "edited" in text)
    kept = next(row for text, row in by_text.items() if "stays" in text)
    assert (kept["_run_id"], edited["_run_id"]) == (first, second), "a row that did not change keeps its run"
    assert kept["_source_version"] < edited["_source_version"] == context.lake.head("silver.documents").version

    found = trace(context, edited["chunk_id"])
    assert found.kind == "chunk"
    [entry] = _steps(found, "index")
    assert (entry["is_held"], entry["is_as_in_table"], entry["version"]) == (True, True, entry["table_version"])
    [row] = _steps(found, "gold.chunk_index")
    assert (row["_run_id"], row["_source_version"]) == (second, context.lake.head("silver.chunks").version)
    [vector] = _steps(found, "gold.embeddings")
    assert (vector["_run_id"], row["model"].startswith(vector["model"])) == (second, True)
    [document] = _steps(found, "silver.documents")
    file = settings.landing_path / "a.md"
    assert document["content_hash"] == hashlib.sha256(file.read_bytes()).hexdigest()
    before, now = _steps(found, "bronze.documents")
    assert [(a["_run_id"], a["is_source"]) for a in (before, now)] == [(first, False), (second, True)]
    assert _steps(found, "file")[0]["is_as_it_arrived"]
    stages = {(run["run_id"], run["stage"]) for run in found.runs}
    assert {(second, "ingest-documents"), (second, "embed-chunks"), (first, "refine-documents")} <= stages
    assert {run["to_version"] for run in found.runs if run["stage"] == "embed-chunks"} >= {row["_source_version"]}

    # The same by its path, and on the command line.
    assert [s.place for s in trace(context, "a.md").steps] == [
        "silver.documents", "silver.documents_history", "silver.documents_history", "bronze.documents",
        "bronze.documents", "file",
    ]  # fmt: skip
    monkeypatch.chdir(settings.root)
    main(["trace", edited["chunk_id"]])
    said = capsys.readouterr().out
    assert said.splitlines()[0] == f"chunk {edited['chunk_id']}"
    assert said.splitlines() == list(render(found))
    assert f"run {second}: embed-chunks, versions (" in said

    # The file is edited again, and the entry is lost from the index: the trace says both.
    import lance

    file.write_text("others have edited it")
    state = served(context.lake, "chunks")
    dataset = lance.dataset(f"{state.uri}/{state.index_name}.lance")
    dataset.delete(f"chunk_id = '{edited['chunk_id']}'")
    found = trace(context, edited["chunk_id"])
    assert [(e["is_held"], e["is_as_in_table"]) for e in _steps(found, "index")] == [(False, False)]
    assert [(f["is_there"], f["is_as_it_arrived"]) for f in _steps(found, "file")] == [(True, False)]

    # What was deleted is known by its arrivals, what was refused by its reason.
    gone = trace(context, "b.md")
    assert [a["op"] for a in _steps(gone, "bronze.documents")] == ["upsert", "delete"]
    assert (_steps(gone, "silver.documents"), _steps(gone, "file")[0]["is_there"]) == ([], False)
    [refused] = _steps(trace(context, "bad.txt"), "silver.documents_quarantine")
    assert (refused["_run_id"], bool(refused["failed_rules"])) == (first, True)

    with pytest.raises(ConfigurationError, match=r"trace: no chunk.*'a\.m'.*Did you mean 'a\.md'") as error:
        trace(context, "a.m")
    assert error.value.exit_code == 5
    with pytest.raises(ConfigurationError, match="lakeloop search"):
        trace(context, "' OR 1=1 --")
