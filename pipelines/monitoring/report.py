"""report: writes one HTML page about a workspace: what arrived, how long it took, and what was answered.

Needs no JVM if tables are folders, and no network. The template escapes all documents, questions and answers. A missing
table, metric or value is shown as missing, and the page names what cannot be read; so the page is written whatever
state the workspace is in.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from html import escape
from importlib.resources import files
from typing import Any

import pyarrow as pa

from pipelines.flow.stage import Context, Counts, Stage, Versions, Work
from pipelines.flow.states import STAGE_RUNS
from pipelines.lakehouse.selection import Newest, Where, Which
from pipelines.lakehouse.tables import Lakehouse
from pipelines.quality.quarantine import passed_over, quarantined, set_aside_tables
from pipelines.reporting import charts
from pipelines.storage.object_path import AnyPath, ObjectPath
from transformations.text.printable import printable, printable_line

log = logging.getLogger(__name__)

TEMPLATE = "report.html.j2"
INFERENCE_LOG = "inference.inference_log"
STATUS_OK = 200
_RUNS, _ANSWERS, _SOURCES, _REFUSED, _WINDOWS, _LABEL = 12, 40, 5, 100, 14, 60
# How many of the newest rows of ops.stage_runs (one row a stage) and of the newest answered calls are read.
_STAGE_RUNS, _LATENCIES = 1000, 10_000
# The metrics that the page shows. Every window has each of them, with nulls if it was not measured.
_METRICS = (
    *("hit_at_1", "hit_at_5", "hit_at_10", "mrr", "label_coverage"),
    *("grounded_ratio", "quoted_ratio", "failed_ratio", "input_tokens_mean", "output_tokens_mean"),
    *("latency_ms_p50", "latency_ms_p95"),
)
_OF_METRICS = ("monitoring.retrieval_metrics", "monitoring.llm_quality_metrics")
_NOT_MEASURED = {"value": None, "n": None, "stderr": None}
_MARK = '<meta name="lakeloop-source" content="{}">'
_OF_CALLS = (
    *("request_id", "request_time", "status_code", "execution_duration_ms", "request", "response", "prediction"),
    *("model_id", "retrieved"),
)
Row = dict[str, Any]


def look(context: Context) -> Work | None:
    """Whether there are runs that the page does not show yet; None if it shows all. Needs no JVM for folders."""
    head = context.lake.head(STAGE_RUNS)
    if head is None:
        return None
    versions = Versions(None, head.version, head.table_id)
    page = context.settings.place(context.settings.report)
    with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError), page.open("rb") as content:
        if _mark(versions).encode() in content.read(4096):
            return None
    return Work((versions,))


def work(context: Context, due: Work) -> Counts:
    """Write the page. Counts: the runs and the answers that it shows."""
    facts = gather(context, versions=due.first)
    _write(context, facts)
    return {"runs": len(facts["runs"]), "answers": len(facts["answers"])}


def write_report(context: Context, *, summary: Mapping[str, Any] | None = None) -> AnyPath:
    """Write the page for the workspace as it is now, even an empty one. Returns its path.

    Args:
        summary: facts that no table has, as in summary.json: `deliveries` (version, verified), `peak_memory_mb`.
    """
    head = context.lake.head(STAGE_RUNS)
    versions = Versions(None, head.version, head.table_id) if head else None
    return _write(context, gather(context, versions=versions, summary=summary))


def gather(context: Context, *, versions: Versions | None = None, summary: Mapping[str, Any] | None = None) -> Row:
    """All facts that the template shows; a missing one is None. `unread` names the sections that could not be read."""
    tables, summary = _Tables(context.lake), summary or {}
    runs = _runs(tables.read(STAGE_RUNS, which=Newest("started_at", most=_STAGE_RUNS)))
    deliveries = [run for run in runs if "ingest-documents" in run["counts"]]
    reported = list(summary.get("deliveries", ()))
    # The summary has only the last deliveries; the workspace may have had others before.
    for run, delivery in zip(reversed(deliveries), reversed(reported), strict=False):
        run |= {"label": delivery.get("version") or run["label"], "verified": delivery.get("verified")}
    calls = tables.read(INFERENCE_LOG, *_OF_CALLS, which=Newest("request_time", most=_ANSWERS))
    newest = Newest("request_time", most=_LATENCIES)
    answered = tables.read(INFERENCE_LOG, "execution_duration_ms", where={"status_code": STATUS_OK}, which=newest)
    latencies = [float(ms) for ms in answered["execution_duration_ms"].to_pylist() if ms is not None]
    runs, deliveries = runs[-_RUNS:], deliveries[-_RUNS:]
    answers = tables.or_else("the last answers", lambda: _answers(tables, calls), [])
    windows = windows_of(row for table in _OF_METRICS for row in tables.read(table).to_pylist())[:_WINDOWS]
    # Each table by itself, so that a damaged one does not hide the others.
    aside = tables.or_else("what is set aside", lambda: set_aside_tables(context), [])
    refused = [row for t in aside for row in tables.or_else(t, partial(quarantined, context, tables=[t]), [])]
    the_index = f"the index {context.settings.index.name}"
    facts = {
        "source_mark": _mark(versions) if versions else "",
        "workspace": context.settings.catalog or context.settings.root.name or str(context.settings.root),
        "landing": context.settings.landing,
        "written_at": context.now(),
        "runs": runs,
        "deliveries": deliveries,
        "documents": tables.count("silver.documents"),
        "chunks": tables.count("silver.chunks"),
        "index": tables.or_else(the_index, lambda: _index(context), None),
        "refused": refused,
        "refused_shown": _REFUSED,
        "passed_over": tables.or_else("the landing folder", lambda: passed_over(context.settings), {}),
        "calls": tables.count(INFERENCE_LOG),
        "answers": answers,
        "windows": windows,
        "latency": _quantiles(latencies),
        "peak_memory_mb": summary.get("peak_memory_mb"),
        "charts": _charts(runs, deliveries, latencies),
        "problems": [f"{what}: {error}" for what, error in tables.problems.items()],
    }
    read_for = {
        "runs": (STAGE_RUNS,),
        "documents": ("silver.documents",),
        "chunks": ("silver.chunks",),
        "index": (the_index,),
        "refused": ("what is set aside", *aside),
        "passed_over": ("the landing folder",),
        "calls": (INFERENCE_LOG,),
        "answers": (INFERENCE_LOG, "the last answers"),
        "sources": ("gold.chunk_index",),
        "windows": _OF_METRICS,
    }
    # A section that could not be read must not look as if it were empty.
    unread = {section for section, wanted in read_for.items() if not tables.problems.keys().isdisjoint(wanted)}
    return facts | {"unread": unread}


class _Tables:
    """Reads tables of a lakehouse; an error does not end the report, but is noted in `problems` (what → why)."""

    def __init__(self, lake: Lakehouse) -> None:
        self._lake = lake
        self.problems: dict[str, str] = {}

    def read(self, table: str, *columns: str, where: Where | None = None, which: Which | None = None) -> pa.Table:
        schema = self._lake.spec(table).schema
        empty = pa.schema([schema.field(name) for name in columns] if columns else list(schema)).empty_table()
        read = partial(self._lake.read_arrow, table, columns=list(columns) or None, where=where, which=which)
        rows: pa.Table = self.or_else(table, read, empty)
        return rows

    def count(self, table: str) -> int | None:
        """How many rows a table has; None if it cannot be read."""
        rows: int | None = self.or_else(table, partial(self._lake.count, table), None)
        return rows

    def or_else(self, what: str, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except Exception as error:  # a damaged table, or a store that is down, may raise anything
            log.warning("report: %s cannot be read: %s", what, error)
            self.problems[what] = f"{type(error).__name__}: {printable_line(str(error), width=300)}"
            return otherwise


def _write(context: Context, facts: Row) -> AnyPath:
    page = context.settings.place(context.settings.report)
    if isinstance(page, ObjectPath):
        page.write_bytes(render(facts).encode())
        return page
    page.parent.mkdir(parents=True, exist_ok=True)
    half = page.with_name(page.name + ".part")
    half.write_text(render(facts), encoding="utf-8")
    os.replace(half, page)
    return page


def render(facts: Row) -> str:
    """The HTML page of the facts that `gather` returns."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)

    # Escape everything: by default it would depend on the name of the template.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown
    )
    template = files("pipelines.reporting").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(template).render(facts)


def _mark(versions: Versions) -> str:
    return _MARK.format(escape(f"{versions.table_id} {versions.until}"))


def _runs(rows: pa.Table) -> list[Row]:
    """One dict for each run, oldest first: label, counts by stage, seconds by stage."""
    runs: dict[str, Row] = {}
    for row in rows.sort_by("started_at").to_pylist():
        label = f"{row['started_at']:%d %b %H:%M:%S}" if row["started_at"] else "at an unknown time"
        empty: Row = {"label": label, "counts": {}, "seconds": {}, "verified": None, "set_aside": 0}
        run = runs.setdefault(row["run_id"], {"run_id": row["run_id"], "started_at": row["started_at"]} | empty)
        stage, counts = row["stage"] or "unknown", {key: n or 0 for key, n in row["counts"] or ()}
        run["counts"][stage] = counts
        run["seconds"][stage] = max(_finite(row["seconds"]) or 0.0, 0.0)
        run["set_aside"] = sum(counts.get("set_aside", 0) for counts in run["counts"].values())
    return list(runs.values())


def _index(context: Context) -> Row | None:
    from pipelines.vector_index.state import served

    state = served(context.lake, context.settings.index.name)
    manifest = state.manifest(context.settings) if state else None
    return None if manifest is None else vars(manifest) | {"store": context.settings.index.store}


def _answers(tables: _Tables, calls: pa.Table) -> list[Row]:
    """The last calls, newest first."""
    last = calls.sort_by([("request_time", "descending"), ("request_id", "ascending")]).to_pylist()
    if not last:
        return []
    wanted = {hit["chunk_id"] for call in last for hit in call["retrieved"] or () if hit and hit["chunk_id"]}
    index = tables.read("gold.chunk_index", "chunk_id", "path", "heading_path", where={"chunk_id": wanted})
    chunks = {row["chunk_id"]: row for row in index.to_pylist()}
    return [_answer(call, chunks=chunks) for call in last]


def _answer(call: Row, *, chunks: Mapping[str, Row]) -> Row:
    request, response, text = _json(call["request"]), _json(call["response"]), call["prediction"]
    if call["status_code"] != STATUS_OK:
        error = response.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        badge, text = "failed", str(message or "no reason was logged")
    elif response.get("is_quoted") is True:
        badge = "quoted"
    else:
        badge = "grounded" if response.get("is_grounded") is True else "not grounded"
    hits = sorted((hit for hit in call["retrieved"] or () if hit), key=lambda hit: hit["rank"] or 0)[:_SOURCES]
    return {
        "question": str(request.get("question") or call["request_id"] or "an unknown question"),
        "text": text,
        "badge": badge,
        "sources": [_source(hit, chunks.get(hit["chunk_id"])) for hit in hits],
        "milliseconds": call["execution_duration_ms"],
        "model_id": call["model_id"],
        "asked_at": call["request_time"],
    }


def _source(hit: Row, chunk: Row | None) -> Row:
    headings = [heading for heading in (chunk["heading_path"] if chunk else None) or () if heading]
    return {"score": _finite(hit["score"]), "path": chunk["path"] if chunk else None, "heading_path": headings}


def windows_of(rows: Iterable[Row]) -> list[Row]:
    """The windows in rows of metrics, newest first, each with its day, model and `metrics` (name → value, n, stderr).

    Rows of slices are left out. A metric of `_METRICS` that was not measured has None for all three.
    """
    windows: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        start = (row["window"] or {}).get("start")
        if row["slice_key"] is None and start is not None:
            empty = {"day": start, "model_id": row["model_id"], "metrics": dict.fromkeys(_METRICS, _NOT_MEASURED)}
            window = windows.setdefault((start, row["model_id"] or ""), empty)
            window["metrics"][row["metric_name"]] = {
                "value": _finite(row["value"]),
                "n": row["n"],
                "stderr": _finite(row["stderr"]),
            }
    return [windows[key] for key in sorted(windows, reverse=True)]


def _charts(runs: Sequence[Row], deliveries: Sequence[Row], latencies: Sequence[float]) -> dict[str, str | None]:
    drawn: dict[str, str | None] = dict.fromkeys(("seconds", "embeddings", "latency"))
    stages = list(dict.fromkeys(stage for run in runs for stage in run["seconds"]))[: charts.SERIES]
    if stages:
        drawn["seconds"] = charts.stacked_bars(
            "seconds",
            labels=[_label(run["label"]) for run in runs],
            series={
                printable_line(stage, width=_LABEL): [run["seconds"].get(stage, 0.0) for run in runs]
                for stage in stages
            },
            unit="seconds",
            title="Seconds a stage took in each run",
        )
    embedded = [run["counts"].get("embed-chunks", {}) for run in deliveries]
    if any(embedded):
        names = {"computed": "computed", "cached": "taken from the cache"}
        drawn["embeddings"] = charts.stacked_bars(
            "embeddings",
            labels=[_label(run["label"]) for run in deliveries],
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
    """p50 and p95, as values that were observed (see transformations/metrics/profile.py); empty without values."""
    ordered = sorted(values)
    shares = {"p50": 50, "p95": 95} if ordered else {}
    return {name: ordered[-(-len(ordered) * share // 100) - 1] for name, share in shares.items()}


def _label(text: str) -> str:
    return printable_line(text, width=_LABEL)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _json(text: str | None) -> Row:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {"error": {"message": "the logged response is not JSON"}}
    return value if isinstance(value, dict) else {}


STAGE = Stage("report", "All tables → one self-contained report.html.", look, work, sources=(STAGE_RUNS,))
