"""SCD2 histories: against an oracle that asks, instant by instant, what the last word was."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.errors import ConfigurationError
from transformations.tables.history import history, history_changes, intervals, state_at

CHANGE = "case int, id string, at int, value int, meta map<string, int>, stored int, _op string"
FIELDS = ("case", "id", "at", "value", "meta", "stored", "_op")
HOW = {"key": ["case", "id"], "order_by": "at", "compare": ["value", "meta"]}
LAST = 9
logs = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, LAST - 1),
        st.none() | st.integers(0, 1),
        st.sampled_from([None, {}, {"x": 1, "y": 2}]),
        st.integers(0, 3),
        st.sampled_from(["upsert", "upsert", "delete"]),
    ),
    max_size=12,
)


def cases(count: int) -> list[tuple]:
    """`count` random logs, as rows of CHANGE: each has a number of its own, which is part of the key."""
    drawn: list[list[tuple]] = []

    @settings(max_examples=count, database=None, deadline=None)
    @given(logs)
    def collect(log: list[tuple]) -> None:
        drawn.append(log)

    collect()
    return [(n, *change) for n, log in enumerate(drawn) for change in log]


def said(rows: list[tuple], *, then_by_stored: bool) -> dict[tuple, dict[int, tuple | None]]:
    """Key → instant → (value, meta), or None for a delete: the winner of each instant."""
    winners: dict[tuple, dict[int, tuple]] = {}
    for case, key, at, value, meta, stored, op in rows:
        is_upsert = op != "delete"
        # Null is least, for Spark: as an empty list is for Python.
        entries = [] if meta is None or not is_upsert else [sorted(meta.items())]
        rank = (stored if then_by_stored else 0, is_upsert, [] if value is None or not is_upsert else [value], entries)
        of_key = winners.setdefault((case, key), {})
        of_key[at] = max(of_key.get(at, (-1,)), rank)
    return {
        key: {at: (rank[2], rank[3]) if rank[1] else None for at, rank in of_key.items()}
        for key, of_key in winners.items()
    }


def oracle(rows: list[tuple], *, then_by_stored: bool = False) -> set[tuple]:
    """(case, id, valid_from, valid_to, value): the longest runs of instants with one state."""
    found = set()
    for key, words in said(rows, then_by_stored=then_by_stored).items():
        states = [words[max(past)] if (past := [a for a in words if a <= t]) else None for t in range(LAST + 1)]
        for state, run in groupby(range(LAST + 1), key=lambda t: states[t]):
            instants = list(run)
            if state is not None:
                found.add((*key, instants[0], None if instants[-1] == LAST else instants[-1] + 1, repr(state)))
    return found


def found(rows) -> set[tuple]:
    """Rows of `intervals`, or versions of a history, as the oracle says them; no row twice."""
    listed = []
    for row in rows.collect():
        state = (
            [] if row["value"] is None else [row["value"]],
            [] if row["meta"] is None else [sorted(row["meta"].items())],
        )
        assert row["is_current"] == (row["valid_to"] is None)
        assert row["at"] == row["valid_from"]
        listed.append((row["case"], row["id"], row["valid_from"], row["valid_to"], repr(state)))
    assert len(set(listed)) == len(listed)
    return set(listed)


@pytest.mark.parametrize("then_by", [(), ("stored",)])
def test_intervals_are_what_asking_instant_by_instant_gives(spark, then_by):
    log = cases(150)
    rows = intervals(spark.createDataFrame(log, CHANGE), **HOW, then_by=then_by)
    assert found(rows) == oracle(log, then_by_stored=bool(then_by))


@pytest.mark.parametrize("then_by", [(), ("stored",)])
def test_any_batches_in_any_order_make_the_history_of_one_batch(spark, then_by):
    """Three batches of shuffled changes, some of them in two batches, merged one after the other."""
    log = cases(150)
    batches: list[list[tuple]] = [[], [], []]
    for change in random.Random(7).sample(log, len(log)):
        for batch in random.Random(str(change)).choices(batches, k=2):
            batch.append(change)
    of_nothing = history(spark.createDataFrame([], CHANGE), **HOW, then_by=then_by)
    table: dict[tuple, tuple] = {}
    for batch in [*batches, log]:
        touched = {change[:2] for change in batch}
        before = spark.createDataFrame([row for key, row in table.items() if key[:2] in touched], of_nothing.schema)
        changes = history_changes(before, spark.createDataFrame(batch, CHANGE), **HOW, then_by=then_by).collect()
        for change in changes:
            row = change.asDict()
            key = (row["case"], row["id"], row["valid_from"])
            assert row.pop("_op") == ("update" if key in table else "insert")
            table[key] = tuple(row.values())
    assert not changes, "all changes had been seen: nothing was to change"
    merged = spark.createDataFrame(list(table.values()), of_nothing.schema)
    whole = history(spark.createDataFrame(log, CHANGE), **HOW, then_by=then_by)
    same = ["case", "id", "valid_from", "valid_to", "is_current", "_marks", "value", "meta"]
    assert sorted(map(repr, merged.select(*same).collect())) == sorted(map(repr, whole.select(*same).collect()))
    assert found(merged.where("_marks IS NULL")) == oracle(log, then_by_stored=bool(then_by))


def test_any_past_state_can_be_rebuilt_from_a_history(spark):
    from pyspark.sql import functions as F

    log = cases(60)
    rows = history(spark.createDataFrame(log, CHANGE), **HOW)
    instants = spark.range(-1, LAST + 1).select(F.col("id").cast("int").alias("t"))
    states = state_at(rows.crossJoin(F.broadcast(instants)), at=F.col("t")).collect()
    rebuilt = {(row["case"], row["id"], row["t"]) for row in states}
    assert len(rebuilt) == len(states), "intervals overlap"
    words = said(log, then_by_stored=False)
    expected = {
        (*key, t)
        for key, of_key in words.items()
        for t in range(-1, LAST + 1)
        if any(a <= t for a in of_key) and of_key[max(a for a in of_key if a <= t)] is not None
    }
    assert rebuilt == expected


# -- each promise by itself ---------------------------------------------------------------------------------------

DAY = datetime(1969, 12, 31, 23, tzinfo=timezone.utc)  # before the epoch, and a time zone away from it


def story(spark, *changes: tuple[int, str | None]) -> list[tuple]:
    """(day, value or None for a delete) … → (from day, to day, value) of the versions."""
    rows = [(0, DAY + timedelta(days=day), value, "upsert" if value else "delete") for day, value in changes]
    frame = spark.createDataFrame(rows, "id int, at timestamp, value string, _op string")
    versions = intervals(frame, key=["id"], order_by="at", compare=["value"]).orderBy("valid_from").collect()

    def day(instant: datetime | None) -> int | None:
        return None if instant is None else (instant.astimezone(timezone.utc) - DAY).days

    return [(day(row["valid_from"]), day(row["valid_to"]), row["value"]) for row in versions]


def test_equal_changes_in_a_row_are_one_version_and_one_that_comes_back_is_a_new_one(spark):
    assert story(spark, (1, "x"), (2, "x"), (3, "y"), (4, "x"), (5, None), (6, "x"), (6, "x")) == [
        (1, 3, "x"),
        (3, 4, "y"),
        (4, 5, "x"),
        (6, None, "x"),
    ]


def test_a_delete_of_what_is_not_there_is_nothing_and_of_one_instant_the_upsert_wins(spark):
    assert story(spark, (1, None), (2, "x"), (3, None), (4, None), (5, "y"), (5, None)) == [(2, 3, "x"), (5, None, "y")]


def test_a_late_change_splits_a_version_that_had_been_confirmed(spark):
    """Intervals alone would let y hold until today: that x was said again on day 3 is remembered by a marker."""
    how = {"key": ["id"], "order_by": "at", "compare": ["value"]}
    schema = "id int, at int, value string, _op string"
    before = history(spark.createDataFrame([(0, 1, "x", "upsert"), (0, 3, "x", "upsert")], schema), **how)
    assert [(row["valid_from"], row["_marks"]) for row in before.orderBy("at").collect()] == [(1, None), (3, "repeat")]
    late = spark.createDataFrame([(0, 2, "y", "upsert")], schema)
    changes = history_changes(before, late, **how).orderBy("valid_from")
    assert [tuple(r) for r in changes.select("_op", "valid_from", "valid_to", "value", "is_current").collect()] == [
        ("update", 1, 2, "x", False),
        ("insert", 2, 3, "y", False),
        ("update", 3, None, "x", True),
    ]


def test_an_insert_that_arrives_after_its_delete_is_closed_by_it(spark):
    how = {"key": ["id"], "order_by": "at", "compare": ["value"]}
    schema = "id int, at int, value string, _op string"
    before = history(spark.createDataFrame([(0, 5, "ignored", "delete")], schema), **how)
    marker = before.collect()[0]
    assert (marker["value"], marker["_marks"], marker["valid_to"]) == (None, "delete", 5)
    changes = history_changes(before, spark.createDataFrame([(0, 2, "x", "upsert")], schema), **how).collect()
    assert [(c["_op"], c["valid_from"], c["valid_to"], c["is_current"]) for c in changes] == [("insert", 2, 5, False)]


def test_what_is_said_anew_replaces_what_was_said_of_the_same_instants_or_everything(spark):
    """A window read again under other rules: what was a version at 2 is refused now; 1 is in no change."""
    how = {"key": ["id"], "order_by": "at", "compare": ["value"]}
    schema = "id int, at int, value string, _op string"
    before = history(spark.createDataFrame([(0, 1, "x", "upsert"), (0, 2, "y", "upsert")], schema), **how)
    anew = spark.createDataFrame([(0, 2, "y", "delete")], schema)

    def changes(replaces) -> list[tuple]:
        found = history_changes(before, anew, **how, replaces=replaces).orderBy("valid_from")
        return [tuple(row) for row in found.select("_op", "valid_from", "valid_to", "_marks").collect()]

    assert changes("nothing") == [], "of one instant, an upsert wins"
    assert changes("same instants") == [("update", 2, 2, "delete")]
    assert changes("everything") == [("delete", 1, None, None), ("update", 2, 2, "delete")]


def test_a_change_without_a_key_or_an_instant_is_an_error_and_never_lost(spark):
    for row in [(None, 1, "x", "upsert"), (0, None, "x", "upsert")]:
        frame = spark.createDataFrame([row], "id int, at int, value string, _op string")
        with pytest.raises(Exception, match=r"belongs to no key or instant\. Refuse such rows"):
            intervals(frame, key=["id"], order_by="at", compare=["value"]).collect()


def test_a_missing_column_and_one_that_is_taken_are_said(spark):
    frame = spark.createDataFrame([], "id int, at int, valid_to int, _op string")
    with pytest.raises(ConfigurationError, match="column of the changes"):
        intervals(frame, key=["id"], order_by="when", compare=[])
    with pytest.raises(ConfigurationError, match=r"columns of their own named \['valid_to'\]"):
        intervals(frame, key=["id"], order_by="at", compare=[])


def test_names_with_dots_blanks_and_backticks_are_names(spark):
    plain = spark.createDataFrame(cases(40), CHANGE)
    odd = {c: f"a {c}.`x" for c in plain.columns if c != "_op"}
    renamed = plain.withColumnsRenamed(odd)
    arguments = {**HOW, "then_by": ["stored"]}
    named = {k: odd[v] if isinstance(v, str) else [odd[c] for c in v] for k, v in arguments.items()}
    expected = sorted(map(tuple, history(plain, **arguments).collect()), key=repr)
    assert len(expected) > 40
    assert sorted(map(tuple, history(renamed, **named).collect()), key=repr) == expected
    made = history_changes(history(renamed.limit(0), **named), renamed, **named)
    assert sorted((tuple(row)[:-1] for row in made.collect()), key=repr) == expected
