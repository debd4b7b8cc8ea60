"""What a contract says of arriving columns: every kind of change under every evolution."""

from __future__ import annotations

import pytest

from expectations.rules.rules import Rule
from expectations.tables.contracts import Contract
from transformations.errors import ConfigurationError, ExpectationFailedError

COLUMNS = {"order_id": "string", "amount": "int", "note": "string"}
# The kind: what arrives, and the columns of a table that follows it.
ARRIVING = {
    "new": ({**COLUMNS, "color": "string"}, {**COLUMNS, "color": "string"}),
    "missing": ({"order_id": "string", "amount": "int"}, COLUMNS),
    "widened": ({**COLUMNS, "amount": "bigint"}, {**COLUMNS, "amount": "bigint"}),
    "narrowed": ({**COLUMNS, "amount": "smallint"}, COLUMNS),
    "changed": ({**COLUMNS, "amount": "boolean"}, COLUMNS),
}


def contract(evolution: str = "quarantine", **changed) -> Contract:
    return Contract("silver.records_orders", COLUMNS, ("order_id",), evolution=evolution, **changed)


@pytest.mark.parametrize("kind", ARRIVING)
def test_each_kind_of_change_does_what_the_evolution_says(kind):
    arriving, followed = ARRIVING[kind]
    (change,) = contract().compare(arriving)
    assert change.kind == kind
    after = contract("evolve").admit([change], source="a.csv", can_be_column=list(arriving))
    assert dict(after.columns) == followed
    assert dict(contract("quarantine").admit([change], source="a.csv", can_be_column=list(arriving)).columns) == COLUMNS
    with pytest.raises(ExpectationFailedError) as raised:
        contract("freeze").admit([change], source="a.csv")
    assert str(change) in str(raised.value)
    for told in ("silver.records_orders", "a.csv", "Nothing was written", "order_id string", "lakeloop.yml"):
        assert told in str(raised.value)


@pytest.mark.parametrize("evolution", ["evolve", "quarantine", "freeze"])
def test_nothing_changed_is_admitted_by_all_whatever_the_case_of_a_name(evolution):
    as_ever = contract(evolution)
    changes = as_ever.compare({"Order_ID": "string", "amount": "int", "note": "string"})
    assert changes == []
    assert as_ever.admit(changes, source="a.csv") is as_ever


def test_a_renamed_column_is_a_missing_and_a_new_one_that_ask_for_each_other():
    missing, new = contract().compare({"order_id": "string", "amuont": "int", "note": "string"})
    assert str(missing) == "'amount' is missing (did you mean 'amuont', which is new?)"
    assert str(new) == "'amuont' (int) is new (did you mean 'amount', which is missing?)"
    # Of quite another name, but the only two, and of one type.
    assert all(change.hint for change in contract().compare({"order_id": "string", "total": "int", "note": "string"}))
    # Two may be meant, and neither name is near: nothing is guessed.
    other = contract().compare({"order_id": "string", "total": "int", "text": "string"})
    assert [change.hint for change in other] == [""] * 4


def test_a_name_that_no_column_can_have_stays_unknown_under_evolve():
    (change,) = contract("evolve").compare({**COLUMNS, "total price": "int"})
    assert dict(contract("evolve").admit([change], source="a", can_be_column=[]).columns) == COLUMNS


def test_what_a_table_has_gained_stays_and_what_it_has_narrower_does_not_count():
    after = contract().widened({"amount": "bigint", "color": "string", "note": "int"})
    assert dict(after.columns) == {"order_id": "string", "amount": "bigint", "note": "string", "color": "string"}


def test_a_rule_with_the_name_of_one_of_the_contract_is_refused():
    with pytest.raises(ConfigurationError, match="'has_key' has the name of one of the contract's own rules"):
        _ = contract(row_rules=(Rule("has_key", "true"),)).rules


def test_a_delete_needs_its_key_and_order_and_nothing_else():
    strict = contract(required=("amount", "note"), order_by=("amount",), row_rules=(Rule("is_sane", "true"),))
    rules = {rule.name: rule.predicate for rule in strict.rules}
    lenient = {name for name, predicate in rules.items() if "_op = 'delete' OR" in str(predicate)}
    assert lenient == {"has_type_note", "has_note", "has_known_columns", "has_all_columns", "is_sane"}


def test_a_column_may_have_a_long_name_or_one_that_makes_the_name_of_another_rule():
    columns = {"order_id": "string", "key": "int", "known_columns": "int", "c" * 100: "int"}
    rules = Contract("t", columns, ("order_id",), required=("key", "known_columns", "key")).rules
    names = [rule.name for rule in rules]
    assert len(set(names)) == len(names)
    assert {"has_key_value", "has_known_columns_value", f"has_type_{'c' * 100}"} < set(names)
