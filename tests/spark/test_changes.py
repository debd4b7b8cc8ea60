"""Folding change feeds and taking differences of keyed states."""

from __future__ import annotations

from chispa import assert_df_equality
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.tables.changes import fold_changes, net_changes

FEED = "id string, value int, _change_type string, _commit_version long, _commit_timestamp timestamp"
STATE = "id string, value int, note string"
states = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 3) | st.none(), st.just("n")))


def test_fold_changes_keeps_the_last_word_on_each_key(spark):
    feed = spark.createDataFrame(
        [
            ("came", 1, "insert", 1, None),
            ("edited", 1, "update_preimage", 2, None),
            ("edited", 2, "update_postimage", 2, None),
            ("edited", 2, "update_preimage", 3, None),
            ("edited", 3, "update_postimage", 3, None),
            ("came and went", 1, "insert", 1, None),
            ("came and went", 1, "delete", 4, None),
            ("went and came", 1, "delete", 2, None),
            ("went and came", 5, "insert", 3, None),
            ("overwritten", 1, "delete", 5, None),
            ("overwritten", 9, "insert", 5, None),
        ],
        FEED,
    )
    expected = spark.createDataFrame(
        [
            ("came", 1, "upsert"),
            ("edited", 3, "upsert"),
            ("came and went", 1, "delete"),
            ("went and came", 5, "upsert"),
            ("overwritten", 9, "upsert"),
        ],
        "id string, value int, _op string",
    )
    assert_df_equality(fold_changes(feed, key="id"), expected, ignore_row_order=True, ignore_nullable=True)


def test_net_changes_turn_the_current_state_into_the_desired_one(spark):
    """Sixty pairs of states in one frame: each pair has its own prefix of keys."""
    pairs: list[tuple[dict, dict]] = []

    @settings(max_examples=60, database=None, deadline=None)
    @given(states, states)
    def collect(before: dict, after: dict) -> None:
        pairs.append((before, after))

    collect()

    def rows(side: int) -> list[tuple]:
        return [(f"{n}-{key}", *row) for n, pair in enumerate(pairs) for key, row in pair[side].items()]

    current, desired = spark.createDataFrame(rows(0), STATE), spark.createDataFrame(rows(1), STATE)
    state = {row[0]: row[1:] for row in rows(0)}
    wanted = {row[0]: row[1:] for row in rows(1)}
    for change in net_changes(current, desired, key="id", compare=["value"]).collect():
        key, value = change["id"], (change["value"], change["note"])
        if change["_op"] == "delete":
            assert key not in wanted
            del state[key]
        elif change["_op"] == "insert":
            assert key not in state
            state[key] = value
        else:
            assert state[key] != value, "an equal row was called a change"
            state[key] = value
    assert state == wanted
