"""Rules in, a frame in; the same rows with the names of the rules that each one breaks, or valid and refused rows, out.

A rule is a predicate that must be TRUE of a row: false and null both break it. It is written once and serves four
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
"""What happens to a row that breaks the rule: kept and counted; set aside; or the stage stops and writes nothing."""
# A contract names a rule after a column, whose name takes up to 100 letters.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,127}")


@dataclass(frozen=True)
class Rule:
    """What must be true of a row.

    Attributes:
        name: snake_case, said in quarantine tables, metrics and alerts.
        predicate: Spark SQL over the row's own columns; or a function without arguments that returns a Column, so
            that a module can hold rules before there is a Spark. Deterministic; no aggregate, window or subquery. A
            cast that some row refuses stops the job, as everywhere in Spark: write try_cast, whose null breaks it.
            NaN is greater than every number in Spark: say `NOT isnan(x)` where that matters.
        level: see `Level`.
        of_row: the same predicate of a row in memory, so that a few rows are judged without Spark; true or false, and
            false where the SQL is null. None: only Spark can say. tests/spark/test_few_rules.py holds the two against
            each other.

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
        """The predicate as it is: it may be null."""
        from pyspark.sql import functions as F

        return F.expr(self.predicate) if isinstance(self.predicate, str) else self.predicate()

    @property
    def holds(self) -> Column:
        """TRUE or FALSE, never null."""
        from pyspark.sql import functions as F

        return F.coalesce(self.column, F.lit(False))

    @property
    def definition_id(self) -> str:
        """The same for the same predicate: results of different ones are not to be compared."""
        text = self.predicate if isinstance(self.predicate, str) else str(self.column)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def broken_by(row: Row, rules: Sequence[Rule]) -> list[str]:
    """The names of the rules that a row in memory breaks, as `failed_rules` says them; each must have its `of_row`.

    Raises:
        ConfigurationError: one has none: it would pass unasked.
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
    # Without the lambda of array_compact, which takes the whole step out of the generated code; and a row that keeps
    # every rule, as most do, builds no array at all.
    names = F.array_remove(F.array(*[F.when(r.holds, F.lit("")).otherwise(F.lit(r.name)) for r in rules]), "")
    return F.when(all_hold(rules), none).otherwise(names)


def with_failed_rules(rows: DataFrame, *, rules: Sequence[Rule], table: str = "these rows") -> DataFrame:
    """Add the column `failed_rules`.

    Args:
        table: what an error calls the rows.

    Raises:
        ConfigurationError: as `check_rules`.
    """
    check_rules(rows, rules=rules, table=table)
    return rows.withColumn("failed_rules", failed_rules(rules))


def split(rows: DataFrame, *, rules: Sequence[Rule], table: str = "these rows") -> tuple[DataFrame, DataFrame]:
    """Rows to keep, and the refused ones with `failed_rules`; together all of them, each in one of the two.

    A rule of level warn refuses nothing, but is named in a refused row that breaks it too. Each side reads `rows` for
    itself: persist what is dear to compute. `judged_sides` splits a frame that is judged already.

    Raises:
        ConfigurationError: as `check_rules`.
    """
    check_rules(rows, rules=rules, table=table)
    keeps = all_hold([rule for rule in rules if refuses(rule)])
    return rows.where(keeps), rows.where(~keeps).withColumn("failed_rules", failed_rules(rules))


def is_refused(rules: Sequence[Rule]) -> Column:
    """Of a row with `failed_rules`: whether one of them keeps it out of its table."""
    from pyspark.sql import functions as F

    names = [F.lit(rule.name) for rule in rules if refuses(rule)]
    return F.arrays_overlap("failed_rules", F.array(*names)) if names else F.lit(False)


def judged_sides(judged: DataFrame, *, rules: Sequence[Rule]) -> tuple[DataFrame, DataFrame]:
    """What `split` gives, for rows that `with_failed_rules` has judged: no rule is evaluated again."""
    return judged.where(~is_refused(rules)).drop("failed_rules"), judged.where(is_refused(rules))


def all_hold(rules: Sequence[Rule]) -> Column:
    """TRUE of a row that keeps every rule, else FALSE."""
    return _all([rule.holds for rule in rules])


def _all(each: list[Column]) -> Column:
    from pyspark.sql import functions as F

    # In pairs, and those in pairs: a chain of thousands is deeper than the JVM's stack.
    while len(each) > 1:
        each = [each[n] & each[n + 1] if n + 1 < len(each) else each[n] for n in range(0, len(each), 2)]
    return each[0] if each else F.lit(True)


def check_rules(rows: DataFrame, *, rules: Sequence[Rule], table: str) -> None:
    """Ask Spark whether each rule can be judged of `rows`; reads no row.

    Raises:
        ConfigurationError: two rules of one name; or a predicate that does not parse, has an alias, names a missing
            column, is not boolean, not deterministic, or needs more than its own row (a subquery). The rule, the table
            and its columns are named.
    """
    from pyspark.errors import AnalysisException, ParseException

    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"{table} has two rules named {', '.join(twice)}. Give each a name of its own.")
    # Of the columns alone: what makes the rows would be analysed once more for each rule, a second of a wide table.
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
    """Whether all rules together can be judged: a contract of thousands of columns has as many rules."""
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


# What a subquery begins with, outside of quotes and comments; a column of that name has to be quoted.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`]|``)*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
_SUBQUERY = re.compile(r"\(\s*(?:select|values|table|from|with)\b", re.IGNORECASE)


def _has_subquery(filtered: DataFrame, rule: Rule) -> bool:
    jvm_frame = getattr(filtered, "_jdf", None)
    if jvm_frame is None:  # Spark Connect does not tell, so the text has to
        return isinstance(rule.predicate, str) and _SUBQUERY.search(_QUOTED.sub("''", rule.predicate)) is not None
    jvm = filtered.sparkSession._jvm
    assert jvm is not None
    expressions = jvm.org.apache.spark.sql.catalyst.expressions
    condition = jvm_frame.queryExecution().analyzed().condition()
    return bool(expressions.SubqueryExpression.hasSubquery(condition))


def _is_deterministic(filtered: DataFrame) -> bool:
    jvm_frame = getattr(filtered, "_jdf", None)  # none under Spark Connect, which does not tell
    if jvm_frame is None:
        return True
    return bool(jvm_frame.queryExecution().analyzed().condition().deterministic())
