"""The split into valid and refused rows, and what a quarantine hears of it."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from expectations.quarantine import quarantine_changes
from expectations.rules.predicates import holds_sql, in_sql
from expectations.rules.rules import Rule, check_rules, judged_sides, split, with_failed_rules
from expectations.rules.texts import has_no_personal_data, has_text, is_in_language, is_representative, is_within_length
from expectations.tables.chunks import chunk_rules, is_known_to_the_model
from expectations.tables.documents import DOCUMENT_RULES
from expectations.targets.alerts import alert_query, alert_resource
from transformations.errors import ConfigurationError

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
QUARANTINE = "id string, hash string, failed_rules array<string>, attempts int, replayed_at timestamp"


def test_split_gives_each_row_to_one_side_and_names_every_broken_rule(spark):
    rules = (Rule("is_positive", "value > 0"), Rule("is_even", "value % 2 = 0"))
    rows = spark.createDataFrame([("a", 2), ("b", 3), ("c", -1), ("d", None)], "id string, value int")
    valid, refused = split(rows, rules=rules)
    assert_df_equality(valid, rows.where("id = 'a'"), ignore_nullable=True)
    broken = {row["id"]: row["failed_rules"] for row in refused.collect()}
    both = ["is_positive", "is_even"]
    assert broken == {"b": ["is_even"], "c": both, "d": both}, "null breaks a rule as false does"


def test_every_reason_of_a_refused_document_breaks_just_its_rule(spark):
    reasons = ["unreadable: x", "invalid_path: x", "duplicate_path: x", "too_large: x", "not_text", "wrong_encoding: x"]
    reasons += [
        "empty",
        "unparseable: x",
        "encrypted",
        "timed_out: x",
        "out_of_memory: x",
        "crashed: x",
        "something new",
    ]
    rows = spark.createDataFrame([(reason,) for reason in [*reasons, None]], "reason string")
    judged = {row["reason"]: row["failed_rules"] for row in with_failed_rules(rows, rules=DOCUMENT_RULES).collect()}
    assert judged.pop(None) == []
    assert [judged[reason] for reason in reasons] == [[rule.name] for rule in DOCUMENT_RULES]


def test_chunk_rules_refuse_blank_and_oversized_chunks(spark):
    rows = spark.createDataFrame(
        [("x", 5, 0.2), (" ", 1, None), ("y", 9, 0.0), ("z", 0, None), ("w" * 65, 1, 1.0)],
        "text string, token_count int, unknown_ratio double",
    ).withColumn("embed_text", F.col("text"))
    rules = (*chunk_rules(max_tokens=8, max_characters=64), is_known_to_the_model())
    judged = {row["text"]: row["failed_rules"] for row in with_failed_rules(rows, rules=rules).collect()}
    limit = ["is_within_token_limit"]
    unread = ["is_within_length", "is_known_to_the_model"]
    assert judged == {"x": [], " ": ["has_text"], "y": limit, "z": limit, "w" * 65: unread}
    assert is_known_to_the_model().level == "warn"


def test_a_quarantine_counts_attempts_closes_what_is_repaired_and_leaves_the_rest(spark):
    current = spark.createDataFrame(
        [
            ("same", "h1", ["r"], 1, None),
            ("again", "h1", ["r"], 1, None),
            ("mended", "h1", ["r"], 2, None),
            ("closed", "h1", ["r"], 1, NOW),
            ("relapsed", "h1", ["r"], 1, NOW),
        ],
        QUARANTINE,
    )
    refused = spark.createDataFrame(
        [("same", "h1", ["r"]), ("again", "h2", ["s"]), ("relapsed", "h1", ["r"]), ("first", "h1", ["r"])],
        "id string, hash string, failed_rules array<string>",
    )
    changes = quarantine_changes(current, refused, key="id", same=["hash"], now=NOW).collect()
    found = {r["id"]: (r["_op"], r["attempts"], r["replayed_at"] is not None, r["failed_rules"]) for r in changes}
    assert found == {
        "first": ("insert", 1, False, ["r"]),
        "again": ("update", 2, False, ["s"]),
        "relapsed": ("update", 2, False, ["r"]),
        "mended": ("update", 2, True, ["r"]),
    }


def test_each_level_does_what_it_says_and_a_refused_row_names_all_that_it_breaks(spark):
    rules = (
        Rule("is_small", "value < 10", "warn"),
        Rule("is_even", "value % 2 = 0"),
        Rule("is_set", "id > ''", "fail"),
    )
    rows = spark.createDataFrame([("a", 2), ("b", 12), ("c", 13), ("", 4), (None, None)], "id string, value int")
    valid, refused = split(rows, rules=rules)
    assert [row["id"] for row in valid.collect()] == ["a", "b"], "a warning refuses nothing"
    broken = {row["id"]: row["failed_rules"] for row in refused.collect()}
    assert broken == {"c": ["is_small", "is_even"], "": ["is_set"], None: ["is_small", "is_even", "is_set"]}
    judged = with_failed_rules(rows, rules=rules).persist()
    again = judged_sides(judged, rules=rules)
    assert [r["id"] for r in again[0].collect()] == ["a", "b"]
    assert {r["id"]: r["failed_rules"] for r in again[1].collect()} == broken
    judged.unpersist()
    assert split(rows, rules=())[0].count() == 5
    assert split(rows, rules=())[1].count() == 0


@pytest.mark.long
def test_five_thousand_rules_are_checked_together(spark, monkeypatch):
    asked: list[int] = []
    where = type(spark.range(1)).where
    rows = spark.range(3)
    monkeypatch.setattr(type(rows), "where", lambda frame, rule: asked.append(1) or where(frame, rule))
    check_rules(rows, rules=[Rule(f"r{n}", f"id <> {n}") for n in range(5000)], table="t")
    assert len(asked) == 1, "not one after another, which is what a chain too deep for the JVM's stack falls back to"


def test_a_column_says_the_same_as_its_sql_and_spark_writes_it(spark):
    rows = spark.createDataFrame([("it's", 1.0), ("b", float("nan")), (None, None)], "id string, value double")
    column = Rule("is_known", lambda: F.col("id").isin("it's", "x") & (F.col("value") > F.lit(0.5)), "warn")
    (written,) = in_sql([column], rows=rows)
    assert isinstance(written.predicate, str)
    assert (written.name, written.level) == ("is_known", "warn")
    for rule in (column, written):
        judged = with_failed_rules(rows, rules=[rule]).collect()
        assert [row["failed_rules"] for row in judged] == [[], ["is_known"], ["is_known"]]
    unwritable = Rule("has_big", lambda: F.exists(F.array("value"), lambda x: x > 1))
    with pytest.raises(ConfigurationError, match=r"rule 'has_big' is a Column that Spark cannot write as SQL"):
        in_sql([unwritable], rows=rows)
    with pytest.raises(ConfigurationError, match="'is_known' is a Column, and SQL is needed here"):
        holds_sql(column)


@pytest.mark.parametrize(
    ("predicate", "why"),
    [
        ("vlaue > 0", r"`vlaue` cannot be resolved"),
        ("value >", "Syntax error"),
        ("value > 0) OR (true", "Syntax error"),
        ("value + 1", "WHERE|boolean|BOOLEAN"),
        ("id", "WHERE|boolean|BOOLEAN"),
        ("count(*) > 1", "aggregate|WHERE"),
        ("row_number() OVER (ORDER BY value) = 1", "window|WHERE"),
        ("no_such_function(value)", "no_such_function"),
        ("rand() > 0.5", "not deterministic"),
        ("value > 0 AS is_it", "Syntax error"),
        ("value > 0 is_it", "Syntax error"),
        ("id IN (SELECT s.id FROM VALUES ('a') AS s(id))", "subquery|Syntax error"),
        ("EXISTS (SELECT 1)", "subquery"),
        ("(SELECT true)", "subquery"),
        ("id IN (VALUES ('a'))", "subquery|cannot be resolved|Syntax error|no_such|VALUES"),
        ("value > 0), (true", "Syntax error"),
    ],
)
def test_a_rule_that_cannot_be_judged_names_itself_its_table_and_the_columns_there(spark, predicate: str, why: str):
    rows = spark.createDataFrame([("a", 2)], "id string, value int")
    with pytest.raises(ConfigurationError, match=why) as raised:
        split(rows, rules=[Rule("is_good", "true"), Rule("is_bad", predicate)], table="silver.things")
    message = str(raised.value)
    assert message.startswith(("rule 'is_bad' cannot be judged of silver.things", "rule 'is_bad' of silver.things"))
    assert predicate in message
    assert "id, value" in message or "deterministic" in message or "subquery" in message


def test_words_of_subqueries_in_texts_and_functions_of_their_names_are_no_subqueries(spark):
    rows = spark.createDataFrame([("(select x)", [1, 2])], "id string, many array<int>")
    rules = [Rule("says_so", "id = '(select x)'"), Rule("has_a_two", "exists(many, x -> x = 2) -- (SELECT 1)")]
    valid, _ = split(rows, rules=rules)
    assert valid.count() == 1


@pytest.mark.parametrize("name", ["", "Has Text", "1st", "a;b", "x" * 129, "é", None])
def test_a_rule_is_refused_for_a_name_that_is_not_snake_case(name):
    with pytest.raises(ConfigurationError, match="cannot be the name of a rule"):
        Rule(name, "true")


def test_rules_are_refused_for_an_unknown_level_a_blank_predicate_and_a_name_used_twice(spark):
    with pytest.raises(ConfigurationError, match=r"'quarantin'\. Did you mean 'quarantine'"):
        Rule("is_good", "true", "quarantin")
    for blank in ("", "  \n", None, 5):
        with pytest.raises(ConfigurationError, match="rule 'is_good' has the predicate"):
            Rule("is_good", blank)
    rows = spark.createDataFrame([(1,)], "value int")
    with pytest.raises(ConfigurationError, match="two rules named is_good"):
        split(rows, rules=[Rule("is_good", "true"), Rule("is_good", "value > 0")])


def test_text_rules_tell_length_language_duplicates_and_personal_data(spark):
    rows = spark.createDataFrame(
        [
            ("fine", "Some text.", "en", True, []),
            ("blank", "\u2003\n\u00a0", "en", True, []),
            ("long", "é" * 11, "de", True, []),
            ("foreign", "Un texte.", "fr", True, []),
            ("unknown", "???", None, True, []),
            ("copy", "Some text.", "en", False, []),
            ("private", "a@b.example", "en", True, [(0, 11)]),
            ("unread", None, "en", None, None),
        ],
        "id string, text string, language string, is_representative boolean, pii_spans array<struct<s: int, e: int>>",
    )
    rules = (has_text(), is_within_length(at_most=11, at_least=2), is_in_language("en", "de"), is_representative())
    judged = with_failed_rules(rows, rules=[*rules, has_no_personal_data()]).collect()
    every = ["has_text", "is_within_length", "is_representative", "has_no_personal_data"]
    assert {row["id"]: row["failed_rules"] for row in judged} == {
        "fine": [],
        "blank": ["has_text"],
        "long": [],
        "foreign": ["is_in_language"],
        "unknown": ["is_in_language"],
        "copy": ["is_representative"],
        "private": ["has_no_personal_data"],
        "unread": every,
    }
    with pytest.raises(ConfigurationError, match="is_in_language takes codes such as 'en', 'de'"):
        is_in_language("x'y")


def test_an_alert_is_a_resource_with_the_fields_of_alerts_v2():
    alerts = pytest.importorskip("databricks.bundles.alerts")
    query = alert_query("delta.`/t`", rules=[Rule("is_even", "value % 2 = 0")])
    alert = alert_resource("broken things", query)
    assert set(alert) == {"display_name", "query_text", "warehouse_id", "evaluation", "schedule"}
    assert alerts.Alert.from_dict(alert).as_dict() == alert
    assert alert["evaluation"]["source"] == {"name": "failed_rows", "aggregation": "MAX"}
    assert "AS failed_rows_is_even" in alert["query_text"]
