"""Rows that a stage is about to write, judged once: the valid ones for its table, the refused ones for the quarantine.

A stage declares where its rows go, and uses it so:

    judged = SPLIT.judge(context, rows, rules=RULES, versions=versions)
    SPLIT.set_aside(context, judged.refused, count=judged.refused_rows, scope=keys, versions=versions)
    desired = judged.valid …

The one action in `judge` counts everything, and the judged rows stay persisted until the stage ends: the caller neither
persists its rows nor counts the refused ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from expectations.quarantine import quarantine_changes
from expectations.rules.rules import Rule, is_refused, judged_sides, with_failed_rules
from pipelines.flow.changed_rows import apply_changes, touched
from pipelines.flow.stage import Context, Versions
from pipelines.quality.rule_results import record, row_results
from transformations.errors import ConfigurationError, ExpectationFailedError

if TYPE_CHECKING:
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame

_SHOWN_KEYS = 5


@dataclass(frozen=True)
class Judged:
    """The two sides of a split, and what was counted; `broken` is rule → rows that break it."""

    valid: DataFrame
    refused: DataFrame
    checked_rows: int
    refused_rows: int
    broken: Mapping[str, int]


@dataclass(frozen=True)
class Split:
    """Where the rows of a stage go.

    Attributes:
        stage: the command of the stage.
        source: the table that it reads.
        target: the table of the valid rows.
        quarantine: the table of the refused ones; "" where all are kept or the stage stops.
        key: the column whose values name a few broken rows in an error.
        same: columns of the quarantine that tell whether it is the very row refused before.
        scope: the column of the quarantine by which the rows that were judged now are found.
    """

    stage: str
    source: str
    target: str
    quarantine: str
    key: str
    same: tuple[str, ...]
    scope: str

    def judge(self, context: Context, rows: DataFrame, *, rules: Sequence[Rule], versions: Versions) -> Judged:
        """Judge the rows that the stage is about to write into its table.

        The counts are recorded first, one row a rule; the same counts of the same versions are recorded once, and
        nothing is where no row was judged.

        Raises:
            ExpectationFailedError: a row breaks a rule of level fail. Nothing but the counts was written.
            ConfigurationError: a rule cannot be judged of these rows, as in `expectations.rules.rules.check_rules`, or
                of one of them: its predicate raises where another would be null.
        """
        from pyspark.errors import PySparkException
        from pyspark.sql import functions as F

        judged = with_failed_rules(rows, rules=rules, table=self.target).persist()
        context.persisted.append(judged)
        try:
            checked_rows, refused_rows, broken = _counted(judged, rules)
        except PySparkException as error:
            raise _unjudgeable(error, rows, rules=rules, table=self.target) from None
        if checked_rows:
            found = row_results(self.target, rules, checked_rows, broken)
            record(context, found, versions=versions, source=self.source, stage=self.stage)
        for rule in rules:
            if rule.level == "fail" and broken[rule.name]:
                which = judged.where(F.array_contains("failed_rules", rule.name)).select(self.key).limit(_SHOWN_KEYS)
                shown = ", ".join(repr(row[self.key]) for row in which.collect())
                raise ExpectationFailedError(
                    f"{self.stage}: rule {rule.name!r} (level fail) is broken by {broken[rule.name]} of {checked_rows} "
                    f"rows for {self.target}, {self.key} {shown}. Nothing was written to {self.target}. Repair the "
                    f"rows in {self.source or 'the source'} and run again; the counts are in monitoring.rule_results "
                    "(lakeloop quality)."
                )
        valid, refused = judged_sides(judged, rules=rules)
        return Judged(valid, refused, checked_rows, refused_rows, broken)

    def set_aside(
        self, context: Context, refused: DataFrame, *, count: int, scope: DataFrame, versions: Versions
    ) -> None:
        """Bring the quarantine up to date before the rows' own table is, so that a row is never in neither.

        Args:
            refused: rows with the quarantine's columns, `failed_rules` among them; persisted by the caller.
            count: how many there are.
            scope: the values of the column `scope` that were judged: an open row of theirs that is not refused now is
                closed.
        """
        from pyspark.sql import functions as F

        lake, table = context.lake, self.quarantine
        lake.ensure(table)
        (key,) = lake.spec(table).key
        is_open = pc.is_null(lake.read_arrow(table, columns=["replayed_at"])["replayed_at"])
        if count == 0 and not pc.any(is_open).as_py():
            return
        refused = refused.withColumn("_run_id", F.lit(context.run_id))
        columns = [c for c in lake.spec(table).columns if c not in ("attempts", "replayed_at")]
        current = touched(context, table, scope, versions=versions, key=self.scope)
        changes = quarantine_changes(current, refused.select(*columns), key=key, same=self.same, now=context.now())
        apply_changes(context, table, changes)


def _counted(judged: DataFrame, rules: Sequence[Rule]) -> tuple[int, int, dict[str, int]]:
    """All rows, refused rows, and rule → rows that break it, in one action."""
    from pyspark.sql import functions as F

    # One list of words a row, and no column a rule: a table of 5,000 columns has as many rules.
    words = F.concat(
        F.array(F.lit("*")), F.when(is_refused(rules), F.array(F.lit("!"))).otherwise(F.array()), "failed_rules"
    )
    counted = {row[0]: row[1] for row in judged.select(F.explode(words)).groupBy("col").count().collect()}
    return counted.get("*", 0), counted.get("!", 0), {rule.name: counted.get(rule.name, 0) for rule in rules}


def _unjudgeable(error: PySparkException, rows: DataFrame, *, rules: Sequence[Rule], table: str) -> Exception:
    """An error that names the rule whose predicate raises; `error` itself where it is not for a rule's sake."""
    if not (error.getSqlState() or "").startswith("22"):  # a data exception: a cast, a division, an overflow
        return error
    raising = [rule for rule in rules if _raises(rows, rule)]
    if len(raising) in (0, len(rules)) and len(rules) > 1:
        return error
    message = " ".join((error.getMessage() or str(error)).split("SQLSTATE")[0].split())
    return ConfigurationError(
        f"rule {raising[0].name!r} cannot be judged of every row for {table}: {message} Nothing was written. A "
        "predicate must not raise: write try_cast, try_divide and the like, whose null breaks the rule."
    )


def _raises(rows: DataFrame, rule: Rule) -> bool:
    from pyspark.errors import PySparkException

    try:
        rows.where(rule.column).count()
    except PySparkException:
        return True
    return False
