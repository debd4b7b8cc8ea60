"""One definition of a rule, four places: the split, declared expectations, a Great Expectations suite, an alert."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from expectations.rules.predicates import in_sql
from expectations.rules.rules import Rule, split, with_failed_rules
from expectations.rules.texts import has_text, is_within_length
from expectations.rules.vectors import vector_rules
from expectations.targets.alerts import alert_query
from expectations.targets.declared import by_decorator, kept, refused
from expectations.targets.suites import suite

LONG = "é" * 1_000_000
TEXTS = [
    "plain",
    "",
    " ",
    "\u00a0\u2003",
    'it\'s {braces} -- "quoted" \\ %s ${x} {{y}}',
    "new\nline",
    "nul\x00l",
    LONG,
    None,
]
NUMBERS = [0.5, -1.0, 0.0, -0.0, math.nan, math.inf, -math.inf, 1e308, None]
VECTORS = [[0.6, 0.8], [0.0, 0.0], [math.nan, 1.0], [3.0, 4.0], [1.0], [], [None, 1.0], [math.inf, 0.0], None]
RULES = (
    has_text(),
    is_within_length(at_most=1000, level="warn"),
    Rule("has_no_braces", "text NOT LIKE '%{braces}%' -- a comment; and {another} brace"),
    Rule("is_positive", "number > 0", "warn"),
    Rule("is_not_huge", lambda: (F.col("number") < 1e300) | F.isnan("number")),
    Rule("is_even_or_odd", "id % 2 = 0 OR id % 2 = 1", "fail"),
    Rule("is_never_judged", "CAST(NULL AS BOOLEAN)", "warn"),
    *vector_rules(dimension=2),
)


@pytest.fixture(scope="module")
def rows(spark, tmp_path_factory):
    """Nulls, NaN, infinities, odd strings and vectors of every wrong kind; a file, so that each place reads it anew."""
    data = [(n, t, x, v) for n, (t, x, v) in enumerate(zip(TEXTS, NUMBERS, VECTORS, strict=True))]
    data += [(len(data) + n, TEXTS[n % 3], NUMBERS[(n * 2) % 9], VECTORS[(n * 4) % 9]) for n in range(12)]
    folder = str(tmp_path_factory.mktemp("rows") / "rows")
    frame = spark.createDataFrame(data, "id int, text string, number double, vector array<float>")
    frame.write.parquet(folder)
    return spark.read.parquet(folder)


@pytest.fixture(scope="module")
def expected(rows) -> dict[str, set[int]]:
    """What the split says: rule → ids of the rows that break it."""
    judged = {row["id"]: row["failed_rules"] for row in with_failed_rules(rows, rules=RULES).collect()}
    return {rule.name: {i for i, names in judged.items() if rule.name in names} for rule in RULES}


@pytest.fixture(scope="module")
def rules(rows) -> tuple[Rule, ...]:
    return in_sql(RULES, rows=rows)


def test_the_split_judges_every_row_as_its_predicates_mean(rows, expected):
    valid, out = split(rows, rules=RULES)
    kept_ids, refused_rows = {r["id"] for r in valid.select("id").collect()}, out.select("id", "failed_rules").collect()
    refused_ids = {row["id"] for row in refused_rows}
    assert kept_ids & refused_ids == set()
    assert kept_ids | refused_ids == set(range(21))
    refusing = {rule.name for rule in RULES if rule.level != "warn"}
    assert refused_ids == set().union(*(expected[name] for name in refusing))
    assert {r["id"]: set(r["failed_rules"]) for r in refused_rows} == {
        i: {name for name, ids in expected.items() if i in ids} for i in refused_ids
    }, "also the rules of level warn that a refused row breaks"
    # An oracle in Python for those whose meaning is plain.
    data = {row["id"]: row for row in rows.withColumn("text", F.substring("text", 1, 2000)).collect()}
    assert expected["has_text"] == {i for i, r in data.items() if r["text"] is None or not r["text"].strip()}
    assert expected["is_positive"] == {
        i for i, r in data.items() if r["number"] is None or not (r["number"] > 0 or math.isnan(r["number"]))
    }, "NaN is greater than every number in Spark"
    assert expected["has_vector"] == {i for i, r in data.items() if r["vector"] is None}
    assert expected["is_not_zero"] == {i for i, r in data.items() if not any(x for x in r["vector"] or ())}
    assert expected["is_unit_vector"] == {
        i
        for i, r in data.items()
        if r["vector"] is None or None in r["vector"] or not abs(math.hypot(*r["vector"]) - 1) < 1e-3
    }
    assert expected["is_never_judged"] == set(range(21)), "null breaks a rule"
    assert expected["is_even_or_odd"] == set()


def test_declared_expectations_decide_each_row_alike(rows, expected, rules):
    """The SQL that Databricks' decorators get is never null, so there is one way to read it; Spark judges it here."""
    declared = by_decorator(rules)
    assert {name: set(of) for name, of in declared.items()} == {
        "expect_all": {r.name for r in RULES if r.level == "warn"},
        "expect_all_or_drop": {r.name for r in RULES if r.level == "quarantine"},
        "expect_all_or_fail": {"is_even_or_odd"},
    }
    predicates = {rule: sql for of in declared.values() for rule, sql in of.items()}
    judged = rows.select("id", *[F.expr(sql).alias(rule) for rule, sql in predicates.items()]).collect()
    assert all(row[rule] is not None for row in judged for rule in predicates)
    assert {rule: {row["id"] for row in judged if not row[rule]} for rule in predicates} == expected

    class OpenSource:
        """`pyspark.pipelines` without expectations."""

    dropped = set().union(*(expected[rule] for rule in declared["expect_all_or_drop"]))
    assert {r["id"] for r in kept(OpenSource, rows, rules=rules, table="t").collect()} == set(range(21)) - dropped
    assert {r["id"] for r in refused(rows, rules=rules).select("id").collect()} == dropped


def test_a_great_expectations_suite_finds_the_same_rows(rows, expected, rules, tmp_path: Path):
    gx = pytest.importorskip("great_expectations")
    from pipelines.quality.data_docs import open_context

    context = open_context(tmp_path / "quality")
    asset = context.data_sources.add_spark(name="spark", persist=False).add_dataframe_asset(name="rows")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name="rows",
            data=asset.add_batch_definition_whole_dataframe("whole"),
            suite=context.suites.add(suite("rows", rules=rules, key=["id"])),
        )
    )
    outcome = definition.run(batch_parameters={"dataframe": rows.persist()}, result_format="COMPLETE")
    rows.unpersist()
    found = {}
    for each in outcome.results:
        shown = each.result["details"]["unexpected_rows"]
        found[each.expectation_config.meta["rule"]] = {row["id"] for row in shown}
        assert each.result["observed_value"] == len(shown)
        assert each.success == (not shown)
    assert found == expected


def test_the_alerts_sql_counts_the_same_rows(rows, expected, rules, spark):
    rows.createOrReplaceTempView("alerted")
    try:
        each = [
            f"SELECT {i} AS id, * FROM ({alert_query('alerted', rules=rules, where=f'id = {i}')})" for i in range(21)
        ]
        together = spark.sql(alert_query("alerted", rules=rules)).first().asDict()
        found = {row["id"]: row.asDict() for row in spark.sql("\nUNION ALL\n".join(each)).collect()}
    finally:
        spark.catalog.dropTempView("alerted")
    assert all(row["checked_rows"] == 1 for row in found.values())
    for rule in RULES:
        assert {i for i, row in found.items() if row[f"failed_rows_{rule.name}"]} == expected[rule.name]
        assert together[f"failed_rows_{rule.name}"] == len(expected[rule.name])
    assert {i for i, row in found.items() if row["failed_rows"]} == set().union(*expected.values())
    assert (together["failed_rows"], together["checked_rows"]) == (21, 21)
