"""What a run costs, in counts that a regression cannot hide behind a fast machine: docs/benchmarks.md has the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipelines.conductor.run import new_context, run_stage, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES, stage_named
from pipelines.flow.stage import Context, Versions, Work
from pipelines.flow.states import STAGE_RUNS
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.schemas import TABLES
from pipelines.settings.sections import Settings
from tests.support.embedders import Free

DOCUMENTS, SECTIONS = 30, 6
# Every table that a document's change reaches.
ONCE = (
    *("bronze.documents", "silver.documents", "silver.documents_history", "silver.chunks"),
    *("gold.embeddings", "gold.chunk_index", "ops.index_runs"),
)


@dataclass(frozen=True)
class Cost:
    """Spark's jobs, commits by table, bytes of new files in the lakehouse, and the counts of the stages."""

    jobs: int
    commits: dict[str, int]
    bytes_written: int
    counts: dict[str, dict[str, int]]


def _text(number: int, *, edition: int = 0) -> str:
    said = [f"Pump {number} has a valve {place}." for place in range(SECTIONS)]
    said[2] += f" This is edition {edition}." if edition else ""
    sections = [f"## Part {place}\n\n{text}" for place, text in enumerate(said)]
    return f"# Pump {number}\n\n" + "\n\n".join(sections) + "\n"


@pytest.fixture
def settings(tmp_path: Path, spark: SparkSession) -> Settings:
    (tmp_path / "landing").mkdir()
    for number in range(DOCUMENTS):
        (tmp_path / "landing" / f"{number}.md").write_text(_text(number), encoding="utf-8")
    return Settings(root=tmp_path, embedding={"model": f"tests.support.embedders:{Free.__name__}"})


def _nobody() -> SparkSession:
    raise AssertionError("a small change asked for Spark")


@pytest.fixture
def cost_of(settings: Settings, spark: SparkSession) -> Callable[..., Cost]:
    def jobs() -> int:
        return max(spark.sparkContext.statusTracker().getJobIdsForGroup(None), default=-1)

    def versions() -> dict[str, int]:
        lake = new_context(settings).lake
        return {table: head.version for table in TABLES if (head := lake.head(table)) is not None}

    def files() -> dict[Path, int]:
        return {path: path.stat().st_size for path in settings.path("lakehouse").rglob("*.parquet")}

    def run(*, with_spark: bool) -> Cost:
        began, before, had = jobs(), versions(), files()
        context = new_context(settings)
        if not with_spark:
            context = Context(settings, open_lakehouse(settings, spark=_nobody), context.run_id)
        outcome = run_stages(context, stages=DOCUMENT_STAGES)
        commits = {
            table: now - before.get(table, 0) for table, now in versions().items() if now != before.get(table, 0)
        }
        written = sum(size for path, size in files().items() if path not in had)
        return Cost(jobs() - began, commits, written, {s.stage: dict(s.counts) for s in outcome.stages})

    return run


def test_a_first_load_an_edit_a_removal_and_an_idle_run(settings: Settings, cost_of: Callable[..., Cost]):
    first = cost_of(with_spark=False)
    assert first.counts["embed-chunks"]["computed"] == first.counts["sync-index"]["rows"] == DOCUMENTS * SECTIONS
    assert {table: first.commits[table] for table in ONCE} == dict.fromkeys(ONCE, 1)

    (settings.landing_path / "3.md").write_text(_text(3, edition=1), encoding="utf-8")
    edit = cost_of(with_spark=False)
    assert edit.counts["embed-chunks"]["computed"] == 1
    assert edit.counts["chunk-documents"]["insert"] == edit.counts["chunk-documents"]["delete"] == 1
    assert edit.counts["sync-index"]["upserts"] == edit.counts["sync-index"]["deletes"] == 1
    assert {table: edit.commits[table] for table in ONCE} == dict.fromkeys(ONCE, 1)
    assert edit.bytes_written < 1_000_000

    # What is refused, and mended.
    (settings.landing_path / "4.md").write_bytes(b"\0\1" * 99)
    assert cost_of(with_spark=False).counts["refine-documents"]["set_aside"] == 1
    (settings.landing_path / "4.md").write_text(_text(4), encoding="utf-8")
    assert cost_of(with_spark=False).counts["embed-chunks"]["cached"] == SECTIONS

    (settings.landing_path / "5.md").unlink()
    removal = cost_of(with_spark=False)
    assert removal.counts["sync-index"]["deletes"] == SECTIONS

    assert cost_of(with_spark=False) == Cost(0, {}, 0, {})


@pytest.mark.longest
def test_after_a_thousand_runs_an_idle_run_reads_as_many_files_as_after_one(settings: Settings):
    """What an idle run reads is the logs since their checkpoints, and the files of the tables of state."""

    def is_read(table: str) -> tuple[int, int]:
        lake = new_context(settings).lake
        log = lake.folder(table) / "_delta_log"
        checkpoint = max((path.name[:20] for path in log.glob("*.checkpoint*.parquet")), default="")
        return sum(path.name[:20] >= checkpoint for path in log.glob("*.json")), lake.file_count(table)

    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    head = new_context(settings).lake.head("bronze.documents")
    nothing = Work((Versions(head.version, head.version, head.table_id),))
    # Nobody's work, recorded as it always is.
    stage = replace(stage_named("refine-documents"), work=lambda context, due: {"update": 1})
    read: list[tuple[int, int]] = []
    for number in range(1000):
        run_stage(stage, new_context(settings), nothing)
        if number % 20 == 0:
            run_stages(new_context(settings), stages=[stage_named("maintain")])
            read += [is_read(table) for table in (STAGE_RUNS, "ops.stage_state")]
    assert max(commits for commits, _ in read) <= 12
    assert max(files for _, files in read) <= settings.maintenance.files + 21
