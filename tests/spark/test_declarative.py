"""Rules as declared datasets judge by them: what Databricks is told, and what open-source Spark does itself.

tests/end_to_end/test_declared_pipelines.py runs the datasets.
"""

from __future__ import annotations

from typing import Any

import pytest

from expectations.rules.rules import Rule
from expectations.tables.documents import DOCUMENT_RULES
from expectations.targets.declared import by_decorator, expected, has_expectations, kept, refused
from tests.support.connect import ROOT

RULES = (Rule("is_small", "value < 10", "warn"), Rule("is_even", "value % 2 = 0"), Rule("is_set", "id > ''", "fail"))


class WithExpectations:
    """What Databricks adds to `pyspark.pipelines`, as far as its documentation says; it notes what it is told."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, str]] = {}

    def _note(self, name: str, predicates: dict[str, str]) -> Any:
        self.told[name] = predicates
        return lambda definition: definition

    def expect_all(self, predicates: dict[str, str]) -> Any:
        return self._note("expect_all", predicates)

    def expect_all_or_drop(self, predicates: dict[str, str]) -> Any:
        return self._note("expect_all_or_drop", predicates)

    def expect_all_or_fail(self, predicates: dict[str, str]) -> Any:
        return self._note("expect_all_or_fail", predicates)


def test_a_platform_with_expectations_is_told_of_each_rule_and_judges_itself(spark):
    platform = WithExpectations()
    rows = spark.createDataFrame([("a", 2), ("b", 13)], "id string, value int")
    definition = expected(platform, rules=RULES)(lambda: kept(platform, rows, rules=RULES, table="t"))
    assert platform.told == by_decorator(RULES)
    assert platform.told["expect_all_or_drop"] == {"is_even": "coalesce((\nvalue % 2 = 0\n), false)"}
    assert definition().count() == 2, "it drops the rows itself"


def test_open_source_spark_has_no_expectations_so_the_split_decides_and_fail_stops(spark):
    from pyspark import pipelines as dp
    from pyspark.errors import PySparkException

    assert not has_expectations(dp)
    rows = spark.createDataFrame([("a", 2), ("b", 13), ("c", 12)], "id string, value int")

    def definition() -> Any:
        return kept(dp, rows, rules=RULES, table="t")

    assert expected(dp, rules=RULES)(definition) is definition
    assert [row["id"] for row in definition().collect()] == ["a", "c"]
    assert [(row["id"], row["failed_rules"]) for row in refused(rows, rules=RULES).collect()] == [
        ("b", ["is_small", "is_even"])
    ]
    broken = rows.union(spark.createDataFrame([("", 2)], rows.schema))
    with pytest.raises(PySparkException, match=r"rule 'is_set' \(fail\) is broken in t: repair its source"):
        kept(dp, broken, rules=RULES, table="t").collect()


def test_the_folder_of_definitions_holds_nothing_else():
    files = [p for p in (ROOT / "pipelines/declarative").rglob("*") if "__pycache__" not in p.parts and p.is_file()]
    assert {p.suffix for p in files} == {".py"}
    assert "__init__" not in {p.stem for p in files}
    assert len({p.stem for p in files}) == len(files)


def test_the_rules_of_documents_are_sql_so_every_platform_can_be_told():
    assert sum(len(of) for of in by_decorator(DOCUMENT_RULES).values()) == len(DOCUMENT_RULES)
