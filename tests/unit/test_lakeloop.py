"""`import lakeloop`: what a notebook does with a workspace, without Spark."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

import lakeloop
from tests.support.served import chunk, serve
from transformations.errors import ConfigurationError


@pytest.fixture
def workspace(tmp_path: Path) -> lakeloop.Workspace:
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing" / "a.md").write_text("# A\n\ncapsys returns captured output\n", encoding="utf-8")
    (tmp_path / "lakeloop.yml").write_text("ingest:\n  source: notes\n", encoding="utf-8")
    return lakeloop.open(
        tmp_path, overrides={"embedding.model": "tests.support.embedders:Free", "spark.master": "nowhere"}
    )


def test_importing_it_loads_nothing_heavy():
    heavy = ("pyspark", "mlflow", "lance", "pandas", "pyarrow", "deltalake", "onnxruntime", "openai")
    program = f"import sys, lakeloop; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_workspace_is_opened_by_its_folder_or_its_file_and_what_is_not_there_is_an_error(tmp_path: Path, workspace):
    assert workspace.settings.ingest.source == "notes"
    assert workspace.settings.embedding.model == "tests.support.embedders:Free"
    assert lakeloop.open(tmp_path / "lakeloop.yml").settings.root == tmp_path
    assert repr(workspace) == f"lakeloop.Workspace({str(tmp_path)!r})"
    with pytest.raises(lakeloop.LakeloopError, match="none"):
        lakeloop.open(tmp_path / "none")
    with pytest.raises(ConfigurationError, match=r"Did you mean 'index\.name'"):
        lakeloop.open(tmp_path, overrides={"index.nam": "x"})


def test_stages_are_run_and_the_state_is_told(workspace: lakeloop.Workspace):
    outcome = workspace.run("ingest-documents")
    assert [(stage.stage, stage.counts["new"]) for stage in outcome.stages] == [("ingest-documents", 1)]
    assert workspace.run("ingest-documents").stages == ()
    stages = {stage["stage"]: stage for stage in workspace.status()["stages"]}
    assert stages["ingest-documents"]["last_counts"]["new"] == 1
    assert stages["refine-documents"]["is_due"]
    with pytest.raises(ConfigurationError, match="Did you mean 'ingest-documents'"):
        workspace.run("ingest-document")


def test_tables_are_read_in_memory_as_they_are_and_as_they_were_ones_own_too(workspace: lakeloop.Workspace):
    assert "bronze.documents" not in workspace.tables
    workspace.run("ingest-documents")
    table = workspace.tables["bronze.documents"]
    assert table.to_arrow(columns=["path", "source"]).to_pylist() == [{"path": "a.md", "source": "notes"}]
    assert "content" in table.schema.names
    before = table.version
    (workspace.settings.landing_path / "b.md").write_text("# B\n", encoding="utf-8")
    workspace.run("ingest-documents")
    assert sorted(table.to_pandas(columns=["path"])["path"]) == ["a.md", "b.md"]
    assert table.to_arrow(columns=["path"], version=before).to_pylist() == [{"path": "a.md"}]
    assert repr(table) == f"<table bronze.documents, version {before + 1}>"
    own = workspace.settings.path("lakehouse") / "silver" / "trips"
    write_deltalake(str(own), pa.table({"Trip Id": [1, 2]}))
    assert workspace.tables["silver.trips"].to_arrow()["Trip Id"].to_pylist() == [1, 2]
    assert {"bronze.documents", "ops.stage_runs", "silver.trips"} <= set(workspace.tables)
    assert len(workspace.tables) == len([*workspace.tables])
    assert workspace.tables.get("silver.none") is None
    for name in ("silver.trip", "silver", "../silver.trips", "Silver.Trips"):
        with pytest.raises(ConfigurationError, match="unknown table"):
            workspace.tables[name]
    with pytest.raises(ConfigurationError, match="Did you mean 'path'"):
        table.to_arrow(columns=["paths"])


def test_what_was_set_aside_and_where_a_document_comes_from_are_told(workspace: lakeloop.Workspace):
    (workspace.settings.landing_path / "empty.md").touch()
    workspace.run("ingest-documents", "refine-documents")
    assert [(one.what, one.rules) for one in workspace.quarantine()] == [("empty.md", ("is_not_empty",))]
    found = workspace.trace("a.md")
    assert [step.place for step in found.steps][-1] == "file"
    assert str(found).startswith("document a.md")


def test_a_folder_that_holds_something_else_does_not_become_the_sample(tmp_path: Path, workspace):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match="holds something else"):
        lakeloop.sample(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sample_that_was_not_made_to_its_end_is_none(tmp_path: Path):
    for name in ("lakeloop.yml", "report.html"):  # the first delivery writes both
        (tmp_path / name).touch()
    with pytest.raises(ConfigurationError, match="not made to its end"):
        lakeloop.sample(tmp_path)


def test_no_sample_is_made_in_tables_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAKELOOP__LAKEHOUSE", str(tmp_path / "of somebody"))
    with pytest.raises(ConfigurationError, match=r"sample: .*LAKELOOP__LAKEHOUSE"):
        lakeloop.sample(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_an_index_is_searched_with_a_filter_and_after_closing_too(workspace: lakeloop.Workspace):
    with pytest.raises(ConfigurationError, match="lakeloop run"):
        workspace.search("captured output")
    serve(workspace.settings, [chunk("1", "capsys returns captured output"), chunk("2", "tmp_path is a folder")])
    (hit,) = workspace.search("capsys returns captured output", k=1)
    assert (hit.chunk_id, hit.text) == ("1", "capsys returns captured output")
    assert [hit.chunk_id for hit in workspace.search("captured output", where="path = 2.md")] == ["2"]
    with pytest.raises(ConfigurationError):
        workspace.search("captured output", where="path is 2.md")
    with workspace:
        assert workspace.search("a folder", k=1)
    assert workspace.search("a folder", k=1), "what was closed is opened again"


def test_it_works_where_an_event_loop_is_running_as_in_a_notebook(workspace: lakeloop.Workspace):
    async def cell() -> list[str]:
        workspace.run("ingest-documents")
        return [row["path"] for row in workspace.tables["bronze.documents"].to_arrow().to_pylist()]

    assert asyncio.run(cell()) == ["a.md"]
