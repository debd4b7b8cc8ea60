"""The tables of a workspace in; one self-contained HTML page out: what came in, what it cost, what was answered.

Needs no JVM and no network. Documents, questions and answers are data: the template escapes all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.monitoring import charts
from pipelines.stage import STAGE_RUNS, Context, Counts, Window

TEMPLATE = "report.html.j2"
_RUNS, _ANSWERS, _SOURCES, _REFUSED, _WINDOWS = 12, 40, 5, 100, 14
_QUARANTINES = ("silver.documents_quarantine", "silver.chunks_quarantine")
_MARK = '<meta name="lakeloop-source" content="{}">'
Row = dict[str, Any]


def due(context: Context) -> Window | None:
    """The runs that the page does not show yet; None where it shows them all. Needs no JVM."""
    head = context.lake.head(STAGE_RUNS)
    if head is None:
        return None
    window = Window(None, head.version, head.table_id)
    page = context.settings.path(context.settings.report)
    if page.is_file():
        with page.open(encoding="utf-8", errors="replace") as lines:
            if _mark(window) in lines.read(4096):
                return None
    return window


def run(context: Context, window: Window) -> Counts:
    """Counts: runs and answers that the page shows."""
    facts = gather(context, window=window)
    _write(context, facts)
    return {"runs": len(facts["runs"]), "answers": len(facts["answers"])}


def write_report(context: Context, *, summary: Mapping[str, Any] | None = None) -> Path:
    """Write the page for the workspace as it stands, an empty one too. Returns its path.

    Args:
        summary: what no table holds, as in summary.json: `deliveries` (version, verified), `peak_memory_mb`.
    """
    head = context.lake.head(STAGE_RUNS)
    window = Window(None, head.version, head.table_id) if head else None
    return _write(context, gather(context, window=window, summary=summary))


def gather(context: Context, *, window: Window | None = None, summary: Mapping[str, Any] | None = None) -> Row:
    """Everything that the template shows."""
    lake, summary = context.lake, summary or {}
    runs = _runs(lake.read_arrow(STAGE_RUNS))
    deliveries = [run for run in runs if "ingest-documents" in run["counts"]]
    told = list(summary.get("deliveries", ()))
    # A summary tells of the last deliveries; the workspace may have seen others before.
    for run, delivery in zip(reversed(deliveries), reversed(told), strict=False):
        run |= {"label": delivery.get("version") or run["label"], "verified": delivery.get("verified")}
    calls = lake.read_arrow(
        "inference.inference_log",
        columns=[
            "request_id",
            "request_time",
            "status_code",
            "execution_duration_ms",
            "request",
            "response",
            "prediction",
            "model_id",
            "retrieved",
        ],
    )
    answered = calls.filter(pc.equal(calls["status_code"], 200))
    latencies = [float(ms) for ms in answered["execution_duration_ms"].to_pylist() if ms is not None]
    runs, deliveries = runs[-_RUNS:], deliveries[-_RUNS:]
    return {
        "source_mark": _mark(window) if window else "",
        "workspace": context.settings.root.name or str(context.settings.root),
        "landing": context.settings.landing,
        "written_at": context.now(),
        "runs": runs,
        "deliveries": deliveries,
        "documents": lake.read_arrow("silver.documents", columns=["document_id"]).num_rows,
        "chunks": lake.read_arrow("silver.chunks", columns=["chunk_id"]).num_rows,
        "index": _index(context),
        "refused": _refused(context),
        "refused_shown": _REFUSED,
        "calls": calls.num_rows,
        "answers": _answers(context, calls),
        "windows": _windows(context),
        "latency": _quantiles(latencies),
        "peak_memory_mb": summary.get("peak_memory_mb"),
        "charts": _charts(runs, deliveries, latencies),
    }


def _write(context: Context, facts: Row) -> Path:
    from jinja2 import Environment, StrictUndefined

    # Everything is escaped, whatever the template's name.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("pipelines.monitoring").joinpath(TEMPLATE).read_text(encoding="utf-8")
    page = context.settings.path(context.settings.report)
    page.parent.mkdir(parents=True, exist_ok=True)
    half = page.with_name(page.name + ".part")
    half.write_text(environment.from_string(template).render(facts), encoding="utf-8")
    os.replace(half, page)
    return page


def _mark(window: Window) -> str:
    return _MARK.format(f"{window.source_id} {window.until}")


def _runs(rows: pa.Table) -> list[Row]:
    """One dict a run, oldest first: label, counts by stage, seconds by stage."""
    runs: dict[str, Row] = {}
    for row in rows.sort_by("started_at").to_pylist():
        empty: Row = {"label": f"{row['started_at']:%d %b %H:%M:%S}", "counts": {}, "seconds": {}, "verified": None}
        run = runs.setdefault(row["run_id"], {"run_id": row["run_id"], "started_at": row["started_at"]} | empty)
        run["counts"][row["stage"]] = dict(row["counts"] or ())
        run["seconds"][row["stage"]] = row["seconds"] or 0.0
        run["set_aside"] = sum(counts.get("set_aside", 0) for counts in run["counts"].values())
    return list(runs.values())


def _index(context: Context) -> Row | None:
    from pipelines.index_state import served

    state = served(context.lake, context.settings.index.name)
    manifest = state.manifest(context.settings) if state else None
    return None if manifest is None else vars(manifest) | {"store": context.settings.index.store}


def _refused(context: Context) -> list[Row]:
    rows = []
    for table in _QUARANTINES:
        for row in context.lake.read_arrow(table).to_pylist():
            if row["replayed_at"] is None:
                what = "document" if "reason" in row else f"chunk {row['ordinal']}"
                rows.append(
                    {"path": row["path"], "what": what, "rules": row["failed_rules"] or [], "reason": row.get("reason")}
                )
    return sorted(rows, key=lambda row: (row["path"] or "", row["what"]))


def _answers(context: Context, calls: pa.Table) -> list[Row]:
    """The last calls, newest first."""
    last = calls.sort_by([("request_time", "descending"), ("request_id", "ascending")]).slice(0, _ANSWERS).to_pylist()
    if not last:
        return []
    wanted = {hit["chunk_id"] for call in last for hit in call["retrieved"] or ()}
    columns = ["chunk_id", "path", "heading_path"]
    index = context.lake.read_arrow("gold.chunk_index", columns=columns)
    held = pc.is_in(index["chunk_id"], value_set=pa.array(sorted(wanted), pa.string()))
    chunks = {row["chunk_id"]: row for row in index.filter(held).to_pylist()}
    return [_answer(call, chunks=chunks) for call in last]


def _answer(call: Row, *, chunks: Mapping[str, Row]) -> Row:
    request, response, text = _json(call["request"]), _json(call["response"]), call["prediction"]
    if call["status_code"] != 200:
        badge, text = "failed", (response.get("error") or {}).get("message") or "no reason was logged"
    elif response.get("is_quoted"):
        badge = "quoted"
    else:
        badge = "grounded" if response.get("is_grounded") else "not grounded"
    hits = sorted(call["retrieved"] or (), key=lambda hit: hit["rank"] or 0)[:_SOURCES]
    sources = [
        {"score": hit["score"], **chunks.get(hit["chunk_id"], {"path": None, "heading_path": []})} for hit in hits
    ]
    return {
        "question": request.get("question") or call["request_id"],
        "text": text,
        "badge": badge,
        "sources": sources,
        "milliseconds": call["execution_duration_ms"],
        "model_id": call["model_id"],
        "asked_at": call["request_time"],
    }


def _windows(context: Context) -> list[Row]:
    """The last windows of quality and retrieval, newest first: metric name → its row."""
    windows: dict[tuple[Any, ...], Row] = {}
    for table in ("monitoring.retrieval_metrics", "monitoring.llm_quality_metrics"):
        for row in context.lake.read_arrow(table).to_pylist():
            if row["slice_key"] is None:
                key = (row["window"]["start"], row["model_id"] or "")
                windows.setdefault(key, {"day": key[0], "model_id": row["model_id"], "metrics": {}})
                windows[key]["metrics"][row["metric_name"]] = row
    return [windows[key] for key in sorted(windows, reverse=True)][:_WINDOWS]


def _charts(runs: Sequence[Row], deliveries: Sequence[Row], latencies: Sequence[float]) -> dict[str, str | None]:
    drawn: dict[str, str | None] = dict.fromkeys(("seconds", "embeddings", "latency"))
    stages = list(dict.fromkeys(stage for run in runs for stage in run["seconds"]))[: charts.SERIES]
    if stages:
        drawn["seconds"] = charts.stacked_bars(
            "seconds",
            labels=[run["label"] for run in runs],
            series={stage: [run["seconds"].get(stage, 0.0) for run in runs] for stage in stages},
            unit="seconds",
            title="Seconds a stage took in each run",
        )
    embedded = [run["counts"].get("embed-chunks", {}) for run in deliveries]
    if any(embedded):
        names = {"computed": "computed", "cached": "taken from the cache"}
        drawn["embeddings"] = charts.stacked_bars(
            "embeddings",
            labels=[run["label"] for run in deliveries],
            series={name: [counts.get(key, 0) for counts in embedded] for key, name in names.items()},
            unit="embeddings",
            title="Embeddings of each delivery",
        )
    if latencies:
        drawn["latency"] = charts.histogram(
            "latency",
            values=latencies,
            marks=_quantiles(latencies),
            unit="milliseconds",
            title="How long an answer took",
        )
    return drawn


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """Observed values, as in transformations/profile.py."""
    ordered = sorted(values)
    shares = {"p50": 50, "p95": 95} if ordered else {}
    return {name: ordered[-(-len(ordered) * share // 100) - 1] for name, share in shares.items()}


def _json(text: str | None) -> Row:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"error": {"message": "the logged response is not JSON"}}
    return value if isinstance(value, dict) else {}
