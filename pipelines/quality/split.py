"""Judges the rows that a stage is about to write: the valid ones go to its table, the refused ones to the quarantine.

A stage declares a `Split`, which says where its rows go, and uses it like this:

    judged = SPLIT.judge(context, rows, rules=RULES, versions=versions)
    SPLIT.set_aside(context, judged.refused, count=judged.refused_rows, scope=keys, versions=versions)
    desired = judged.valid …

`judge` counts everything in one action, and judged frames stay held until the stage ends: the caller neither
persists its rows nor counts the refused ones. Rows in memory are judged in memory if every rule has an `of_row`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from expectations.quarantine import quarantine_changes
from expectations.rules.rules import Rule, broken_by, is_refused, judged_sides, refuses, with_failed_rules
from pipelines.flow.changed_rows import apply_changes, touched
from pipelines.flow.rows import Rows, as_frame, selected, with_values
from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse.held_frames import rows_of
from pipelines.lakehouse.selection import Newest
from pipelines.quality.rule_results import record, row_results
from transformations.errors import ConfigurationError, ExpectationFailedError
from transformations.tables import few_rows

if TYPE_CHECKING:
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame

_SHOWN_KEYS = 5


@dataclass(frozen=True)
class Judged:
    """The two sides of a split, and the counts; `broken` is rule → rows that break it."""

    valid: Rows
    refused: Rows
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
        quarantine: the table of the refused rows; "" if no rule can refuse a row without stopping the stage.
        key: the column whose values name a few broken rows in an error.
        same: columns of the quarantine; if a row is equal in them, it is the same refusal as before.
        scope: the column of the quarantine by which the rows that were judged now are found.
        is_repeatable: the rows are a function of tables alone, and may be computed again (`HeldFrames.hold`).
    """

    stage: str
    source: str
    target: str
    quarantine: str
    key: str
    same: tuple[str, ...]
    scope: str
    is_repeatable: bool = False

    def judge(self, context: Context, rows: Rows, *, rules: Sequence[Rule], versions: Versions) -> Judged:
        """Judge the rows that the stage is about to write into its table.

        The counts are recorded first, one row for each rule. The same counts of the same versions are recorded once. If
        no row was judged, nothing is recorded.

        Raises:
            ExpectationFailedError: a row breaks a rule of level fail. Only the counts were written.
            ConfigurationError: a rule cannot be judged for these rows, as in `expectations.rules.rules.check_rules`, or
                its predicate raises for one of them instead of being null.
        """
        sides: _Sides | _FewSides
        if isinstance(rows, pa.Table) and all(rule.of_row is not None for rule in rules):
            sides = _FewSides(rows, rules, [broken_by(row, rules) for row in rows.to_pylist()])
        else:
            sides = self._judged_by_spark(context, rows, rules)
        if sides.checked_rows:
            found = row_results(self.target, rules, sides.checked_rows, sides.broken)
            record(context, found, versions=versions, source=self.source, stage=self.stage)
        for rule in rules:
            if rule.level == "fail" and sides.broken[rule.name]:
                shown = ", ".join(map(repr, sides.keys_that_break(rule.name, self.key)))
                raise ExpectationFailedError(
                    f"{self.stage}: rule {rule.name!r} (level fail) is broken by {sides.broken[rule.name]} of "
                    f"{sides.checked_rows} rows for {self.target}, {self.key} {shown}. Nothing was written to "
                    f"{self.target}. Repair the rows in {self.source or 'the source'} and run again; the counts are in "
                    "monitoring.rule_results (lakeloop quality)."
                )
        return sides.judged()

    def _judged_by_spark(self, context: Context, rows: Rows, rules: Sequence[Rule]) -> _Sides | _FewSides:
        from pyspark.errors import PySparkException

        frame = as_frame(context, rows)
        judged = with_failed_rules(frame, rules=rules, table=self.target)
        try:
            if isinstance(rows, pa.Table):
                failed = rows_of(judged.select("failed_rules"))["failed_rules"]
                return _FewSides(rows, rules, failed.to_pylist())
            held = context.frames.hold(judged, is_repeatable=self.is_repeatable)
            return _Sides.of(held, rules)
        except PySparkException as error:
            raise _unjudgeable(error, frame, rules=rules, table=self.target) from None

    def set_aside(self, context: Context, refused: Rows, *, count: int, scope: Rows, versions: Versions) -> None:
        """Bring the quarantine up to date. Call it before the table is written, so that a row is always in one of them.

        Args:
            refused: the refused rows, with the quarantine's columns and `failed_rules`; held, as `judge` gives
                them.
            count: how many refused rows there are.
            scope: the values of the column `scope` that were judged: an open row with one of them that is not refused
                now is closed.
        """
        lake, table = context.lake, self.quarantine
        lake.create(table)
        (key,) = lake.spec(table).key
        is_open, any_row = {"replayed_at": None}, Newest("replayed_at", most=1)
        if count == 0 and not lake.read_arrow(table, columns=["replayed_at"], where=is_open, which=any_row).num_rows:
            return
        columns = [c for c in lake.spec(table).columns if c not in ("attempts", "replayed_at")]
        refused = selected(with_values(refused, _run_id=context.run_id), columns)
        current = touched(context, table, scope, versions=versions, key=self.scope)
        if isinstance(current, pa.Table) and isinstance(refused, pa.Table):
            changes = few_rows.quarantine_changes(current, refused, key=key, same=self.same, now=context.now())
        else:
            current, refused = as_frame(context, current), as_frame(context, refused)
            changes = quarantine_changes(current, refused, key=key, same=self.same, now=context.now())
        apply_changes(context, table, changes)


@dataclass(frozen=True)
class _Sides:
    """Judged rows on Spark; the action in `of` counts everything."""

    rows: DataFrame
    rules: Sequence[Rule]
    checked_rows: int
    refused_rows: int
    broken: Mapping[str, int]

    @classmethod
    def of(cls, judged: DataFrame, rules: Sequence[Rule]) -> _Sides:
        from pyspark.sql import functions as F

        # One list of words for each row, not a column for each rule: a table of 5,000 columns has as many rules.
        words = F.concat(
            F.array(F.lit("*")), F.when(is_refused(rules), F.array(F.lit("!"))).otherwise(F.array()), "failed_rules"
        )
        counts = rows_of(judged.select(F.explode(words)).groupBy("col").count()).to_pylist()
        counted = {row["col"]: row["count"] for row in counts}
        broken = {rule.name: counted.get(rule.name, 0) for rule in rules}
        return cls(judged, rules, counted.get("*", 0), counted.get("!", 0), broken)

    def keys_that_break(self, name: str, key: str) -> list[str]:
        from pyspark.sql import functions as F

        which = self.rows.where(F.array_contains("failed_rules", name)).select(key).limit(_SHOWN_KEYS)
        return [row[key] for row in which.collect()]

    def judged(self) -> Judged:
        valid, refused = judged_sides(self.rows, rules=self.rules)
        return Judged(valid, refused, self.checked_rows, self.refused_rows, self.broken)


@dataclass(frozen=True)
class _FewSides:
    """Judged rows in memory; `failed` has the names of the rules that each row breaks."""

    rows: pa.Table
    rules: Sequence[Rule]
    failed: Sequence[Sequence[str]]

    @property
    def checked_rows(self) -> int:
        return len(self.failed)

    @property
    def broken(self) -> Mapping[str, int]:
        counted = Counter(name for names in self.failed for name in names)
        return {rule.name: counted[rule.name] for rule in self.rules}

    def keys_that_break(self, name: str, key: str) -> list[str]:
        keys = self.rows[key].to_pylist()
        return [of for of, names in zip(keys, self.failed, strict=True) if name in names][:_SHOWN_KEYS]

    def judged(self) -> Judged:
        refusing = {rule.name for rule in self.rules if refuses(rule)}
        is_refused = pa.array([not refusing.isdisjoint(names) for names in self.failed], pa.bool_())
        judged = self.rows.append_column("failed_rules", pa.array(self.failed, pa.list_(pa.string())))
        refused, valid = judged.filter(is_refused), self.rows.filter(pc.invert(is_refused))
        return Judged(valid, refused, self.checked_rows, refused.num_rows, self.broken)


def _unjudgeable(error: PySparkException, rows: DataFrame, *, rules: Sequence[Rule], table: str) -> Exception:
    """An error that names the rule whose predicate raises; `error` itself if no single rule is the cause."""
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
