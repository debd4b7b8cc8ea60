"""Reports how far each stage and each index has come, and what is set aside. Needs no JVM if tables are folders.

A damaged table does not hide the others: the report names it, with the command that repairs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

from pipelines.conductor.run import new_context
from pipelines.conductor.stages import STAGES
from pipelines.flow.stage import Context
from pipelines.lakehouse.schemas import TABLES
from pipelines.lakehouse.tables import Lakehouse
from pipelines.quality.dead_letters import TABLE as DEAD_LETTERS
from pipelines.quality.quarantine import passed_over, quarantine_tables, quarantined, set_aside_tables
from pipelines.quality.rule_results import RULE_RESULTS
from pipelines.settings.sections import Settings
from pipelines.vector_index.lag import lag_of
from pipelines.vector_index.state import IndexState, states
from transformations.errors import DamagedTableError, LakeloopError
from transformations.text.printable import printable_line

_DAMAGED = " is damaged: "


def describe(settings: Settings) -> tuple[dict[str, Any], str]:
    """The facts, and the same as text. `damaged` of the facts lists the tables with missing or broken files."""
    context = new_context(settings)
    stages, troubles = [], list[LakeloopError]()
    for table in TABLES:
        with _noted(troubles):
            _look_at(context.lake, table)
    for stage in STAGES:
        found, before = [], len(troubles)
        with _noted(troubles):
            for each in stage.contexts(context):
                with _noted(troubles):
                    found.append(stage.look(each))
        due = next((work for work in found if work is not None), None)
        last = None
        with _noted(troubles):
            last = next(reversed(context.states.of_stage(stage.command)), None)
        behind = None
        if due is not None and due.versions and due.first.since is not None:
            behind = due.first.until - due.first.since
        stages.append(
            {
                "stage": stage.command,
                "is_due": due is not None or len(troubles) > before,
                "versions_behind": behind,
                "last_run_at": last.started_at if last else None,
                "last_counts": dict(last.counts) if last else None,
            }
        )
    # The report reads ops.stage_runs, so its own runs are not recorded: the file tells the time.
    with _noted(troubles), suppress(OSError):
        written_at = datetime.fromtimestamp(settings.place(settings.report).stat().st_mtime, timezone.utc)
        next(s for s in stages if s["stage"] == "report")["last_run_at"] = written_at
    known: Sequence[IndexState] | None = None
    indexes = list[dict[str, Any]]()
    with _noted(troubles):
        known = states(context.lake, settings.index.name)
        for state in known:
            with _noted(troubles):
                indexes.append(_index(context, state))
    aside = dict[str, int]()
    for table in set_aside_tables(context):
        with _noted(troubles):
            aside[table] = len(quarantined(context, tables=[table]))
    refused = {table: aside.get(table, 0) for table in quarantine_tables(settings, context.lake)}
    letters, broken = aside.get(DEAD_LETTERS, 0), aside.get(RULE_RESULTS, 0)
    kinds = passed_over(settings)
    begun = list[str]()
    with _noted(troubles):
        begun = _half_forgotten(context.lake)
    # A damaged table is reported once, although several checks may have found it; the first message is kept.
    trouble_of = {str(error).partition(_DAMAGED)[0]: error for error in reversed(troubles)}
    warnings = [
        *map(str, reversed(trouble_of.values())),
        *begun,
        *(warning for index in indexes for warning in index["warnings"]),
    ]
    facts: dict[str, Any] = {
        "workspace": str(settings.root),
        "stages": stages,
        "index": next((i for i in indexes if i["role"] == "served"), None),
        "indexes": indexes,
        "quarantine": refused,
        "dead_letters": letters,
        "broken_table_rules": broken,
        "damaged": sorted(name for name, error in trouble_of.items() if isinstance(error, DamagedTableError)),
        "passed_over": {kind: count for kind, (count, _) in kinds.items()},
        "warnings": warnings,
    }
    lines = [f"{_state(s):<10} {s['stage']:<18} {_when(s)}" for s in stages]
    lines += ["no index yet: lakeloop run"] if known == [] else map(_index_line, indexes)
    lines += [f"{table}: {rows} set aside" for table, rows in refused.items() if rows]
    lines += [f"ops.dead_letters: {letters} open; try them again with: lakeloop replay"] if letters else []
    lines += [f"{broken} rules of whole tables do not hold: lakeloop quality"] if broken else []
    lines += ["why, and what to do: lakeloop quarantine"] if any(aside.values()) else []
    if kinds:
        others = ", ".join(printable_line(f"{count} {kind}", width=60) for kind, (count, _) in kinds.items())
        lines.append(f"files passed over, for no pattern of ingest.include names their kind: {others}")
    lines += [f"WARNING {warning}" for warning in warnings]
    return facts, "\n".join(lines)


def _half_forgotten(lake: Lakehouse) -> list[str]:
    rows = lake.read_arrow("ops.forget_receipts", columns=["document_id"], where={"forgotten_at": None}).to_pylist()
    begun = sorted({row["document_id"] for row in rows if row["document_id"]})
    return [f"forgetting {one} was begun and did not end: end it with lakeloop forget {one}" for one in begun]


def _look_at(lake: Lakehouse, table: str) -> None:
    """Check the log, and the names and sizes of files, of a table in a folder, also if no stage reads it.

    Raises:
        DamagedTableError: files are missing or broken.
    """
    if lake.is_local and lake.head(table) is not None and (found := lake.damage([table], deeply=False)):
        raise found


@contextmanager
def _noted(troubles: list[LakeloopError]) -> Iterator[None]:
    """Collect an error of the block in `troubles`, so that, for example, one missing folder does not hide the rest."""
    try:
        yield
    except LakeloopError as error:
        troubles.append(error)


def _index(context: Context, state: IndexState) -> dict[str, Any]:
    """The facts of one index: its own manifest, compared with its table."""
    facts: dict[str, Any] = {"index_name": state.index_name, "role": state.role, "store": state.store, "warnings": []}
    manifest = state.manifest(context.settings)
    if manifest is None:
        return facts | {"warnings": [f"{state.index_name} is not at {state.uri}: build it with lakeloop sync-index"]}
    facts |= vars(manifest)
    head = context.lake.head("gold.chunk_index")
    if head is None or head.table_id != manifest.source_id:
        facts["warnings"].append(f"{state.index_name} belongs to a table that is gone; the next sync compares hashes")
        return facts
    lag = lag_of(context.lake, "gold.chunk_index", version=manifest.version, now=context.now())
    facts["lag"] = vars(lag)
    if lag.is_at_risk:
        hours = max(lag.history_hours or 0, 0)
        facts["warnings"].append(
            f"{state.index_name} is at version {manifest.version}, the history that its next sync reads ends in "
            f"{hours:.1f} hours; after that it compares hashes. Sync now: lakeloop sync-index"
        )
    return facts


def _index_line(index: dict[str, Any]) -> str:
    if "version" not in index:
        return f"{index['role']:<10} {index['index_name']}: not there"
    lag = index.get("lag", {})
    behind = (
        f", behind by {lag['versions']} versions, {lag['rows']} rows, {lag['seconds']:.0f} s"
        if lag.get("versions")
        else ""
    )
    return (
        f"{index['role']:<10} {index['index_name']} = {index['source_table']} at version {index['version']}, "
        f"{index['rows']} rows, fingerprint {index['fingerprint']}, model {index['model']}{behind}"
    )


def _state(stage: dict[str, Any]) -> str:
    """The state in words. A stage that is not due and never ran has no input yet, so it is not "up to date"."""
    if stage["is_due"]:
        return "due"
    return "up to date" if stage["last_run_at"] else "no input"


def _when(stage: dict[str, Any]) -> str:
    return f"last run {stage['last_run_at']:%Y-%m-%d %H:%M:%S} UTC" if stage["last_run_at"] else "never run"
