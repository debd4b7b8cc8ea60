"""Rules in, the expectations of a declared dataset (`dp.expect_all*`) out.

Databricks' `pyspark.pipelines` judges declared expectations itself; open-source Spark 4.2 has no expectations. So a
declared dataset goes through `kept`, which is our own split if the platform has no expectations, and through
`expected`, which applies the platform's decorators if it has them. Nothing here asks Spark to resolve a name, which is
not allowed in the definition of a dataset: call `expectations.rules.rules.check_rules` beside the definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from expectations.rules.predicates import holds_sql
from expectations.rules.rules import Rule, all_hold, failed_rules

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_DECORATORS = {"warn": "expect_all", "quarantine": "expect_all_or_drop", "fail": "expect_all_or_fail"}
Definition = TypeVar("Definition", bound=Callable[..., Any])


def by_decorator(rules: Sequence[Rule]) -> dict[str, dict[str, str]]:
    """The decorator's name → rule → SQL that is never null, for each decorator that a rule needs.

    warn is `expect_all` (kept and counted), quarantine `expect_all_or_drop`, fail `expect_all_or_fail`.
    """
    found: dict[str, dict[str, str]] = {}
    for rule in rules:
        found.setdefault(_DECORATORS[rule.level], {})[rule.name] = holds_sql(rule)
    return found


def has_expectations(dp: Any) -> bool:
    """Whether this platform's `pyspark.pipelines` judges expectations: Databricks' does, open-source Spark's not."""
    return all(hasattr(dp, name) for name in _DECORATORS.values())


def expected(dp: Any, *, rules: Sequence[Rule]) -> Callable[[Definition], Definition]:
    """A decorator to put below `@dp.table`: the platform's own expectations, or nothing if it has none."""

    def decorate(definition: Definition) -> Definition:
        if has_expectations(dp):
            for name, predicates in by_decorator(rules).items():
                definition = getattr(dp, name)(predicates)(definition)
        return definition

    return decorate


def kept(dp: Any, rows: DataFrame, *, rules: Sequence[Rule], table: str) -> DataFrame:
    """The rows for the declared `table`; a stream stays a stream.

    If the platform has expectations, these are all rows: its decorators drop rows and count them. If not, they are the
    `valid` side of our split.
    """
    return rows if has_expectations(dp) else valid(rows, rules=rules, table=table)


def valid(rows: DataFrame, *, rules: Sequence[Rule], table: str) -> DataFrame:
    """The rows that no rule refuses; a row that breaks a rule of level fail stops the update."""
    from pyspark.sql import functions as F

    keeps = all_hold([rule for rule in rules if rule.level == "quarantine"])
    for rule in rules:
        if rule.level == "fail":
            stop = F.raise_error(F.lit(f"rule {rule.name!r} (fail) is broken in {table}: repair its source"))
            keeps = F.when(~rule.holds, stop.cast("boolean")).otherwise(keeps)
    return rows.where(keeps)


def refused(rows: DataFrame, *, rules: Sequence[Rule]) -> DataFrame:
    """The rows that a platform's `expect_all_or_drop` drops, with `failed_rules`: the platform does not store them."""
    keeps = all_hold([rule for rule in rules if rule.level == "quarantine"])
    # Not by withColumn: for that, a Connect server resolves `rows` at once, by a table that an earlier run made, and no
    # longer knows that this dataset waits for another one.
    return rows.where(~keeps).select("*", failed_rules(rules).alias("failed_rules"))
