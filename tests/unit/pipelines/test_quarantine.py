"""Tables with refused rows in; what `lakeloop quarantine`, `status` and `quality` say of them, without a JVM."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from expectations.tables.chunks import chunk_rules
from expectations.tables.documents import document_rules
from pipelines.cli.main import main
from pipelines.documents.landing import list_files
from pipelines.flow.stage import Context
from pipelines.flow.states import STAGE_RUNS
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.schemas import TABLES
from pipelines.operations import status
from pipelines.progress import Progress
from pipelines.quality import quarantine
from pipelines.quality.dead_letters import is_overdue, open_letters
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError
from transformations.text.printable import printable

T0 = datetime(2026, 3, 1, 9, tzinfo=timezone.utc)
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
RECORDS = {
    "orders": {"format": "csv", "location": "orders", "key": ["id"], "columns": {"id": "string", "amount": "int"}},
}


@pytest.fixture
def context(tmp_path) -> Context:
    def no_spark() -> Any:
        pytest.fail("listing what is set aside must not need a JVM")

    (tmp_path / "landing").mkdir()
    (tmp_path / "orders").mkdir()
    settings = Settings.model_validate({"root": tmp_path, "records": RECORDS})
    return Context(settings, open_lakehouse(settings, spark=no_spark), "run", Progress(terminal=False))


def fill(context: Context) -> None:
    lake = context.lake
    quarantine.quarantine_tables(context.settings, lake)
    refused = {"attempts": 2, "_run_id": "r1"}
    lake.append_arrow(STAGE_RUNS, [{"run_id": "r1", "stage": "chunk-documents", "started_at": T0, "counts": []}])
    lake.append_arrow(
        "silver.documents_quarantine",
        [
            {"document_id": "d2", "path": f"b{ESCAPE}.md", "reason": f"empty{ESCAPE}: no text", "failed_rules":
             ["is_not_empty"], "_ingested_at": T0 + timedelta(hours=1), **refused},
            {"document_id": "d1", "path": "a.md", "reason": "too_large", "failed_rules": ["is_within_size_limit"],
             "_ingested_at": T0, **refused},
            {"document_id": "d0", "path": "back.md", "replayed_at": T0, "failed_rules": ["is_not_empty"], **refused},
        ],
    )  # fmt: skip
    chunk = {"chunk_id": "c1", "path": "a.md", "ordinal": 4, "failed_rules": ["is_within_token_limit"]}
    lake.append_arrow("silver.chunks_quarantine", [chunk | refused])
    record = {"record_id": "k1", "failed_rules": ["amount_is_int"], "reason": "amount: '1.5' is no int", "attempts": 1}
    place = {"_source_file": "orders/1.csv", "_offset": 7, "_ingested_at": T0}
    lake.append_arrow("silver.records_orders_quarantine", [record | place])
    lake.declare("silver.records_gone_quarantine", quarantine._RECORDS)
    lake.append_arrow("silver.records_gone_quarantine", [record | place])
    letter = {"letter_id": "l1", "stage": "embed-chunks", "chunk_id": "c9", "error": "a NUL in the text", "attempts": 3}
    closed = letter | {"letter_id": "l2", "resolved_at": T0}
    lake.append_arrow("ops.dead_letters", [letter | {"failed_at": T0, "next_retry_at": T0}, closed])
    rule = {"table_name": "silver.documents", "stage": "quality", "kind": "unique", "level": "warn", "checked_rows": 9}
    results = [("is_unique", False, 0), ("is_unique", True, 1), ("is_unique", False, 2), ("is_unique", False, 3)]
    results += [("is_fresh", False, 0), ("is_fresh", True, 1)]
    lake.append_arrow(
        "monitoring.rule_results",
        [
            rule | {"rule": name, "is_kept": kept, "failed_rows": 2, "computed_at": T0 + timedelta(days=day)}
            for name, kept, day in results
        ]
        + [rule | {"rule": "is_even", "kind": "row", "is_kept": False, "computed_at": T0, "failed_rows": 1}],
    )
    for name in ("old.doc", "more/x.wpd", "more/y.wpd", ".hidden/z.wpd", "~$lock.docx", "read.md", "Makefile"):
        file = context.settings.landing_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_everything_that_is_set_aside_is_listed_with_its_reason_and_its_next_step(context):
    fill(context)
    found = quarantine.quarantined(context)
    assert [(one.table, one.key, one.attempts, one.since) for one in found] == [
        ("silver.documents_quarantine", "d1", 2, T0),
        ("silver.documents_quarantine", "d2", 2, T0 + timedelta(hours=1)),
        ("silver.chunks_quarantine", "c1", 2, T0),
        ("silver.records_gone_quarantine", "k1", 1, T0),
        ("silver.records_orders_quarantine", "k1", 1, T0),
        ("ops.dead_letters", "c9", 3, T0),
        ("monitoring.rule_results", "silver.documents: is_unique", 2, T0 + timedelta(days=2)),
    ]
    assert all(one.next_step for one in found)
    assert "raise the limit that the reason names" in found[0].next_step
    assert "raise chunks.max_tokens" in found[2].next_step
    assert "put records.gone back" in found[3].next_step
    assert found[4].what == "orders/1.csv, record 7"
    assert "lakeloop replay" in found[5].next_step
    only = quarantine.quarantined(context, tables=["ops.dead_letters", "records_orders_quarantine"])
    assert [one.key for one in only] == ["c9", "k1"]
    with pytest.raises(ConfigurationError, match=r"unknown table of what is set aside 'silver.documents'"):
        quarantine.quarantined(context, tables=["silver.documents"])


def test_status_counts_all_of_it_and_names_the_kinds_passed_over(context):
    fill(context)
    facts, text = status.describe(context.settings)
    assert facts["quarantine"] == {
        "silver.documents_quarantine": 2,
        "silver.chunks_quarantine": 1,
        "silver.records_gone_quarantine": 1,
        "silver.records_orders_quarantine": 1,
    }
    assert (facts["dead_letters"], facts["broken_table_rules"]) == (1, 1)
    assert facts["passed_over"] == {".wpd": 2, ".doc": 1, "without a suffix": 1}
    assert "2 .wpd, 1 .doc" in text
    assert "lakeloop quarantine" in text


def test_the_command_prints_nothing_that_a_terminal_would_obey(context, capsys, monkeypatch):
    fill(context)
    (context.settings.landing_path / f"q.{ESCAPE}").touch()
    (context.settings.root / "lakeloop.yml").write_text(json.dumps({"records": RECORDS}), encoding="utf-8")
    monkeypatch.chdir(context.settings.root)
    main(["quarantine"])
    said = capsys.readouterr().out
    assert printable(said) == said
    assert "empty\\x1b]0;owned\\x07\\x1b[2J\\u202e: no text" in said
    assert "since 2026-03-01 09:00:00 UTC, 2 attempts" in said
    assert "2 .wpd (as more/x.wpd)" in said
    main(["quarantine", "--limit", "2"])
    assert "and 5 more: --limit 7" in capsys.readouterr().out
    main(["quarantine", "--json", "--table", "silver.documents_quarantine", "--limit", "1"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["total"] == 2
    assert [one["key"] for one in facts["set_aside"]] == ["d1"]
    assert facts["set_aside"][0]["since"] == "2026-03-01T09:00:00+00:00"
    main(["quality"])
    assert "silver.records_orders_quarantine: 1 set aside" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["quarantine", "--table", "nothing"])
    assert ended.value.code == ConfigurationError.exit_code


def test_what_is_told_of_as_passed_over_is_what_ingest_does_not_take(context):
    fill(context)
    landing = context.settings.landing_path
    (landing / "link.doc").symlink_to(landing / "old.doc")
    (landing / "more" / "~$lock.doc").touch()
    taken = {file.path for file in list_files(landing, context.settings.ingest)}
    assert taken == {"read.md"}
    told = quarantine.passed_over(context.settings)
    assert told == {".wpd": (2, "more/x.wpd"), ".doc": (1, "old.doc"), "without a suffix": (1, "Makefile")}
    sealed = landing / "more"
    sealed.chmod(0)
    try:
        if not os.access(sealed, os.R_OK):  # to root nothing is sealed
            assert quarantine.passed_over(context.settings).keys() == {".doc", "without a suffix"}
            with pytest.raises(PermissionError):
                list_files(landing, context.settings.ingest)
    finally:
        sealed.chmod(0o755)


def test_every_rule_of_documents_and_chunks_has_a_step_of_its_own():
    rules = [
        *document_rules(languages=["en"], allow_personal_data=False),
        *chunk_rules(max_tokens=1, max_characters=1),
    ]
    assert {rule.name for rule in rules} == set(quarantine._DOCUMENT_STEPS)


@pytest.mark.parametrize(
    ("stage", "attempts", "when"),
    [
        ("embed-chunks", 8, "the next run after 2026-03-01 09:00 UTC tries it again"),
        ("embed-chunks", 9, "the next run with other work after 2026-03-01 09:00 UTC tries it again"),
        ("sync-index", 1, "the next run with other work after 2026-03-01 09:00 UTC tries it again"),
    ],
)
def test_a_letter_says_which_run_tries_it_again(context, stage, attempts, when):
    letter = {"letter_id": "l", "stage": stage, "chunk_id": "c", "attempts": attempts, "next_retry_at": T0}
    letter["index_name"] = "documents_1" if stage == "sync-index" else ""
    context.lake.append_arrow("ops.dead_letters", [letter])
    [one] = quarantine.quarantined(context)
    assert f"; {when}, at once: lakeloop replay" in one.next_step
    assert is_overdue(context, open_letters(context.lake)) is ("other work" not in when)


def test_an_empty_workspace_has_nothing_set_aside(context):
    assert quarantine.quarantined(context) == []
    assert quarantine.passed_over(context.settings) == {}


def test_every_table_of_refused_rows_is_listed():
    refusing = {name for name, spec in TABLES.items() if "failed_rules" in spec.columns}
    assert refusing == {name for name, spec in TABLES.items() if spec.role == "quarantine"}


def test_a_fresh_workspace_is_not_called_up_to_date(tmp_path: Path):
    (tmp_path / "landing").mkdir()
    facts, text = status.describe(Settings(root=tmp_path))
    assert {line.split("  ")[0] for line in text.splitlines() if "never run" in line} == {"no input"}
    assert not any(stage["is_due"] or stage["last_run_at"] for stage in facts["stages"])
