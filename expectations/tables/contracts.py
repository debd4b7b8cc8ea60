"""A table's contract and the columns that arrive in, what differs, the contract after it, and its rules, out.

Values that arrive and do not fit are kept beside the row in `_rescued`, a JSON object that ingest writes:

    wrong_type   column → the value as it came, which is no value of the column's type
    unknown      column → value, for a column that the contract does not have
    missing      columns of the contract that the file or table does not have
    hint         a missing and an unknown column that may be the same
    unreadable   a line or file that is no record at all, or why it is none

The rules below read it, so that a rule names every reason to set a row aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal

from expectations.rules.rules import Rule
from transformations.errors import ConfigurationError, ExpectationFailedError
from transformations.tables.column_types import widens

Evolution = Literal["evolve", "quarantine", "freeze"]
"""What happens if the columns change: the table follows; the rows are set aside; or the stage stops."""
Kind = Literal["new", "missing", "widened", "narrowed", "changed"]
_MOST_PAIRS = 10_000
_IS_DELETE = "_op = 'delete' OR "


@dataclass(frozen=True)
class Change:
    """How one column differs: its type in the contract (`expected`) and as it came (`arriving`); None: not there."""

    kind: Kind
    column: str
    expected: str | None = None
    arriving: str | None = None
    hint: str = ""

    def __str__(self) -> str:
        text = {
            "new": f"{self.column!r} ({self.arriving}) is new",
            "missing": f"{self.column!r} is missing",
            "widened": f"{self.column!r} is {self.arriving}, wider than {self.expected}",
            "narrowed": f"{self.column!r} is {self.arriving}, narrower than {self.expected}",
            "changed": f"{self.column!r} is {self.arriving}, not {self.expected}",
        }[self.kind]
        return f"{text} ({self.hint})" if self.hint else text


@dataclass(frozen=True)
class Contract:
    """What a table promises.

    Attributes:
        table: its name, for errors.
        columns: name → canonical type. As in Spark, the case of names does not count.
        key: the columns that tell rows apart; never null.
        required: further columns that are never null.
        order_by: the columns that say when a change happened; even a delete needs them.
        evolution: see `Evolution`.
        row_rules: further rules for a row.
    """

    table: str
    columns: Mapping[str, str]
    key: Sequence[str]
    required: Sequence[str] = ()
    evolution: Evolution = "quarantine"
    row_rules: Sequence[Rule] = field(default=())
    order_by: Sequence[str] = ()

    def compare(self, arriving: Mapping[str, str]) -> list[Change]:
        """How the arriving columns (name → canonical type) differ: in the contract's order, then new ones in theirs.

        A renamed column is a missing and a new one, each with a hint that names the other.
        """
        arrived = {name.lower(): (name, type_) for name, type_ in arriving.items()}
        known = {name.lower() for name in self.columns}
        missing = [name for name in self.columns if name.lower() not in arrived]
        new = {name: type_ for name, type_ in arriving.items() if name.lower() not in known}
        renamed = self._renamed(missing, new)
        changes = []
        for name, expected in self.columns.items():
            if name.lower() not in arrived:
                hint = f"did you mean {renamed[name]!r}, which is new?" if name in renamed else ""
                changes.append(Change("missing", name, expected, hint=hint))
                continue
            type_ = arrived[name.lower()][1]
            if type_ != expected:
                kind: Kind = (
                    "widened" if widens(expected, type_) else "narrowed" if widens(type_, expected) else "changed"
                )
                changes.append(Change(kind, name, expected, type_))
        was = {to: name for name, to in renamed.items()}
        for name, type_ in new.items():
            hint = f"did you mean {was[name]!r}, which is missing?" if name in was else ""
            changes.append(Change("new", name, arriving=type_, hint=hint))
        return changes

    def _renamed(self, missing: Sequence[str], new: Mapping[str, str]) -> dict[str, str]:
        """Missing column → the new one that may be the same: its name is near, or these two are the only ones and have
        the same type."""
        found: dict[str, str] = {}
        if len(missing) * len(new) > _MOST_PAIRS:
            return found  # this is another table, and the comparison would take hours
        for name in missing:
            left = [n for n in new if n not in found.values()]
            near = get_close_matches(name, left, n=1, cutoff=0.6)
            if near or (len(missing) == len(new) == 1 and [self.columns[name]] == list(new.values())):
                found[name] = near[0] if near else left[0]
        return found

    def admit(self, changes: Sequence[Change], *, source: str, can_be_column: Sequence[str] = ()) -> Contract:
        """The contract after `changes`: wider if its evolution is "evolve", else as it is.

        Args:
            source: where the changes come from, for the error.
            can_be_column: the new columns with names that the table can have; the others stay unknown.

        Raises:
            ExpectationFailedError: the contract is frozen, and there are changes.
        """
        if self.evolution == "freeze" and changes:
            raise ExpectationFailedError(
                f"{self.table}: {source} does not keep the frozen contract: {'; '.join(map(str, changes))}. Nothing "
                f"was written. The contract has {', '.join(f'{c} {of}' for c, of in self.columns.items())}. Repair the "
                "source, or change `columns` (or `evolution`) of the source in lakeloop.yml, and run again."
            )
        if self.evolution != "evolve" or not changes:
            return self
        columns = dict(self.columns)
        for change in changes:
            is_new = change.kind == "new" and change.column in can_be_column
            if (change.kind == "widened" or is_new) and change.arriving is not None:
                columns[change.column] = change.arriving
        return replace(self, columns=columns)

    def widened(self, columns: Mapping[str, str]) -> Contract:
        """The contract with columns that its table has gained, and with the wider types of its table."""
        own = {name.lower(): name for name in self.columns}
        together = dict(self.columns)
        for name, type_ in columns.items():
            known = own.get(name.lower())
            if known is None:
                together[name] = type_
            elif widens(together[known], type_):
                together[known] = type_
        return replace(self, columns=together)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The contract as rules over a row of bronze: its columns and `_rescued`.

        Raises:
            ConfigurationError: a rule of the source has the name of one of the contract's own rules.
        """
        placing = {*self.key, *self.order_by}
        # A delete says which record ends, and when; its other columns do not matter.
        own = [
            Rule("is_readable", "get_json_object(_rescued, '$.unreadable') IS NULL"),
            Rule("has_key", _unless_unreadable(" AND ".join(f"`{k}` IS NOT NULL" for k in self.key))),
            *[
                Rule(
                    f"has_type_{c.lower()}",
                    f"{'' if c in placing else _IS_DELETE}get_json_object(_rescued, '$.wrong_type.{c}') IS NULL",
                )
                for c in self.columns
            ],
            Rule("has_known_columns", f"{_IS_DELETE}get_json_object(_rescued, '$.unknown') IS NULL"),
        ]
        if self.evolution == "quarantine":
            own.append(Rule("has_all_columns", f"{_IS_DELETE}get_json_object(_rescued, '$.missing') IS NULL"))
        taken = {rule.name for rule in own}
        for c in dict.fromkeys(self.required):
            if c not in self.key:
                name = f"has_{c.lower()}"
                is_null = f"{'' if c in placing else _IS_DELETE}`{c}` IS NOT NULL"
                own.append(Rule(f"{name}_value" if name in taken else name, _unless_unreadable(is_null)))
        taken = {rule.name for rule in own}
        for rule in self.row_rules:
            if rule.name in taken:
                raise ConfigurationError(
                    f"{self.table}: the rule {rule.name!r} has the name of one of the contract's own rules. Rename it."
                )
        given = [
            replace(rule, predicate=_unless_unreadable(f"{_IS_DELETE}(\n{rule.predicate}\n)"))
            if isinstance(rule.predicate, str)
            else rule
            for rule in self.row_rules
        ]
        return (*own, *given)


def _unless_unreadable(predicate: str) -> str:
    """`predicate`, kept by a line or file that is no record: that breaks only the rule `is_readable`."""
    return f"get_json_object(_rescued, '$.unreadable') IS NOT NULL OR ({predicate})"
