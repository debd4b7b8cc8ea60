"""The split into valid and refused rows, and what a quarantine hears of it."""

from __future__ import annotations

from datetime import datetime, timezone

from chispa import assert_df_equality

from expectations.chunks import chunk_rules
from expectations.documents import DOCUMENT_RULES
from expectations.quarantine import quarantine_changes
from expectations.rules import Rule, split, with_failed_rules

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
    reasons += ["empty", "unparseable: x", "something new"]
    rows = spark.createDataFrame([(reason,) for reason in [*reasons, None]], "reason string")
    judged = {row["reason"]: row["failed_rules"] for row in with_failed_rules(rows, rules=DOCUMENT_RULES).collect()}
    assert judged.pop(None) == []
    assert [judged[reason] for reason in reasons] == [[rule.name] for rule in DOCUMENT_RULES]


def test_chunk_rules_refuse_blank_and_oversized_chunks(spark):
    rows = spark.createDataFrame([("x", 5), (" ", 1), ("y", 9), ("z", 0)], "text string, token_count int")
    judged = {
        row["text"]: row["failed_rules"] for row in with_failed_rules(rows, rules=chunk_rules(max_tokens=8)).collect()
    }
    limit = ["is_within_token_limit"]
    assert judged == {"x": [], " ": ["has_text"], "y": limit, "z": limit}


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
    changes = quarantine_changes(current, refused, key="id", same="hash", now=NOW).collect()
    found = {r["id"]: (r["_op"], r["attempts"], r["replayed_at"] is not None, r["failed_rules"]) for r in changes}
    assert found == {
        "first": ("insert", 1, False, ["r"]),
        "again": ("update", 2, False, ["s"]),
        "relapsed": ("update", 2, False, ["r"]),
        "mended": ("update", 2, True, ["r"]),
    }
