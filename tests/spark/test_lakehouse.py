"""The lakehouse: folders and tables of a catalog keep one contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.schemas.spec import LONG, STRING, TIMESTAMP, table_spec
from pipelines.lakehouse.selection import LastOf, Newest, Without
from pipelines.lakehouse.table_log import commit_id, is_same_history, operations, unread_from
from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError

TABLE, ABSENT, HISTORY = "silver.things", "silver.absent", "silver.things_history"
SPEC = table_spec("current", ("k", STRING), ("n", LONG), ("at", TIMESTAMP), key="k", change_feed=True)
HISTORY_SPEC = table_spec("log", ("k", STRING), ("n", LONG), ("at", TIMESTAMP))


@pytest.fixture(params=["folders", pytest.param("catalog", marks=pytest.mark.long)])
def lake(request: pytest.FixtureRequest, workspace: Settings, spark) -> Iterator[Lakehouse]:
    if request.param == "folders":
        settings = workspace
    else:
        settings = workspace.model_copy(update={"catalog": "spark_catalog", "schema_prefix": "contract_"})
        spark.sql("CREATE SCHEMA contract_silver")
        spark.sql("CREATE SCHEMA contract_ops")
    lake = open_lakehouse(settings, spark=lambda: spark)
    lake.declare(TABLE, SPEC)
    lake.declare(ABSENT, SPEC)
    yield lake
    if request.param == "catalog":
        spark.sql("DROP SCHEMA contract_silver CASCADE")
        spark.sql("DROP SCHEMA contract_ops CASCADE")


def _rows(lake: Lakehouse, **how) -> dict[str, int | None]:
    rows = pa.Table.from_batches(lake.read_batches(TABLE, **how), schema=SPEC.schema).to_pylist()
    return {row["k"]: row["n"] for row in rows}


def _changes(*rows: tuple[str, int | None, str]) -> pa.Table:
    schema = SPEC.schema.append(pa.field("_op", STRING))
    return pa.Table.from_pylist([{"k": k, "n": n, "_op": op} for k, n, op in rows], schema=schema)


def test_a_table_that_is_not_there_is_no_error_and_one_that_nobody_declared_is(lake: Lakehouse):
    assert lake.head(ABSENT) is None
    assert lake.columns(ABSENT) is None
    assert lake.read_arrow(ABSENT).num_rows == 0
    assert lake.delete(ABSENT, {"k": ["a"]}) == 0
    assert lake.file_count(ABSENT) == 0
    assert lake.compact(ABSENT) == 0
    assert lake.vacuum(ABSENT, days=7) == 0
    with pytest.raises(ConfigurationError, match="silver"):
        lake.ensure("silver.undeclared")


def test_rows_go_in_and_out_and_every_write_is_one_version(lake: Lakehouse):
    first = lake.ensure(TABLE)
    assert lake.ensure(TABLE) == first, "the second time changes nothing"
    assert lake.columns(TABLE) == SPEC.schema
    lake.append_arrow(TABLE, [])
    assert lake.head(TABLE) == first
    lake.append_arrow(TABLE, [{"k": "a", "n": 1}, {"k": "it's `b`", "n": None}])
    lake.merge_arrow(TABLE, _changes(("a", 2, "update"), ("c", 3, "insert"), ("it's `b`", None, "delete")))
    lake.merge_arrow(TABLE, _changes())
    assert _rows(lake) == {"a": 2, "c": 3}
    lake.append(TABLE, lake.frame(_changes(("it's `b`", 4, "insert")).drop_columns("_op")))
    assert _rows(lake, where={"k": "it's `b`"}) == {"it's `b`": 4}
    assert lake.delete(TABLE, {"k": ["it's `b`", "nobody"]}) == 1
    assert lake.delete(TABLE, {"k": ["nobody"]}) == 0
    assert lake.head(TABLE).version == first.version + 4
    assert _rows(lake, version=first.version + 1) == {"a": 1, "it's `b`": None}
    assert {row["k"]: row["n"] for row in lake.read_keys(TABLE, "k", ["c", "x"]).collect()} == {"c": 3}
    feed = lake.read_changes(TABLE, after=first.version, until=first.version + 2).collect()
    told = sorted((row["_commit_version"] - first.version, row["_change_type"], row["k"]) for row in feed)
    assert told == [
        (1, "insert", "a"), (1, "insert", "it's `b`"),
        (2, "delete", "it's `b`"), (2, "insert", "c"), (2, "update_postimage", "a"), (2, "update_preimage", "a"),
    ]  # fmt: skip
    assert [commit["version"] for commit in lake.history(TABLE)] == [*range(first.version + 4, -1, -1)]


def test_only_one_of_two_replaces_a_table_that_both_have_read(lake: Lakehouse):
    lake.append_arrow(TABLE, [{"k": "a", "n": 1}])
    version = lake.head(TABLE).version
    assert lake.replace_if_unchanged(TABLE, [{"k": "a", "n": 2}], version=version)
    assert not lake.replace_if_unchanged(TABLE, [{"k": "a", "n": 3}], version=version)
    assert _rows(lake) == {"a": 2}


def test_who_has_seen_an_older_version_replaces_nothing(lake: Lakehouse, monkeypatch: pytest.MonkeyPatch):
    """Two look at the same time; the slower one writes when the other one has written."""
    lake.append_arrow(TABLE, [{"k": "a", "n": 1}])
    seen = lake.head(TABLE)
    assert lake.replace_if_unchanged(TABLE, [{"k": "a", "n": 2}], version=seen.version)
    if not lake.is_local:
        monkeypatch.setattr(lake._logs, "newest", lambda name: seen)
    assert not lake.replace_if_unchanged(TABLE, [{"k": "a", "n": 3}], version=seen.version)
    monkeypatch.undo()
    assert _rows(lake) == {"a": 2}
    assert lake.replace_if_unchanged(TABLE, [{"k": "a", "n": 4}], version=lake.head(TABLE).version)
    assert _rows(lake) == {"a": 4}


def test_properties_and_columns_are_added_and_named_as_they_are(lake: Lakehouse):
    lake.append_arrow(TABLE, [{"k": "a", "n": 1}])
    if not lake.is_local:
        assert lake._detail(TABLE, "clusteringColumns") == ["k"], "by what a merge looks for"
    version = lake.head(TABLE).version
    lake.set_properties(TABLE, {"lakeloop.said": "it's a \\ `name`"})
    assert lake.properties(TABLE)["lakeloop.said"] == "it's a \\ `name`"
    lake.set_properties(TABLE, {"lakeloop.said": "it's a \\ `name`"})
    assert lake.head(TABLE).version == version + 1, "what is so already is no commit"
    lake.add_columns(TABLE, {"a_`new`_one": "string"})
    assert lake.columns(TABLE).names == [*SPEC.columns, "a_`new`_one"]
    lake.replace(TABLE, lake.read(TABLE).drop("a_`new`_one"))
    assert lake.columns(TABLE).names == SPEC.columns
    assert _rows(lake) == {"a": 1}
    assert lake.size(TABLE) > 0


def test_an_emptied_table_has_the_declared_columns_and_says_which_are_never_null(lake: Lakehouse):
    lake.append_arrow(TABLE, [{"k": "a", "n": 1}])
    lake.set_properties(TABLE, {"lakeloop.said": "it's kept"})
    fields = [pa.field("k", pa.string(), nullable=False), pa.field("d", pa.float64())]
    lake.declare(TABLE, replace(SPEC, schema=pa.schema(fields)))
    version = lake.head(TABLE).version
    lake.empty(TABLE)
    assert lake.head(TABLE).version == version + 1
    assert lake.read(TABLE).count() == 0
    assert [(f.name, f.nullable) for f in lake.read(TABLE).schema] == [("k", False), ("d", True)]
    assert lake.properties(TABLE)["lakeloop.said"] == "it's kept"
    lake.append_arrow(TABLE, [{"k": "b", "d": 0.5}])
    assert {row["k"]: row["d"] for row in lake.read_arrow(TABLE).to_pylist()} == {"b": 0.5}


@pytest.mark.long
def test_files_are_put_together_and_who_reads_changes_passes_over_it(lake: Lakehouse):
    for number in range(4):
        lake.append_arrow(TABLE, [{"k": str(number), "n": number}])
    head = lake.head(TABLE)
    commit = commit_id(lake, TABLE, head.version)
    assert lake.file_count(TABLE) == 4
    assert lake.compact(TABLE) == 4
    assert lake.file_count(TABLE) == 1
    assert lake.compact(TABLE) == 0
    assert _rows(lake) == {str(number): number for number in range(4)}
    now = lake.head(TABLE)
    assert now.table_id == head.table_id
    assert now.version > head.version
    assert set(operations(lake, TABLE, after=head.version, until=now.version)) == {"OPTIMIZE"}
    assert lake.read_changes(TABLE, after=head.version, until=now.version).count() == 0
    known = {"version": head.version, "commit": commit}
    assert is_same_history(lake, TABLE, **known, until=now.version)
    assert unread_from(lake, TABLE, **known, until=now.version) == now.version
    lake.append_arrow(TABLE, [{"k": "new", "n": 5}])
    later = lake.head(TABLE).version
    assert unread_from(lake, TABLE, **known, until=later) == head.version
    assert [row["k"] for row in lake.read_changes(TABLE, after=head.version, until=later).collect()] == ["new"]
    lake.vacuum(TABLE, days=7)
    assert _rows(lake, version=head.version) == {str(number): number for number in range(4)}, "seven days are not over"


def test_a_table_that_was_restored_is_told_from_one_that_only_went_on(lake: Lakehouse, spark):
    for number in range(2):
        lake.append_arrow(TABLE, [{"k": str(number), "n": number}])
    head = lake.head(TABLE)
    commit = commit_id(lake, TABLE, head.version)
    spark.sql(f"RESTORE TABLE {lake.identifier(TABLE)} TO VERSION AS OF {head.version - 1}")
    lake.refresh()
    now = lake.head(TABLE).version
    assert unread_from(lake, TABLE, version=head.version, commit=commit, until=now) is None


def test_rows_are_chosen_where_they_lie_and_no_others_come(lake: Lakehouse):
    assert lake.count(ABSENT) == 0
    lake.ensure(TABLE)
    rows = [(f"it's `{n % 7}`" if n % 7 else None, n if n % 5 else None, _at(n).isoformat()) for n in range(40)]
    lake.declare(HISTORY, HISTORY_SPEC)
    lake.append_arrow(HISTORY, [{"k": k, "n": n, "at": datetime.fromisoformat(at)} for k, n, at in rows])
    lake.append_arrow(TABLE, [{"k": "it's `1`", "n": 1}, {"k": "nobody", "n": 2}, {"k": None, "n": 3}])

    def read(**how) -> list[tuple]:
        found = lake.read_arrow(HISTORY, columns=["k", "n", "at"], **how).to_pylist()
        return [(row["k"], row["n"], row["at"].isoformat()) for row in found]

    assert lake.count(HISTORY) == 40
    assert sorted(read(), key=str) == sorted(rows, key=str)
    wanted = {"k": ["it's `1`", "it's `2`", "x"], "n": range(30)}
    assert sorted(read(where=wanted)) == sorted(r for r in rows if r[0] in wanted["k"] and r[1] in wanted["n"])
    many = {"n": range(5, 5000)}
    assert {row[1] for row in read(where=many)} == {n for n in range(5, 40) if n % 5}
    assert {row[2] for row in read(where={"n": None})} == {row[2] for row in rows if row[1] is None}
    assert {row[1] for row in read(where={"n": [None, 3]})} == {None, 3}
    assert read(where={"k": "it's `1`", "n": []}) == []
    assert read(which=Newest("at", most=3)) == sorted(rows, key=lambda r: r[2], reverse=True)[:3]
    assert [row[1] for row in read(where={"k": None}, which=Newest("n", most=9))] == [28, 21, 14, 7, None, None]
    last = {row[0]: row for row in sorted(rows, key=lambda r: r[2])}
    assert sorted(read(which=LastOf(("k",), by="at")), key=str) == sorted(last.values(), key=str)
    alone = [row for row in rows if row[0] not in ("it's `1`", None)]
    assert sorted(read(which=Without(TABLE, "k")), key=str) == sorted(alone, key=str)
    assert len(read(where={"n": range(10)}, which=Without(ABSENT, "k"))) == 8


def _at(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=number * 7 % 40)
