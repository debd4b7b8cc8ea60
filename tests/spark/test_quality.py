"""What stages record of their rules, and what `lakeloop quality` says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from expectations.rules.rules import Rule
from pipelines.cli.main import main
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.flow.stage import Context, Versions
from pipelines.quality.rule_results import RULE_RESULTS
from pipelines.quality.split import Split
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, ExpectationFailedError

RULES = (Rule("is_small", "value < 10", "warn"), Rule("is_even", "value % 2 = 0"), Rule("is_set", "id > ''", "fail"))
STAGES = [stage_named(command) for command in ("ingest-documents", "refine-documents", "chunk-documents")]


SPLIT = Split(
    "refine-things", "bronze.things", "silver.things", "silver.things_quarantine", key="id", same=(), scope="id"
)


def _judge(context: Context, rows: Any, *, until: int = 1, rules: Sequence[Rule] = RULES) -> Any:
    return SPLIT.judge(context, rows, rules=rules, versions=Versions(None, until, "t"))


def _metrics(context: Context) -> list[tuple[Any, ...]]:
    rows = context.lake.read_arrow(RULE_RESULTS).to_pylist()
    told = ("rule", "level", "is_kept", "checked_rows", "failed_rows", "failed_ratio", "source_version_to")
    return sorted(tuple(row[c] for c in told) for row in rows)


def test_rows_are_judged_once_counted_and_recorded_once_for_the_same_versions(context: Context, spark):
    rows = spark.createDataFrame([("a", 2), ("b", 12), ("c", 13), ("d", None)], "id string, value int")
    judged = _judge(context, rows)
    assert (judged.checked_rows, judged.refused_rows) == (4, 2)
    assert judged.broken == {"is_small": 3, "is_even": 2, "is_set": 0}
    assert [row["id"] for row in judged.valid.collect()] == ["a", "b"]
    assert {r["id"]: r["failed_rules"] for r in judged.refused.collect()} == {
        "c": ["is_small", "is_even"],
        "d": ["is_small", "is_even"],
    }
    assert len(context.frames) == 1, "the judged rows are held until the stage ends"
    expected = [
        ("is_even", "quarantine", False, 4, 2, 0.5, 1),
        ("is_set", "fail", True, 4, 0, 0.0, 1),
        ("is_small", "warn", False, 4, 3, 0.75, 1),
    ]
    assert _metrics(context) == expected
    version = context.lake.head(RULE_RESULTS)
    _judge(new_context(context.settings), rows)
    _judge(context, rows.where("false"), until=2)
    assert context.lake.head(RULE_RESULTS) == version, "the same counts again, or no row at all: nothing is written"
    _judge(context, rows.where("id = 'a'"), until=2)
    assert len(_metrics(context)) == 6


def test_a_broken_rule_of_level_fail_stops_the_stage_and_is_recorded(context: Context, spark):
    rows = spark.createDataFrame([("", 2), (None, 4), ("c", 2)], "id string, value int")
    with pytest.raises(ExpectationFailedError) as raised:
        _judge(context, rows)
    message = str(raised.value)
    assert message.startswith(
        "refine-things: rule 'is_set' (level fail) is broken by 2 of 3 rows for silver.things, id "
    )
    assert "''" in message
    assert "None" in message
    assert "Nothing was written to silver.things. Repair the rows in bronze.things and run again" in message
    assert ("is_set", "fail", False, 3, 2, 2 / 3, 1) in _metrics(context)
    assert context.lake.head("silver.documents") is None


def test_a_row_that_a_rule_cannot_take_stops_the_stage_and_the_rule_is_named(context: Context, spark):
    rows = spark.createDataFrame([("a", "12"), ("b", "twelve")], "id string, value string")
    with pytest.raises(ConfigurationError, match=r"rule 'is_number' .* silver\.things.*'twelve'.*try_cast"):
        _judge(context, rows, rules=[Rule("has_id", "id <> ''"), Rule("is_number", "CAST(value AS INT) > 0")])
    assert context.lake.head(RULE_RESULTS) is None
    judged = _judge(context, rows, rules=[Rule("is_number", "try_cast(value AS INT) > 0")])
    assert judged.broken == {"is_number": 1}


def _quality(settings: Settings, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = 0
    try:
        main(["quality", "--json", "--config", str(settings.root / "lakeloop.yml"), *words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def refined(workspace: Settings, spark) -> Settings:
    """A workspace with a document and a refused one."""
    (workspace.root / "lakeloop.yml").touch()
    (workspace.landing_path / "a.md").write_text("# A\n\nSome text.\n")
    (workspace.landing_path / "empty.md").write_text("")
    run_stages(new_context(workspace), stages=STAGES)
    return workspace


def test_the_command_has_nothing_to_say_of_an_empty_workspace(workspace: Settings, capsys):
    (workspace.root / "lakeloop.yml").touch()
    assert _quality(workspace, capsys) == (0, {"results": [], "failed": [], "quarantine": {}, "data_docs": None})


def test_the_command_prints_the_last_result_of_each_rule(refined: Settings, capsys):
    code, facts = _quality(refined, capsys)
    assert (code, facts["quarantine"]) == (0, {"silver.documents_quarantine": 1})
    told = {(r["table_name"], r["rule"]): (r["checked_rows"], r["failed_rows"]) for r in facts["results"]}
    assert told["silver.documents", "is_not_empty"] == (2, 1)
    assert told["silver.chunks", "has_text"] == (1, 0)
    main(["quality", "--config", str(refined.root / "lakeloop.yml")])
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"quarantine +silver\.documents +is_not_empty +1 of 2 rows break it", line) for line in lines)
    assert "silver.documents_quarantine: 1 set aside; why, and what to do: lakeloop quarantine" in lines
    assert lines[-1] == "Data Docs: none yet; lakeloop quality --validate"


@pytest.mark.long
def test_a_validation_of_whole_tables_finds_a_row_written_twice_and_builds_data_docs(refined: Settings, capsys):
    pytest.importorskip("great_expectations")
    lake = new_context(refined).lake
    lake.append_arrow("silver.documents", lake.read_arrow("silver.documents"))
    code, facts = _quality(refined, capsys, "--validate")
    assert (code, facts["failed"]) == (ExpectationFailedError.exit_code, ["silver.documents: has_unique_key"])
    page = Path(facts["data_docs"])
    assert page == refined.root / "quality" / "data_docs" / "index.html"
    assert "silver_documents" in page.read_text(encoding="utf-8")
    assert "Some text." not in "".join(p.read_text(encoding="utf-8") for p in page.parent.rglob("*.html"))
    validated = {(r["table_name"], r["rule"]): r["is_kept"] for r in facts["results"] if r["stage"] == "quality"}
    assert validated["silver.documents", "has_text"] is True
    assert validated["silver.chunks", "has_its_reference"] is True
    assert _quality(refined, capsys)[0] == ExpectationFailedError.exit_code, "also where it only prints"
