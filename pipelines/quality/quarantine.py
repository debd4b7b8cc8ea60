"""Lists everything that was set aside, with the reason and what to do next. Needs no JVM.

Four kinds of things are set aside: rows that broke a rule (documents, chunks, and records of every source, in the
tables with `failed_rules`), items that a stage could not apply (ops.dead_letters), rules of whole tables that do not
hold, and files of a kind that is not read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePath
from typing import Any

from pipelines.documents.landing import files_below
from pipelines.flow.stage import Context
from pipelines.flow.states import STAGE_RUNS
from pipelines.lakehouse.schemas.spec import INT, LONG, STRING, STRINGS, TIMESTAMP, table_spec
from pipelines.lakehouse.selection import LastOf
from pipelines.lakehouse.tables import Lakehouse
from pipelines.quality.dead_letters import TABLE as DEAD_LETTERS
from pipelines.quality.dead_letters import open_letters, waits_for_work
from pipelines.quality.rule_results import OF_ONE_RULE, RULE_RESULTS
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, DamagedTableError

log = logging.getLogger(__name__)
# The columns that are read from a quarantine of records, whatever columns its source has.
_RECORDS = table_spec(
    "quarantine",
    ("record_id", STRING),
    ("failed_rules", STRINGS),
    ("reason", STRING),
    ("attempts", INT),
    ("replayed_at", TIMESTAMP),
    ("_source_file", STRING),
    ("_offset", LONG),
    ("_ingested_at", TIMESTAMP),
    ("_run_id", STRING),
    key="record_id",
)
_RECORDS_NAME = re.compile(r"silver\.records_(\w+)_quarantine")
_WANTED = (
    "path", "ordinal", "document_id", "failed_rules", "reason", "attempts", "replayed_at", "_source_file", "_offset",
    "_ingested_at", "_run_id",
)  # fmt: skip
_REPAIR = "The next lakeloop run that sees it changed takes it."
_DOCUMENT_STEPS = {
    "is_readable": "let this user read the file",
    "has_valid_path": "rename the file: its name is not UTF-8",
    "has_unique_path": "rename one of the two files",
    "is_within_size_limit": "make the file smaller, or raise the limit that the reason names",
    "is_text": "it is no text: save it in the format that its name says, or take it out of ingest.include",
    "is_valid_encoding": "save the file as UTF-8",
    "is_not_empty": "put text into the file, or remove it",
    "is_parseable": "repair the file: does its own program open it?",
    "is_not_encrypted": "save the file without its password",
    "is_parsed_in_time": "split the file, or raise parse.timeout_seconds",
    "is_within_memory": "split the file, or raise parse.memory_mb",
    "is_safe_to_parse": "its parser crashed: save the file anew with its own program",
    "is_in_language": "add its language to refine.languages, or let refine.other_languages warn",
    "has_no_personal_data": "take the personal data out, or let refine.pii mask it",
    "has_text": "the chunk has no words: put text into its section",
    "is_within_token_limit": "shorten the passage, or raise chunks.max_tokens",
    "is_within_length": "shorten the passage, or raise chunks.max_characters",
    "has_no_other_error": "mend what the reason says",
}


@dataclass(frozen=True)
class SetAside:
    """One thing that was set aside.

    Attributes:
        table: the table that holds it.
        key: its key in that table.
        what: where it came from, for people: a path, or a file and a record in it.
        rules: the rules that it broke.
        reason: why, in words.
        since: when it was refused; None if the table does not know.
        attempts: how often it was tried.
        next_step: what to do.
    """

    table: str
    key: str
    what: str
    rules: tuple[str, ...]
    reason: str
    since: datetime | None
    attempts: int | None
    next_step: str

    def to_json(self) -> dict[str, Any]:
        since = self.since.isoformat() if self.since else None
        return vars(self) | {"rules": list(self.rules), "since": since}


def quarantined(context: Context, *, tables: Sequence[str] = ()) -> list[SetAside]:
    """Everything that is set aside, by table and then the oldest first; only in `tables`, if these are given.

    Raises:
        ConfigurationError: there is no such table.
    """
    everywhere = set_aside_tables(context)
    chosen = [_named(table, everywhere) for table in tables] or everywhere
    found: list[SetAside] = []
    for table in dict.fromkeys(chosen):
        if table == DEAD_LETTERS:
            rows = list(_letters(context.lake))
        elif table == RULE_RESULTS:
            rows = list(_tables_that_break_rules(context.lake))
        else:
            held = _open_rows(context.lake, table)
            started = _run_starts(context.lake, held)
            rows = [_row(table, row, context.settings, started) for row in held]
        found += sorted(rows, key=lambda one: (one.since or datetime.max.replace(tzinfo=timezone.utc), one.key))
    return found


def set_aside_tables(context: Context) -> list[str]:
    """Every table that can hold something set aside."""
    return [*quarantine_tables(context.settings, context.lake), DEAD_LETTERS, RULE_RESULTS]


def quarantine_tables(settings: Settings, lake: Lakehouse) -> list[str]:
    """Every table of refused rows: lakeloop's own, and one for each source of records, even if the source is gone."""
    names = {f"silver.records_{name}_quarantine" for name in settings.records}
    if (documents := lake.folder("silver.documents")) is not None:
        names |= {
            f"silver.{folder.name}" for folder in documents.parent.glob("records_*_quarantine") if folder.is_dir()
        }
    for name in names:
        if not lake.is_declared(name):
            lake.declare(name, _RECORDS)
    return lake.tables("quarantine")


def waiting(context: Context) -> dict[str, int]:
    """Table → how many of its rows are set aside now; tables without any are left out."""
    counts: dict[str, int] = {}
    for one in quarantined(context):
        counts[one.table] = counts.get(one.table, 0) + 1
    return counts


def passed_over(settings: Settings) -> dict[str, tuple[int, str]]:
    """Suffix of files in the landing folder that are not read → (how many there are, the path of the first)."""
    kinds: dict[str, tuple[int, str]] = {}
    files = files_below(settings.landing_path, settings.ingest, own=settings.own_places, is_strict=False)
    for file in sorted(PurePath(path) for path, kind in files if kind == "other"):
        suffix = file.suffix.lower() or "without a suffix"
        count, first = kinds.get(suffix, (0, file.as_posix()))
        kinds[suffix] = (count + 1, first)
    return dict(sorted(kinds.items(), key=lambda item: (-item[1][0], item[0])))


def _named(table: str, known: Sequence[str]) -> str:
    """The full name of a table, whose schema may be left out in `table`."""
    short = {name.split(".")[1]: name for name in known}
    if table not in known and table not in short:
        raise ConfigurationError.unknown_name("table of what is set aside", table, known)
    return short.get(table, table)


def _run_starts(lake: Lakehouse, rows: Sequence[Mapping[str, Any]]) -> dict[str, datetime]:
    """Run id → when the run began, for the runs of those rows that have no instant of their own."""
    where = {"run_id": {row["_run_id"] for row in rows if row.get("_run_id") and not row.get("_ingested_at")}}
    try:
        runs = lake.read_arrow(STAGE_RUNS, columns=["run_id", "started_at"], where=where).to_pylist()
    except DamagedTableError as error:  # the list is still right without these instants
        log.warning("%s", error)
        return {}
    starts: dict[str, datetime] = {}
    for run in sorted((r for r in runs if r["started_at"] is not None), key=lambda r: r["started_at"]):
        starts.setdefault(run["run_id"], run["started_at"])
    return starts


def _open_rows(lake: Lakehouse, table: str) -> list[dict[str, Any]]:
    spec = lake.spec(table)
    columns = [*spec.key, *(c for c in _WANTED if c in spec.columns and c not in spec.key)]
    rows: list[dict[str, Any]] = lake.read_arrow(table, columns=columns, where={"replayed_at": None}).to_pylist()
    return [row | {"_key": row[spec.key[0]]} for row in rows]


def _row(table: str, row: Mapping[str, Any], settings: Settings, started: Mapping[str, datetime]) -> SetAside:
    rules = tuple(row["failed_rules"] or ())
    source = _RECORDS_NAME.fullmatch(table)
    if source:
        what = ", record ".join(str(v) for v in (row["_source_file"], row["_offset"]) if v is not None)
    elif "ordinal" in row:
        what = f"{row['path']}, chunk {row['ordinal']}"
    else:
        what = str(row.get("path") or "")
    return SetAside(
        table,
        str(row["_key"]),
        what,
        rules,
        row.get("reason") or "",
        row.get("_ingested_at") or started.get(row.get("_run_id") or ""),
        row["attempts"],
        _record_step(source[1], settings) if source else _step(rules),
    )


def _step(rules: Sequence[str]) -> str:
    steps = [_DOCUMENT_STEPS.get(rule, f"mend it so that it keeps the rule {rule}") for rule in rules]
    return f"{'; '.join(steps) or 'mend what the reason says'}. {_REPAIR}"


def _record_step(name: str, settings: Settings) -> str:
    if name not in settings.records:
        return f"its source is not in lakeloop.yml any more: put records.{name} back, or remove the source's tables"
    return (
        f"send the record again, repaired, with its key and order; or correct records.{name} in lakeloop.yml: its "
        "arrivals are then judged again. Then: lakeloop run"
    )


def _letters(lake: Lakehouse) -> Iterator[SetAside]:
    for row in open_letters(lake):
        about = [
            row["document_id"] and f"document {row['document_id']}",
            row["index_name"] and f"index {row['index_name']}",
        ]
        at = row["next_retry_at"]
        run = "the next run with other work" if waits_for_work(row) else "the next run"
        again = f"{run} after {at:%Y-%m-%d %H:%M} UTC tries it again" if at else f"{run} tries it again"
        yield SetAside(
            DEAD_LETTERS,
            row["chunk_id"] or row["letter_id"],
            ", ".join(filter(None, [f"chunk of {row['stage']}", *about])),
            (),
            row["error"] or "",
            row["failed_at"],
            row["attempts"],
            f"mend what the error says; {again}, at once: lakeloop replay",
        )


def _tables_that_break_rules(lake: Lakehouse) -> Iterator[SetAside]:
    """Rules that the last judgement of a table found broken: rules of whole tables, and rules of rows of level fail."""
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    last = lake.read_arrow(RULE_RESULTS, which=LastOf(OF_ONE_RULE, by="computed_at")).to_pylist()
    where = {"rule": {row["rule"] for row in last if not row["is_kept"]}}
    rows = lake.read_arrow(RULE_RESULTS, where=where).to_pylist()
    for row in sorted(rows, key=lambda r: str(r["computed_at"] or "")):
        broken = runs.setdefault(tuple(row[column] for column in OF_ONE_RULE), [])
        # If the rule was kept in between, the count begins again.
        broken[:] = [] if row["is_kept"] else [*broken, row]
    for (table, stage, rule), broken in runs.items():
        if broken and (broken[-1]["kind"] != "row" or broken[-1]["level"] == "fail"):
            last = broken[-1]
            value = "nothing" if last["value"] is None else f"{last['value']:g}"
            yield SetAside(
                RULE_RESULTS,
                f"{table}: {rule}",
                f"{table} as a whole, judged by {stage}",
                (rule,),
                f"{last['failed_rows']} of {last['checked_rows']} rows, value {value} (level {last['level']})",
                broken[0]["computed_at"],
                len(broken),
                f"mend the source of {table}, then: lakeloop run, and lakeloop quality --validate",
            )
