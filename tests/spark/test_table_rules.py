"""Rules of whole tables: what each says, with nulls, NaN and empty tables, here, in a suite and in an alert."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from expectations.rules.table_rules import TableRule, fresh, judge_table, references, row_count, share, unique
from expectations.targets.alerts import table_alert_query
from expectations.targets.suites import suite
from transformations.errors import ConfigurationError

NOW = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
SCHEMA = "id string, part int, value double, `odd ``name` string, event_at timestamp"
NAN = float("nan")
ROWS = [
    ("a", 1, 1.0, "{x}", NOW - timedelta(hours=2)),
    ("a", 2, NAN, "{x}", NOW - timedelta(hours=1)),
    ("b", 1, NAN, "y", datetime(9999, 1, 1, tzinfo=timezone.utc)),
    ("b", 1, 2.0, "", datetime(1960, 1, 1, tzinfo=timezone.utc)),
    (None, 1, None, None, None),
]
OTHERS = [("a",), ("a",), (None,), ("{x}",)]
RULES: dict[str, tuple[TableRule, bool, int, float | None]] = {
    rule.name: (rule, *expected)
    for rule, *expected in [
        (unique("id", name="id_alone"), False, 5, 5.0),
        (unique("id", "part", name="id_and_part"), False, 3, 3.0),
        (unique("event_at", "part", name="with_one_null"), False, 1, 1.0),
        (unique("value", name="nan_is_one_value"), False, 3, 3.0),
        (row_count(at_least=5, at_most=5, name="five"), True, 0, 5.0),
        (row_count(at_least=6, name="six"), False, 0, 5.0),
        (row_count(at_most=4, name="four"), False, 0, 5.0),
        (fresh("event_at", within=timedelta(hours=1), name="an_hour"), True, 0, 3600.0),
        (fresh("event_at", within=timedelta(minutes=59), name="less"), False, 0, 3600.0),
        (references("id", table="o", name="known_ids"), False, 2, 2.0),
        (references("odd `name", table="odd", name="odd_ids"), False, 2, 2.0),
        (share("`odd ``name` = '{x}' -- {", reference=0.5, tolerance=0.1, name="share_at_edge"), True, 0, 0.4),
        (share("`odd ``name` = '{x}'", reference=0.51, tolerance=0.1, name="share_off"), False, 0, 0.4),
        (
            share("id = 'lakeloop_batch' OR id = 'a'", reference=0.4, tolerance=0.0, name="share_of_a_word"),
            True,
            0,
            0.4,
        ),
        (share("isnan(value)", reference=0.4, tolerance=0.0, name="share_of_nan", level="fail"), True, 0, 0.4),
    ]
}


@pytest.mark.long
def test_each_rule_of_a_table_measures_what_it_says_and_all_places_agree(spark, tmp_path: Path):
    gx = pytest.importorskip("great_expectations")
    from pipelines.quality.data_docs import broken, open_context

    rows = spark.createDataFrame(ROWS, SCHEMA).persist()
    others = {
        "o": spark.createDataFrame(OTHERS, "id string"),
        "odd": spark.createDataFrame(OTHERS, "`odd ``name` string"),
    }
    rules = [rule for rule, *_ in RULES.values()]
    verdicts = judge_table(rows, rules=rules, now=NOW, others=others)
    assert [v.rule.name for v in verdicts] == list(RULES)
    found = {v.rule.name: (v.rule, v.is_kept, v.failed_rows, v.value) for v in verdicts}
    assert found == RULES
    assert {v.checked_rows for v in verdicts} == {5}
    assert not spark.sql("SHOW VIEWS LIKE '_lakeloop*'").collect(), "no view is left behind"

    # The alert asks at its own moment, so the rules of freshness are another thing there.
    for name, frame in {"the_rows": rows, **others}.items():
        frame.createOrReplaceTempView(name)
    timeless = [rule for rule in rules if rule.kind != "fresh"]
    queries = [
        f"SELECT '{r.name}' AS rule, * FROM ({table_alert_query('the_rows', rule=r, other=r.other or '')})"
        for r in timeless
    ]
    alerts = {row["rule"]: row for row in spark.sql("\nUNION ALL\n".join(queries)).collect()}
    assert {name: row["failed_rows"] > 0 for name, row in alerts.items()} == {
        r.name: not RULES[r.name][1] for r in timeless
    }

    context = open_context(tmp_path / "quality")
    asset = context.data_sources.add_spark(name="spark", persist=False).add_dataframe_asset(name="rows")
    asked = context.suites.add(suite("rows", table_rules=rules, others={"o": "o", "odd": "odd"}, now=NOW))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="rows", data=asset.add_batch_definition_whole_dataframe("w"), suite=asked)
    )
    checkpoint = context.checkpoints.add(gx.Checkpoint(name="rows", validation_definitions=[definition]))
    outcome = broken(checkpoint.run(batch_parameters={"dataframe": rows}))
    assert {name: count > 0 for name, count in outcome.items()} == {
        name: not kept for name, (_, kept, *_) in RULES.items()
    }
    rows.unpersist()
    for name in ("the_rows", *others):
        spark.catalog.dropTempView(name)


def test_an_empty_table_is_unique_and_refers_to_nothing_but_is_neither_fresh_nor_has_it_a_share(spark):
    rows = spark.createDataFrame([], SCHEMA)
    rules = [rule for rule, *_ in RULES.values()]
    others = {"o": rows.select("id"), "odd": rows.select("`odd ``name`")}
    kept = {v.rule.name for v in judge_table(rows, rules=rules, now=NOW, others=others) if v.is_kept}
    assert kept == {"id_alone", "id_and_part", "with_one_null", "nan_is_one_value", "four", "known_ids", "odd_ids"}


def test_a_rule_of_a_table_says_what_it_lacks(spark):
    rows = spark.createDataFrame(ROWS, SCHEMA)
    with pytest.raises(
        ConfigurationError, match=r"rule 'has_unique_key' \(nope is unique.*\) cannot be judged of silver.x"
    ):
        judge_table(rows, rules=[unique("nope")], now=NOW, table="silver.x")
    with pytest.raises(ConfigurationError, match=r"the rules of silver\.x refer to silver\.y: pass it in others"):
        judge_table(rows, rules=[references("id", table="silver.y")], now=NOW, table="silver.x")
    with pytest.raises(ConfigurationError, match="names no row that could be set aside: use warn or fail"):
        unique("id", level="quarantine")  # type: ignore[arg-type]
    reading = share("EXISTS (SELECT 1)", reference=1, tolerance=0, name="has_it")
    with pytest.raises(ConfigurationError, match=r"'has_it' of silver\.x reads another table by a subquery"):
        judge_table(rows, rules=[reading], now=NOW, table="silver.x")
    with pytest.raises(ConfigurationError, match="two rules named has_unique_key"):
        judge_table(rows, rules=[unique("id"), unique("part")], now=NOW)
