"""The stage over real Delta tables: what it writes, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pipelines.conductor.run import new_context, run_stage
from pipelines.conductor.stages import stage_named
from pipelines.flow.stage import Counts, everything
from pipelines.monitoring import monitor
from pipelines.settings.sections import Settings

pytestmark = pytest.mark.long
DAY = datetime(2026, 3, 1, 8, tzinfo=timezone.utc)
LOG, LABELS = monitor.LOG, monitor.LABELS
STAGE = stage_named("monitor")


def call(number: int, *, day: int = 0, **fields: Any) -> dict[str, Any]:
    at = DAY + timedelta(days=day, minutes=number)
    return {
        "request_id": f"r{number}",
        "request_date": at.date(),
        "request_time": at,
        "status_code": 200,
        "sampling_fraction": 1.0,
        "execution_duration_ms": 100 + number,
        "request": "{}",
        "response": json.dumps({"is_grounded": number % 2 == 0, "is_quoted": number % 2 == 1}),
        "model_id": "smollm2/1",
        "input_tokens": 300,
        "output_tokens": 20,
        "retrieved": [{"doc_id": "d", "chunk_id": c, "rank": i, "score": 0.5} for i, c in enumerate("yx", 1)],
    } | fields


def gold(request: int, *, heading: str = "Use") -> dict[str, Any]:
    at = DAY + timedelta(hours=1)
    label = json.dumps({"path": "a.rst", "heading": heading})
    return {"request_id": f"r{request}", "label": label, "label_time": at, "label_source": "gold", "valid_from": at}


def chunk(chunk_id: str, *headings: str) -> dict[str, Any]:
    return {"chunk_id": chunk_id, "document_id": "d", "path": "a.rst", "heading_path": list(headings), "row_hash": "h"}


@pytest.fixture
def run(context):
    """Run the stage if it is due, as `lakeloop run` does; None where it is not."""

    def run_if_due() -> Counts | None:
        due = monitor.look(context)
        return None if due is None else run_stage(STAGE, context, due).counts

    return run_if_due


@pytest.fixture
def logged(lake):
    _log(lake)
    return lake


def _log(lake) -> None:
    lake.append_arrow("gold.chunk_index", [chunk("x", "A", "Use"), chunk("y", "A", "Other")])
    lake.append_arrow(LABELS, [gold(0), gold(1)])
    lake.append_arrow(LOG, [call(0), call(1), call(2, day=1)])


@pytest.fixture(scope="module")
def monitored_once(tmp_path_factory, spark) -> tuple[Path, Counts]:
    """A workspace that is logged, and monitored, with the counts: this takes the longest of all that is done here."""
    root = tmp_path_factory.mktemp("monitored")
    (root / "landing").mkdir()
    context = new_context(Settings(root=root))
    _log(context.lake)
    return root, run_stage(STAGE, context, monitor.look(context)).counts


@pytest.fixture
def monitored(monitored_once, lake, tmp_path):
    """A copy of it."""
    shutil.copytree(monitored_once[0], tmp_path, dirs_exist_ok=True)
    return lake


def value(lake, table: str, metric: str, *, day: int) -> Any:
    rows = lake.read_arrow(table).to_pylist()
    found = [r for r in rows if r["metric_name"] == metric and r["window"]["start"].day == day]
    assert len(found) <= 1
    return (found[0]["value"], found[0]["n"]) if found else None


def test_monitor_fills_the_three_tables_and_is_then_not_due(monitored_once, monitored, run):
    _, counts = monitored_once
    columns = len(monitored.spec(LOG).columns) + 1
    assert counts["windows"] == 2
    assert counts["profile_rows"] == 2 * columns
    assert value(monitored, monitor.QUALITY, "grounded_ratio", day=1) == (0.5, 2)
    assert value(monitored, monitor.RETRIEVAL, "hit_at_5", day=1) == (1.0, 2)
    assert value(monitored, monitor.RETRIEVAL, "mrr", day=1) == (0.5, 2)
    assert value(monitored, monitor.RETRIEVAL, "label_coverage", day=2) == (0.0, 1)
    assert run() is None


def test_monitor_over_everything_again_writes_nothing(monitored, context):
    versions = {t: monitored.head(t) for t in (monitor.PROFILE, monitor.QUALITY, monitor.RETRIEVAL)}
    counts = monitor.work(context, everything(STAGE, context))
    assert (counts["profile_rows"], counts["quality_rows"], counts["retrieval_rows"]) == (0, 0, 0)
    assert {t: monitored.head(t) for t in versions} == versions


def test_monitor_computes_only_the_days_that_grew(monitored, run):
    before = value(monitored, monitor.QUALITY, "latency_ms_mean", day=1)
    monitored.append_arrow(LOG, [call(4, day=1)])
    assert run()["windows"] == 1
    assert value(monitored, monitor.QUALITY, "latency_ms_mean", day=1) == before
    assert value(monitored, monitor.QUALITY, "latency_ms_mean", day=2) == (103.0, 2)


def test_monitor_scores_a_day_again_when_its_labels_arrive(monitored, run):
    assert value(monitored, monitor.RETRIEVAL, "hit_at_1", day=2) is None
    monitored.append_arrow(LABELS, [gold(2, heading="Other")])
    counts = run()
    assert counts["windows"] == 1
    assert counts["quality_rows"] == 0
    assert value(monitored, monitor.RETRIEVAL, "hit_at_1", day=2) == (1.0, 1)
    table_rows = [r for r in monitored.read_arrow(monitor.PROFILE).to_pylist() if r["column_name"] == ":table"]
    assert [r["label_coverage"] for r in table_rows] == [1.0, 1.0]
    assert run() is None


def test_monitor_scores_chunks_that_the_index_has_dropped_since(logged, run, spark):
    spark.sql(f"DELETE FROM {logged.identifier('gold.chunk_index')} WHERE chunk_id = 'x'")
    run()
    assert value(logged, monitor.RETRIEVAL, "mrr", day=1) == (0.5, 2)


def test_monitor_takes_a_row_away_when_what_it_was_about_is_gone(monitored, context, spark):
    spark.sql(
        f"UPDATE {monitored.identifier(monitor.QUALITY)} SET metric_name = 'old' WHERE metric_name = 'failed_ratio'"
    )
    counts = monitor.work(context, everything(STAGE, context))
    assert counts["quality_rows"] == 4
    assert value(monitored, monitor.QUALITY, "old", day=1) is None
    assert value(monitored, monitor.QUALITY, "failed_ratio", day=1) == (0.0, 2)


def test_monitor_without_labels_or_an_index_still_profiles(lake, run):
    lake.append_arrow(LOG, [call(0)])
    assert run()["windows"] == 1
    assert value(lake, monitor.QUALITY, "grounded_ratio", day=1) == (1.0, 1)
    assert value(lake, monitor.RETRIEVAL, "hit_at_5", day=1) is None
