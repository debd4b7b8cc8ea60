"""The page over real tables and a real index, without a JVM."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timedelta, timezone
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.conductor.run import run_stage
from pipelines.flow.stage import Context
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.models.embedders import embedding_model
from pipelines.monitoring import report
from pipelines.progress import Progress
from pipelines.settings.sections import Settings
from pipelines.stores import Manifest
from pipelines.vector_index.state import register
from tests.support.page import Page

START = datetime(2026, 3, 1, 9, tzinfo=timezone.utc)
NASTY = "<script>alert('x')</script> & \"$y^2$\" {{ 7*7 }}"
METRICS = {
    "monitoring.retrieval_metrics": {
        "hit_at_1": 0.55,
        "hit_at_5": 0.8,
        "hit_at_10": 0.9,
        "mrr": 0.64,
        "label_coverage": 1.0,
    },
    "monitoring.llm_quality_metrics": {
        "grounded_ratio": 0.34,
        "quoted_ratio": 0.66,
        "failed_ratio": 0.04,
        "latency_ms_p50": 812.0,
        "latency_ms_p95": 2210.0,
        "input_tokens_mean": 512.5,
        "output_tokens_mean": 41.0,
    },
}


@pytest.fixture
def context(tmp_path):
    def no_spark():
        pytest.fail("the report must not need a JVM")

    settings = Settings(root=tmp_path)
    return Context(settings, open_lakehouse(settings, spark=no_spark), "run", Progress(terminal=False))


def record(stage: str, counts: dict[str, int], *, run: int, seconds: float, minute: int = 0) -> dict[str, Any]:
    at = START + timedelta(hours=run, minutes=minute)
    return {
        "run_id": f"run-{run}",
        "stage": stage,
        "counts": list(counts.items()),
        "started_at": at,
        "seconds": seconds,
    }


def fill(context: Context, *, questions: int = 24) -> None:
    """Three deliveries, an index of two chunks, two refused rows, and answered questions with their metrics."""
    lake, settings = context.lake, context.settings
    documents = [(202, 0, 0, 0, 1480, 0), (55, 37, 27, 138, 402, 22), (18, 59, 1, 170, 371, 41)]
    for run, (new, changed, gone, unchanged, computed, cached) in enumerate(documents):
        arrived = {"new": new, "changed": changed, "gone": gone, "unchanged": unchanged, "set_aside": int(run == 1)}
        embedded = {"computed": computed, "cached": cached, "insert": computed, "update": 0, "delete": 0}
        synced = {"upserts": computed + cached, "deletes": gone * 4, "rows": 1480 + 100 * run}
        lake.append_arrow(
            report.STAGE_RUNS,
            [
                record("ingest-documents", arrived, run=run, seconds=3.1),
                record("refine-documents", {"insert": new, "set_aside": 0}, run=run, seconds=8.4, minute=1),
                record("chunk-documents", {"insert": computed, "set_aside": 1}, run=run, seconds=6.0, minute=2),
                record("embed-chunks", embedded, run=run, seconds=computed / 40, minute=3),
                record("sync-index", synced, run=run, seconds=2.2, minute=4),
            ],
        )
    answered = {"answered": questions, "grounded": questions // 3, "quoted": questions - questions // 3}
    lake.append_arrow(report.STAGE_RUNS, [record("answer-questions", answered, run=3, seconds=31.0)])
    lake.append_arrow(report.STAGE_RUNS, [record("monitor", {"windows": 1}, run=3, seconds=12.5, minute=1)])
    common = {"document_id": "d", "title": "How to", "text": "t", "text_hash": "h", "format": "rst", "source": "files"}
    chunks = [
        {
            "chunk_id": "x",
            "path": "en/how-to/failures.rst",
            "heading_path": ["How to handle failures", NASTY],
            **common,
        },
        {"chunk_id": "y", "path": "en/how-to/usage.rst", "heading_path": ["How to invoke", "Calling"], **common},
    ]
    lake.append_arrow("gold.chunk_index", chunks)
    lake.append_arrow("silver.chunks", [{"chunk_id": c["chunk_id"]} for c in chunks])
    lake.append_arrow("silver.documents", [{"document_id": "d", "path": "en/how-to/failures.rst"}])
    refused = {"failed_rules": ["not_too_large"], "attempts": 1}
    lake.append_arrow(
        "silver.documents_quarantine",
        [
            {"document_id": "q", "path": f"odd {NASTY}.rst", "reason": "too large: 200 MB", **refused},
            {"document_id": "p", "path": "repaired.rst", "replayed_at": START, **refused},
        ],
    )
    lake.append_arrow("silver.chunks_quarantine", [{"chunk_id": "z", "path": "table.rst", "ordinal": 7, **refused}])
    model = embedding_model(settings)
    store = register(lake, settings, model).open(settings)
    vectors = {"model": model.name, "row_hash": "h", "vector": np.full(model.dimension, 0.05, np.float32)}
    store.upsert(pa.Table.from_pylist([c | vectors for c in chunks], schema=lake.spec("gold.chunk_index").schema))
    built = Manifest("gold.chunk_index", "id", 5, "f1f2f3f4", model.name, model.revision, model.dimension, rows=2)
    store.commit(built, expected=None)
    lake.append_arrow("inference.inference_log", [_call(i) for i in range(questions)])
    window = {"window": {"start": START.replace(hour=0), "end": START.replace(hour=0) + timedelta(days=1)}}
    group = window | {"granularity": "1 day", "model_id": "smollm2-135m-instruct/1"}
    for table, metrics in METRICS.items():
        rows = [{"metric_name": k, "value": v, "n": questions, "stderr": 0.05} for k, v in metrics.items()]
        lake.append_arrow(table, [group | row for row in rows])


def _call(number: int) -> dict[str, Any]:
    is_grounded = number % 3 == 0
    text = (
        f"Use the option `--maxfail={number}`; {NASTY}"
        if number == 6
        else "Use the -x option to stop after the first failure, or --maxfail=2 to stop after two.\n\npytest -x"
    )
    answer = {"answer": text, "is_grounded": is_grounded, "is_quoted": not is_grounded}
    is_failed = number == 5
    hits = [("x", 0.81), ("y", 0.62), ("gone", 0.4)]
    return {
        "request_id": f"r{number}",
        "request_date": START.date(),
        "request_time": START - timedelta(minutes=number),
        "status_code": 500 if is_failed else 200,
        "execution_duration_ms": int(600 + 90 * (number**1.3 % 17) + 10 * number),
        "request": json.dumps({"question": f"Question {number}?"}),
        "response": json.dumps(
            {"error": {"status_code": 504, "message": "time-out after 60 s"}} if is_failed else answer
        ),
        "prediction": None if is_failed else text,
        "model_id": "smollm2-135m-instruct/1",
        "retrieved": [{"doc_id": "d", "chunk_id": c, "rank": i, "score": s} for i, (c, s) in enumerate(hits, 1)],
    }


def written(context: Context, **options: Any) -> tuple[str, Page]:
    html = report.write_report(context, **options).read_text(encoding="utf-8")
    return html, Page(html)


def test_report_of_an_empty_workspace_says_what_to_run(context):
    _, page = written(context)
    assert "Nothing has come in yet" in page.text
    assert "lakeloop run" in page.text
    assert "There is no index yet" in page.text


def test_report_shows_deliveries_answers_and_quality(context):
    fill(context)
    _, page = written(context)
    for expected in ("202", "1,480", "en/how-to/failures.rst", "How to handle failures", "Question 3?", "quoted",
                     "a chunk that has left the index since", "f1f2f3f4", "time-out after 60 s", "not_too_large",
                     "80 %", "0.64", "812 ms"):  # fmt: skip
        assert expected in page.text, expected
    assert "repaired.rst" not in page.text


def test_report_escapes_whatever_documents_and_models_say(context):
    fill(context)
    html, page = written(context)
    assert "<script" not in html
    assert NASTY in "".join(page.words)


def test_report_loads_nothing_and_repeats_no_id(context):
    fill(context)
    html, page = written(context)
    links = [value for _, key, value in page.attributes if key in ("src", "href", "xlink:href", "srcset", "action")]
    assert all(link.startswith("#") for link in links)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert set(re.findall(r"https?://[\w./]+", html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)


def test_report_takes_versions_and_verification_from_a_summary(context):
    fill(context)
    deliveries = [{"version": "6.2.5", "verified": True}, {"version": "7.4.4", "verified": True}]
    _, page = written(context, summary={"deliveries": [*deliveries, {"version": "8.3.4", "verified": False}]})
    assert "6.2.5 202" in page.text
    assert page.text.count("equal") >= 2
    assert "differs" in page.text


def test_report_is_due_until_it_shows_the_last_run(context):
    assert report.look(context) is None
    context.lake.append_arrow(report.STAGE_RUNS, [record("ingest-documents", {"new": 1}, run=0, seconds=1)])
    due = report.look(context)
    assert due is not None
    counts = run_stage(report.STAGE, context, due).counts
    assert counts == {"runs": 1, "answers": 0}
    assert report.look(context) is None
    context.lake.append_arrow(report.STAGE_RUNS, [record("ingest-documents", {"new": 1}, run=1, seconds=1)])
    assert report.look(context) is not None


def without(context: Context, tables: set[str]) -> Context:
    """The workspace as it would be if these tables had never been written."""
    for table in tables:
        shutil.rmtree(context.lake.folder(table), ignore_errors=True)
    return context


WRITTEN = (
    report.STAGE_RUNS,
    "gold.chunk_index",
    "silver.chunks",
    "silver.documents",
    "silver.documents_quarantine",
    "silver.chunks_quarantine",
    "ops.index_state",
    "inference.inference_log",
    *METRICS,
)


@pytest.mark.parametrize(
    "is_alone", [pytest.param(False, marks=pytest.mark.long, id="without"), pytest.param(True, id="alone")]
)
def test_report_comes_out_whichever_table_is_missing_and_whichever_is_alone(context, tmp_path, is_alone):
    fill(context, questions=3)
    for table in WRITTEN:
        copy = tmp_path / f"copy-{table}"
        shutil.copytree(context.settings.root, copy, ignore=shutil.ignore_patterns("copy-*"))
        settings = Settings(root=copy)
        there = Context(settings, open_lakehouse(settings, spark=context.lake._spark), "run", Progress(terminal=False))
        without(there, set(WRITTEN) - {table} if is_alone else {table})
        facts = report.gather(there)
        assert facts["problems"] == [], table
        Page(report.render(facts))


def test_report_shows_windows_whichever_metrics_they_have(context):
    fill(context, questions=1)
    facts = report.gather(context)
    names = [name for metrics in METRICS.values() for name in metrics]
    few = [set(some) for count in range(4) for some in combinations(names, count)]
    subsets = [*few, *(set(names) - some for some in few)]
    rows = []
    for number, chosen in enumerate(subsets):
        at = {"window": {"start": START + timedelta(minutes=number)}, "slice_key": None, "model_id": None}
        # A window of another metric only is a window without any of these.
        rows += [at | {"metric_name": name, "value": 0.5, "n": 1, "stderr": None} for name in [*chosen, "other"]]
    windows = report.windows_of(rows)
    assert len(windows) == len(subsets)
    Page(report.render(facts | {"windows": windows, "charts": dict.fromkeys(facts["charts"])}))
    tops = {tuple(w["metrics"][n]["value"] for n in ("hit_at_5", "grounded_ratio", "quoted_ratio")): w for w in windows}
    assert len(tops) == 8
    for window in tops.values():
        Page(report.render(facts | {"windows": [window], "charts": dict.fromkeys(facts["charts"])}))


def test_a_question_that_was_asked_by_hand_has_no_labels_and_is_reported(context):
    fill(context, questions=1)
    without(context, {"monitoring.retrieval_metrics"})
    _, page = written(context)
    assert "no labelled questions" in page.text
    assert "34 %" in page.text


# Everything that a table's columns can hold, at its worst.
WORST = NASTY + "\x00\x1b[31m\u202e\ufeff" + "é" * 300
WORST_JSON = ['{"error": "text"}', '{"error": [1]}', '{"question": ["a"]}', "[]", "{", "[" * 100_000, '"x"', "", "null"]


def worst_rows(schema: pa.Schema) -> list[dict[str, Any]]:
    """A row of the worst values; one more for each column, where that is null; one where all are."""
    row = {field.name: worst(field.type) for field in schema}
    return [row, *(row | {field.name: None} for field in schema), dict.fromkeys(schema.names)]


def worst(of: pa.DataType) -> Any:
    if pa.types.is_string(of):
        return WORST
    if pa.types.is_map(of):
        return [(worst(of.key_type), worst(of.item_type)), ("set_aside", None)]
    if pa.types.is_list(of):
        return [worst(of.value_type), None]
    if pa.types.is_struct(of):
        return {of.field(i).name: worst(of.field(i).type) for i in range(of.num_fields)}
    if pa.types.is_floating(of):
        return float("nan")
    if pa.types.is_timestamp(of) or pa.types.is_date(of):
        return START if pa.types.is_timestamp(of) else START.date()
    if pa.types.is_boolean(of):
        return True
    return -1 if pa.types.is_integer(of) else b"\x00"


def test_report_and_quarantine_bear_whatever_their_tables_hold(context, monkeypatch):
    monkeypatch.setattr(report, "_ANSWERS", 1_000)
    lake = context.lake
    read = [*WRITTEN, "ops.dead_letters", "monitoring.rule_results"]
    for table in read:
        if table != "ops.index_state":
            schema = lake.spec(table).schema
            lake.append_arrow(table, pa.Table.from_pylist(worst_rows(schema), schema=schema))
    base = worst_rows(lake.spec("inference.inference_log").schema)[0]
    odd = [base | {"response": text, "request": text, "status_code": n} for text in WORST_JSON for n in (200, 500)]
    lake.append_arrow("inference.inference_log", odd)
    infinite = worst_rows(lake.spec(report.STAGE_RUNS).schema)[0] | {
        "seconds": float("inf"),
        "stage": "ingest-documents",
    }
    lake.append_arrow(report.STAGE_RUNS, [infinite])
    (context.settings.landing_path / "odd\x1b[31m").mkdir(parents=True)
    (context.settings.landing_path / "odd\x1b[31m" / "a.\x1b]0;title\x07").touch()
    facts = report.gather(context)
    assert facts["problems"] == []
    assert len(facts["answers"]) == len(odd) + len(lake.spec("inference.inference_log").schema) + 2
    assert sum(facts["passed_over"][kind][0] for kind in facts["passed_over"]) == 1
    html = report.render(facts)
    assert "<script" not in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ufeff]", html)
    page = Page(html)
    assert NASTY in "".join(page.words)


def test_a_table_that_cannot_be_read_is_named_on_the_page_and_the_rest_is_shown(context):
    fill(context, questions=2)
    for file in context.lake.folder("silver.documents").glob("*.parquet"):
        file.unlink()
    _, page = written(context)
    assert "What could not be read silver.documents:" in page.text
    assert "Question 1?" in page.text


@pytest.mark.parametrize(
    ("table", "untrue", "told"),
    [
        (report.STAGE_RUNS, "Nothing has come in yet", "could not be read"),
        (report.STAGE_RUNS, "No run has been recorded", "could not be read"),
        ("silver.documents", "Documents 0", "Documents – could not be read"),
        ("silver.chunks", "Chunks 0", "Chunks – could not be read"),
        ("ops.index_state", "There is no index yet", "index: could not be read"),
        ("silver.documents_quarantine", "Nothing is set aside", "The rest could not be read"),
        ("silver.documents_quarantine", "none set aside", "set aside: could not be read"),
        ("inference.inference_log", "No question has been answered yet", "Median latency – could not be read"),
        ("inference.inference_log", "No call has been logged yet", "Median latency – could not be read"),
        ("gold.chunk_index", "a chunk that has left the index since", "What could not be read gold.chunk_index:"),
        ("monitoring.retrieval_metrics", "no labelled questions", "Hit@5 – could not be read"),
    ],
)
def test_what_cannot_be_read_is_not_shown_as_if_it_were_not_there(context, table, untrue, told):
    fill(context, questions=2)
    for file in context.lake.folder(table).glob("**/*.parquet"):
        file.unlink()
    _, page = written(context)
    assert untrue not in page.text
    assert told in page.text
