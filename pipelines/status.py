"""A workspace in; how far each stage and the index are, and what is set aside, out. Needs no JVM."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib import import_module
from typing import Any

import pyarrow.compute as pc

from pipelines.lakehouse import Lakehouse
from pipelines.models.embedders import embedding_model
from pipelines.run import STAGES, new_context
from pipelines.settings import Settings
from pipelines.stage import STAGE_RUNS, due
from pipelines.stores import open_store

_QUARANTINES = ("silver.documents_quarantine", "silver.chunks_quarantine")


def describe(settings: Settings) -> tuple[dict[str, Any], str]:
    """The facts, and the same as text."""
    context = new_context(settings)
    last_runs = {row["stage"]: row for row in _last_runs(context.lake)}
    stages = []
    for stage in STAGES:
        module = import_module(stage.module)
        window = module.due(context) if hasattr(module, "due") else due(stage, context)
        last = last_runs.get(stage.command)
        behind = None if window is None else (window.until - window.since if window.since is not None else None)
        stages.append(
            {
                "stage": stage.command,
                "is_due": window is not None,
                "versions_behind": behind,
                "last_run_at": last["started_at"] if last else None,
                "last_counts": dict(last["counts"]) if last else None,
            }
        )
    page = settings.path(settings.report)
    if page.is_file():  # the report reads the records of runs, so its own runs are not among them
        written_at = datetime.fromtimestamp(page.stat().st_mtime, timezone.utc)
        next(s for s in stages if s["stage"] == "report")["last_run_at"] = written_at
    manifest = open_store(settings, dimension=embedding_model(settings).dimension).manifest()
    refused = {table: _open_rows(context.lake, table) for table in _QUARANTINES}
    facts = {
        "workspace": str(settings.root),
        "stages": stages,
        "index": vars(manifest) if manifest else None,
        "quarantine": refused,
    }
    lines = [f"{'due      ' if s['is_due'] else 'up to date'} {s['stage']:<18} {_when(s)}" for s in stages]
    if manifest:
        lines.append(
            f"index = {manifest.source_table} at version {manifest.version}, {manifest.rows} rows, "
            f"fingerprint {manifest.fingerprint}, model {manifest.model}"
        )
    else:
        lines.append("no index yet: lakeloop run")
    lines += [f"{table}: {rows} set aside" for table, rows in refused.items() if rows]
    return facts, "\n".join(lines)


def _when(stage: dict[str, Any]) -> str:
    return f"last run {stage['last_run_at']:%Y-%m-%d %H:%M:%S} UTC" if stage["last_run_at"] else "never run"


def _last_runs(lake: Lakehouse) -> list[dict[str, Any]]:
    runs = lake.read_arrow(STAGE_RUNS, columns=["stage", "started_at", "counts"]).sort_by("started_at")
    rows: list[dict[str, Any]] = runs.to_pylist()
    return rows


def _open_rows(lake: Lakehouse, table: str) -> int:
    rows = lake.read_arrow(table, columns=["replayed_at"])
    return int(pc.sum(pc.is_null(rows["replayed_at"]).cast("int64")).as_py() or 0)
