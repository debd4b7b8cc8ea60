"""The stages from files to index: what each costs when little or nothing has changed."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.flow.stage import Context
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.schemas import TABLES
from pipelines.operations.verify import verify
from pipelines.settings.sections import Settings
from pipelines.vector_index.state import served

WORDS = "table stream commit merge schema reader writer column version file batch".split()  # noqa: SIM905


def _paragraph(seed: int) -> str:
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(45)).capitalize() + f" {seed}."


def _counts(settings: Settings, *, force: bool = False) -> dict[str, dict[str, int]]:
    outcome = run_stages(new_context(settings, force=force), stages=DOCUMENT_STAGES)
    return {stage.stage: dict(stage.counts) for stage in outcome.stages}


def _versions(settings: Settings) -> dict[str, int | None]:
    lake = new_context(settings).lake
    heads = {table: lake.head(table) for table in TABLES}
    return {table: head.version if head else None for table, head in heads.items()}


@pytest.fixture
def long_document(workspace: Settings, spark) -> tuple[Path, list[str]]:
    """A workspace that served one document of 120 paragraphs under one heading, and five short ones."""
    paragraphs = [_paragraph(n) for n in range(120)]
    path = workspace.landing_path / "long.md"
    path.write_text("# Long\n\n" + "\n\n".join(paragraphs), encoding="utf-8")
    for number in range(5):
        (workspace.landing_path / f"short-{number}.rst").write_text(f"Short {number}\n=======\n\nText {number}.\n")
    time.sleep(0.1)  # a file as young as a tick of the clock is looked at once more, and that is remembered
    first = _counts(workspace)
    assert first["ingest-documents"]["new"] == 6
    assert first["embed-chunks"]["computed"] == first["sync-index"]["rows"] >= 50
    return path, paragraphs


@pytest.mark.long
def test_cost_follows_change(workspace: Settings, long_document):
    path, paragraphs = long_document
    assert verify(new_context(workspace)).is_equal

    # Nothing new: no stage, no write, no Spark.
    before = _versions(workspace)

    def explode():
        raise AssertionError("a run with nothing to do asked for Spark")

    idle = new_context(workspace)
    idle = Context(workspace, open_lakehouse(workspace, spark=explode), idle.run_id)
    assert run_stages(idle, stages=DOCUMENT_STAGES).stages == ()
    assert _versions(workspace) == before

    # Times touched, bytes the same: nothing either.
    path.touch()
    assert _counts(workspace) == {}

    # One paragraph edited in the middle: one chunk, rarely two.
    edited = [*paragraphs]
    edited[60] = edited[60] + " And one more sentence."
    path.write_text("# Long\n\n" + "\n\n".join(edited), encoding="utf-8")
    counts = _counts(workspace)
    assert 1 <= counts["embed-chunks"]["computed"] <= 2
    assert counts["sync-index"]["upserts"] == counts["embed-chunks"]["computed"]

    # A paragraph in front: the others keep their ids, so the index is told of what is new alone.
    path.write_text("# Long\n\n" + "\n\n".join([_paragraph(1000), *edited]), encoding="utf-8")
    counts = _counts(workspace)
    assert 1 <= counts["embed-chunks"]["computed"] <= 2
    assert counts["sync-index"]["upserts"] <= 2

    # Renamed: other documents, the same texts, so nothing is embedded.
    path.rename(path.with_name("renamed.md"))
    counts = _counts(workspace, force=True)
    assert counts["embed-chunks"]["computed"] == 0
    assert counts["sync-index"]["upserts"] == counts["sync-index"]["deletes"] >= 45

    # Gone: gone from the index.
    path.with_name("renamed.md").unlink()
    counts = _counts(workspace, force=True)
    assert (counts["sync-index"]["upserts"], counts["sync-index"]["rows"]) == (0, 5)
    assert verify(new_context(workspace)).is_equal


def test_a_lost_index_and_a_lost_watermark_cost_no_embedding_and_verify_sees_through(
    workspace: Settings, long_document
):
    import shutil

    import lance

    shutil.rmtree(workspace.root / "index")
    counts = _counts(workspace)
    assert set(counts) == {"sync-index"}
    assert counts["sync-index"]["upserts"] == counts["sync-index"]["rows"] >= 50

    before = {t: v for t, v in _versions(workspace).items() if not t.startswith("ops.")}
    shutil.rmtree(workspace.path("lakehouse/ops"))
    counts = _counts(workspace)
    assert counts["embed-chunks"]["computed"] == 0
    assert {t: v for t, v in _versions(workspace).items() if not t.startswith("ops.")} == before
    assert verify(new_context(workspace)).is_equal

    # Rows changed behind our back are named.
    name = served(new_context(workspace).lake, "chunks").index_name
    dataset = lance.dataset(f"{workspace.index_uri}/{name}.lance")
    ids = dataset.to_table(columns=["chunk_id"])["chunk_id"].to_pylist()
    dataset.delete(f"chunk_id = '{ids[0]}'")
    dataset.update({"text": "'altered'"}, where=f"chunk_id = '{ids[1]}'")
    dataset.tags.update("served", dataset.latest_version)
    found = {(d.kind, d.key) for d in verify(new_context(workspace)).differences if d.where == name}
    assert found == {("missing", ids[0]), ("stale", ids[1])}
