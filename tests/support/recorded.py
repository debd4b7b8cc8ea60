"""A workspace with one source of records; files put into its folder, and what its tables then say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.settings.sections import Settings

RECORD_STAGES = tuple(stage_named(command) for command in ("ingest-records", "refine-records"))
ORDERS = {
    "format": "csv",
    "location": "orders",
    "key": ["order_id"],
    "order_by": ["updated_at"],
    "columns": {"order_id": "string", "updated_at": "timestamp", "amount": "int", "note": "string"},
    "op": {"column": "op", "delete": ["D"]},
}
_OF_THE_RUN = ("_run_id", "_ingested_at", "_changed_at")


def settings_for(root: Path, **sources: dict[str, Any]) -> Settings:
    """Settings of a workspace with these sources, and a folder for each that is read from one."""
    settings = Settings.model_validate({"root": root, "records": sources})
    for source in settings.records.values():
        if source.is_files:
            settings.path(source.location).mkdir(parents=True, exist_ok=True)
    return settings


def put(settings: Settings, name: str, content: str | bytes, *, source: str = "orders") -> Path:
    """Write a file of the source, whole or not at all."""
    path = settings.path(settings.records[source].location) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def run(settings: Settings) -> dict[str, dict[str, int]]:
    """ingest-records and refine-records, where due; their counts, those of several sources summed."""
    counts: dict[str, dict[str, int]] = {}
    for outcome in run_stages(new_context(settings), stages=RECORD_STAGES).stages:
        of = counts.setdefault(outcome.stage, {})
        for name, count in outcome.counts.items():
            of[name] = of.get(name, 0) + count
    return counts


def rows(settings: Settings, table: str, *columns: str) -> list[dict[str, Any]]:
    """A table's rows, read as they are on disk."""
    import deltalake
    import pyarrow as pa

    lake = new_context(settings).lake
    if not (lake.folder(table) / "_delta_log").is_dir():
        return []
    found = pa.table(deltalake.DeltaTable(str(lake.folder(table))).scan())
    return found.select(list(columns) or found.column_names).to_pylist()


def now(settings: Settings, source: str = "orders") -> dict[Any, dict[str, Any]]:
    """silver.records_*: key → row, without what differs from run to run."""
    (key,) = settings.records[source].key
    found = rows(settings, f"silver.records_{source}")
    found = [{c: v for c, v in row.items() if c not in _OF_THE_RUN} for row in found]
    keyed = {row[key]: row for row in found}
    assert len(keyed) == len(found), "a key is there twice"
    return keyed


def history(settings: Settings, source: str = "orders") -> set[tuple[Any, ...]]:
    """The versions of the history, markers left out."""
    found = rows(settings, f"silver.records_{source}_history")
    kept = [row for row in found if row["_marks"] is None]
    passed_over = (*_OF_THE_RUN, "_offset", "_source_version")
    return {tuple(str(v) for c, v in sorted(row.items()) if c not in passed_over) for row in kept}


def refused(settings: Settings, source: str = "orders", *, is_open: bool = True) -> list[dict[str, Any]]:
    """Rows of the quarantine that are still refused, or that are no longer."""
    found = rows(settings, f"silver.records_{source}_quarantine")
    return [row for row in found if (row["replayed_at"] is None) == is_open]


def versions(settings: Settings) -> dict[str, int | None]:
    """Table → version, of all tables on disk."""
    import deltalake

    logs = settings.path(settings.lakehouse).glob("*/*/_delta_log")
    return {f"{log.parents[1].name}.{log.parent.name}": deltalake.DeltaTable(str(log.parent)).version() for log in logs}


__all__ = ["ORDERS", "RECORD_STAGES", "history", "now", "put", "refused", "rows", "run", "settings_for", "versions"]
