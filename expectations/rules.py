"""Rules in, a frame in; the same rows with the names of the rules that each one breaks out.

A rule is a SQL predicate that must be TRUE of a row: false and null both break it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Rule:
    """What must be true of a row.

    Attributes:
        name: snake_case, said in quarantine tables and alerts.
        predicate: Spark SQL over the row's columns.
    """

    name: str
    predicate: str


def with_failed_rules(rows: DataFrame, *, rules: Sequence[Rule]) -> DataFrame:
    """Add `failed_rules` ARRAY<STRING>: the names of the rules that the row breaks, in their order."""
    from pyspark.sql import functions as F

    checks = [F.when(~F.coalesce(F.expr(rule.predicate), F.lit(False)), F.lit(rule.name)) for rule in rules]
    failed = F.array_compact(F.array(*checks)) if checks else F.array().cast("array<string>")
    return rows.withColumn("failed_rules", failed)


def split(rows: DataFrame, *, rules: Sequence[Rule]) -> tuple[DataFrame, DataFrame]:
    """Rows that keep every rule, and the others with `failed_rules`; together all of them."""
    judged = with_failed_rules(rows, rules=rules)
    return judged.where("size(failed_rules) = 0").drop("failed_rules"), judged.where("size(failed_rules) > 0")
