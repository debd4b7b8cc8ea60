"""Rules in, a frame in; the same rows with the names of the rules that each one breaks out.

A rule is a SQL predicate that must be TRUE of a row: false and null both break it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Level = Literal["warn", "quarantine", "fail"]


@dataclass(frozen=True)
class Rule:
    """What must be true of a row.

    Attributes:
        name: snake_case, said in quarantine tables and alerts.
        predicate: Spark SQL over the row's columns.
        level: `warn` reports, `quarantine` sets the row aside, `fail` stops the stage before it writes.
    """

    name: str
    predicate: str
    level: Level = "quarantine"


def with_failed_rules(rows: DataFrame, *, rules: Sequence[Rule], level: Level = "quarantine") -> DataFrame:
    """Add `failed_rules` ARRAY<STRING>: the names of the rules of `level` that the row breaks, in their order."""
    from pyspark.sql import functions as F

    checks = [
        F.when(~F.coalesce(F.expr(rule.predicate), F.lit(False)), F.lit(rule.name))
        for rule in rules
        if rule.level == level
    ]
    failed = F.array_compact(F.array(*checks)) if checks else F.array().cast("array<string>")
    return rows.withColumn("failed_rules", failed)


def split(rows: DataFrame, *, rules: Sequence[Rule]) -> tuple[DataFrame, DataFrame]:
    """Rows that keep every rule of level `quarantine`, and the others with `failed_rules`; together all of them."""
    judged = with_failed_rules(rows, rules=rules)
    return judged.where("size(failed_rules) = 0").drop("failed_rules"), judged.where("size(failed_rules) > 0")
