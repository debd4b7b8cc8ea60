"""kill -9, by another process, at each step of a run and again in the next one: the end is that of a quiet run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.operations.verify import verify
from pipelines.settings.sections import Settings
from tests.support.by_spark import by_spark
from tests.support.history import write
from tests.support.killer import kill_when, run
from tests.support.state import assert_refined_as_from_scratch, assert_same, state


def _documents(edition: int) -> dict[str, str]:
    """Twenty documents; a later edition edits some, adds one and drops two."""
    files = {}
    for number in range(edition, 20 + edition):
        edited = f", as of edition {edition}" if number % 4 == 0 else ""
        sections = [
            f"## Section {s}\n\nPart {s} of document {number}{edited} is about subject {number * s}.\n"
            for s in range(4)
        ]
        files[f"chapter {number % 3}/document-{number}.md"] = f"# Document {number}\n\n" + "\n".join(sections)
    return files


def _commits(settings: Settings, table: str) -> int:
    return len(list((new_context(settings).lake.folder(table) / "_delta_log").glob("*.json")))


@pytest.mark.long
@pytest.mark.parametrize("edition", [0, pytest.param(2, marks=pytest.mark.longest)])
def test_a_run_killed_at_every_other_step_and_run_again_equals_a_quiet_run(
    edition: int, workspace: Settings, spark, tmp_path_factory
):
    """The first load is killed at one half of the steps, a second delivery at the other half."""
    root = workspace.root
    (root / "lakeloop.yml").write_text("embedding: {batch_size: 2, commit_seconds: 0}\n", encoding="utf-8")
    moments = {
        "arrivals stored": lambda: _commits(workspace, "bronze.documents") > before["bronze.documents"],
        "versions merged": lambda: _commits(workspace, "silver.documents_history") > before["silver.documents_history"],
        "documents merged": lambda: _commits(workspace, "silver.documents") > before["silver.documents"],
        "chunks merged": lambda: _commits(workspace, "silver.chunks") > before["silver.chunks"],
        "some embeddings stored": lambda: _commits(workspace, "gold.embeddings") > before["gold.embeddings"] + 1,
        "rows to serve merged": lambda: _commits(workspace, "gold.chunk_index") > before["gold.chunk_index"],
        "index written": lambda: _index_files(root) > before["index"],
    }
    tables = ("bronze.documents", "silver.documents_history", "silver.documents", "silver.chunks")
    tables += ("gold.embeddings", "gold.chunk_index")
    chosen = list(moments.values())[edition // 2 :: 2]
    if edition:
        write(workspace.landing_path, _documents(0))
        run_stages(new_context(workspace), stages=DOCUMENT_STAGES)
    write(workspace.landing_path, _documents(edition))
    kills = 0
    for moment in chosen:
        # Creating a table is a commit as well: the moment wanted is the one after.
        before = {table: max(_commits(workspace, table), 1) for table in tables} | {"index": _index_files(root)}
        kills += kill_when(["run"], cwd=root, moment=moment)
    assert kills == len(chosen), "a run ended before the moment to kill it came"
    done = run(["run", "--json"], cwd=root)
    assert done.returncode == 0, done.stderr
    result = verify(new_context(workspace))
    assert result.is_equal, result.differences[:5]
    assert run(["run", "--detailed-exitcode"], cwd=root).returncode == 3

    scratch = Settings(root=tmp_path_factory.mktemp("scratch"))
    write(scratch.landing_path, _documents(edition))
    with by_spark():
        run_stages(new_context(scratch), stages=DOCUMENT_STAGES)
    assert_same(state(workspace), state(scratch))
    assert_refined_as_from_scratch(workspace)


def _index_files(root: Path) -> int:
    """How many data files the index has, behind whichever model's name."""
    return len(list((root / "index").glob("chunks_*.lance/data/*.lance")))
