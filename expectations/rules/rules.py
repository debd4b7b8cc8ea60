"""Rules and a frame in, the rows with the names of the rules that each breaks, or valid and refused rows, out.

A rule is a predicate that must be TRUE of a row: false and null both break it. It is written once and used in four
places: the split here, the declared expectations of a pipeline (declared.py), a Great Expectations suite (suites.py)
and the SQL of an alert (alerts.py). Rules of a whole table are in table_rules.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

Row: TypeAlias = Mapping[str, Any]
Level = Literal["warn", "quarantine", "fail"]
"""What happens if a row breaks the rule: it is kept and counted; it is set aside; or the stage stops."""
# A contract names a rule after a column, whose name has up to 100 letters.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,127}")


@dataclass(frozen=True)
class Rule:
    """What must be true of a row.

    Attributes:
        name: snake_case; it stands in quarantine tables, metrics and alerts.
        predicate: Spark SQL over the row's own columns, or a function without arguments that returns a Column, so
            that a module can hold rules before Spark has started. It must be deterministic, without aggregate, window
            or subquery. If a cast fails for some row, it stops the job, as everywhere in Spark: write try_cast, whose
            null breaks the rule. In Spark NaN is greater than every number: write `NOT isnan(x)` if that matters.
        level: see `Level`.
        of_row: the same predicate for a row in memory, so that a few rows are judged without Spark. It is true or
            false, and false if the SQL is null. None: only Spark can judge. tests/spark/test_few_rules.py compares the
            two.

    Raises:
        ConfigurationError: the name is not snake_case, the level unknown, the predicate blank.
    """

    name: str
    predicate: str | Callable[[], Column]
    level: Level = "quarantine"
    of_row: Callable[[Row], bool] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.level not in get_args(Level):
            raise ConfigurationError.unknown_name(f"level of rule {self.name!r}:", str(self.level), get_args(Level))
        if not callable(self.predicate) and not (isinstance(self.predicate, str) and self.predicate.strip()):
            raise ConfigurationError(
                f"rule {self.name!r} has the predicate {self.predicate!r}. Give SQL that must be true of a row, as in "
                "'length(text) > 0', or a function without arguments that returns a Column."
            )

    @property
    def column(self) -> Column:
        """The predicate as a Column, which may be null."""
        from pyspark.sql import functions as F

        return F.expr(self.predicate) if isinstance(self.predicate, str) else self.predicate()

    @property
    def holds(self) -> Column:
        """The predicate as a Column that is TRUE or FALSE, never null."""
        from pyspark.sql import functions as F

        return F.coalesce(self.column, F.lit(False))

    @property
    def definition_id(self) -> str:
        """A hash of the predicate: results of rules with different ones cannot be compared."""
        text = self.predicate if isinstance(self.predicate, str) else str(self.column)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def broken_by(row: Row, rules: Sequence[Rule]) -> list[str]:
    """The names of the rules that a row in memory breaks, in the order of `failed_rules`.

    Raises:
        ConfigurationError: a rule has no `of_row`, and the row would pass it without being judged.
    """
    unasked = next((rule.name for rule in rules if rule.of_row is None), None)
    if unasked is not None:
        raise ConfigurationError(f"rule {unasked!r} can be asked of rows on Spark alone: it has no of_row")
    return [rule.name for rule in rules if rule.of_row is not None and not rule.of_row(row)]


def check_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a rule. Use lower-case letters, digits and _, as in has_text."
        )


def refuses(rule: Rule) -> bool:
    """Whether a row that breaks the rule is kept out of its table."""
    return rule.level != "warn"


def failed_rules(rules: Sequence[Rule]) -> Column:
    """ARRAY<STRING>: the names of the rules that a row breaks, whatever their level, in order; never null."""
    from pyspark.sql import functions as F

    none = F.array().cast("array<string>")
    if not rules:
        return none
    # Not array_compact, whose lambda would keep Spark from generating code for this step. A row that keeps every rule,
    # as most do, builds no array at all.
    names = F.array_remove(F.array(*[F.when(r.holds, F.lit("")).otherwise(F.lit(r.name)) for r in rules]), "")
    return F.when(all_hold(rules), none).otherwise(names)


def with_failed_rules(rows: DataFrame, *, rules: Sequence[Rule], table: str = "these rows") -> DataFrame:
    """Add the column `failed_rules`.

    Args:
        table: the name of the rows in an error.

    Raises:
        ConfigurationError: as `check_rules`.
    """
    check_rules(rows, rules=rules, table=table)
    return rows.withColumn("failed_rules", failed_rules(rules))


def split(rows: DataFrame, *, rules: Sequence[Rule], table: str = "these rows") -> tuple[DataFrame, DataFrame]:
    """The rows to keep, and the refused rows with `failed_rules`; each row is in exactly one of the two.

    A rule of level warn refuses no row, but is named in a refused row that also breaks it. Each side reads `rows`
    again: persist them if they are expensive to compute. `judged_sides` splits a frame that is judged already.

    Raises:
        ConfigurationError: as `check_rules`.
    """
    check_rules(rows, rules=rules, table=table)
    keeps = all_hold([rule for rule in rules if refuses(rule)])
    return rows.where(keeps), rows.where(~keeps).withColumn("failed_rules", failed_rules(rules))


def is_refused(rules: Sequence[Rule]) -> Column:
    """Whether one of the `failed_rules` of a row keeps it out of its table."""
    from pyspark.sql import functions as F

    names = [F.lit(rule.name) for rule in rules if refuses(rule)]
    return F.arrays_overlap("failed_rules", F.array(*names)) if names else F.lit(False)


def judged_sides(judged: DataFrame, *, rules: Sequence[Rule]) -> tuple[DataFrame, DataFrame]:
    """Like `split`, for rows that `with_failed_rules` has judged: no rule is evaluated again."""
    return judged.where(~is_refused(rules)).drop("failed_rules"), judged.where(is_refused(rules))


def all_hold(rules: Sequence[Rule]) -> Column:
    """TRUE if a row keeps every rule, else FALSE."""
    return _all([rule.holds for rule in rules])


def _all(each: list[Column]) -> Column:
    from pyspark.sql import functions as F

    # Joined as a balanced tree: a chain of thousands would be deeper than the JVM's stack.
    while len(each) > 1:
        each = [each[n] & each[n + 1] if n + 1 < len(each) else each[n] for n in range(0, len(each), 2)]
    return each[0] if each else F.lit(True)


def check_rules(rows: DataFrame, *, rules: Sequence[Rule], table: str) -> None:
    """Check with Spark that each rule can be judged for `rows`; no row is read.

    Raises:
        ConfigurationError: two rules have the same name; or a predicate does not parse, has an alias, names a missing
            column, is not boolean, is not deterministic, or needs more than its own row (a subquery). The text names
            the rule, the table and its columns.
    """
    from pyspark.errors import AnalysisException, ParseException

    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"{table} has two rules named {', '.join(twice)}. Give each a name of its own.")
    # An empty frame with the same columns: otherwise the plan of `rows` would be analysed again for each rule, which
    # takes a second for a wide table.
    plain = rows.sparkSession.createDataFrame([], rows.schema)
    if _are_sound(plain, rules):
        return
    for rule in rules:
        try:
            plan = plain.where(rule.column)
            plan.schema  # noqa: B018 - Spark Connect resolves names only when it is asked for them
            if isinstance(rule.predicate, str):  # inside another expression, as every place writes it
                plain.where(f"coalesce((\n{rule.predicate}\n), false)").schema  # noqa: B018
        except (AnalysisException, ParseException) as error:
            message = " ".join((error.getMessage() or str(error)).split("SQLSTATE")[0].split())
            raise ConfigurationError(
                f"rule {rule.name!r} cannot be judged of {table}: {message} The columns there are "
                f"{', '.join(rows.columns)}. Correct the predicate: {_shown(rule)}"
            ) from None
        if _has_subquery(plan, rule):
            raise ConfigurationError(
                f"rule {rule.name!r} of {table} reads another table by a subquery: a rule judges a row by the row "
                "alone. Join what it needs before, or write a rule of the table "
                "(expectations.rules.table_rules.references). "
                f"Correct the predicate: {_shown(rule)}"
            )
        if not _is_deterministic(plan):
            raise ConfigurationError(
                f"rule {rule.name!r} of {table} is not deterministic: a row could be kept and refused at once. "
                f"Correct the predicate: {_shown(rule)}"
            )


def _are_sound(plain: DataFrame, rules: Sequence[Rule]) -> bool:
    """Whether all rules can be judged, checked together: a contract of thousands of columns has as many rules."""
    from pyspark.errors import AnalysisException, ParseException
    from pyspark.sql import functions as F
    from pyspark.sql.types import BooleanType

    try:
        each = plain.select(*[rule.column.alias(f"_{n}") for n, rule in enumerate(rules)]).schema
        inside = [  # another expression, as every place writes it
            F.expr(f"coalesce((\n{rule.predicate}\n), false)") if isinstance(rule.predicate, str) else rule.holds
            for rule in rules
        ]
        plan = plain.where(_all(inside))
        plan.schema  # noqa: B018 - as below
    except (AnalysisException, ParseException):
        return False
    if any(_has_subquery(plan, rule) for rule in rules[: 1 if hasattr(plan, "_jdf") else None]):
        return False
    return all(isinstance(field.dataType, BooleanType) for field in each) and _is_deterministic(plan)


def _shown(rule: Rule) -> str:
    return rule.predicate if isinstance(rule.predicate, str) else str(rule.column)


# How a subquery begins, outside of quotes and comments; a column with such a name must be quoted.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`]|``)*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
_SUBQUERY = re.compile(r"\(\s*(?:select|values|table|from|with)\b", re.IGNORECASE)


def _has_subquery(filtered: DataFrame, rule: Rule) -> bool:
    jvm_frame = getattr(filtered, "_jdf", None)
    if jvm_frame is None:  # Spark Connect does not say, so the text is searched
        return isinstance(rule.predicate, str) and _SUBQUERY.search(_QUOTED.sub("''", rule.predicate)) is not None
    jvm = filtered.sparkSession._jvm
    assert jvm is not None
    expressions = jvm.org.apache.spark.sql.catalyst.expressions
    condition = jvm_frame.queryExecution().analyzed().condition()
    return bool(expressions.SubqueryExpression.hasSubquery(condition))


def _is_deterministic(filtered: DataFrame) -> bool:
    jvm_frame = getattr(filtered, "_jdf", None)  # None under Spark Connect, which does not say
    if jvm_frame is None:
        return True
    return bool(jvm_frame.queryExecution().analyzed().condition().deterministic())
