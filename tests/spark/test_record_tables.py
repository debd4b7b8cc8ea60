"""A Delta table that is a source: after each run silver is what the table says, whatever was done to the table."""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from tests.support.recorded import now, refused, rows, run, settings_for

pytestmark = pytest.mark.long

PEOPLE = {
    "format": "delta",
    "location": "./people",
    "key": ["id"],
    "columns": {"id": "string", "value": "int"},
}


class Table:
    """The source table: SQL on it, copies of it put in its place, and what it holds."""

    def __init__(self, spark: Any, path: Path) -> None:
        self.spark, self.path = spark, path

    def create(self, values: str, *, path: Path | None = None) -> None:
        frame = self.spark.sql(f"SELECT * FROM VALUES {values} AS t(id, value)")
        frame.write.format("delta").option("delta.enableChangeDataFeed", "true").save(str(path or self.path))

    def sql(self, *statements: str) -> None:
        for statement in statements:
            self.spark.sql(statement.format(t=f"delta.`{self.path}`"))

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.path, self.path.with_name(name), dirs_exist_ok=False))

    def put(self, other: Path) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(other, self.path)
        # A run is a process of its own, which has not seen the earlier table.
        self.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()

    def bag(self) -> dict[Any, set[Any]]:
        held = defaultdict(set)
        for row in pa.table(deltalake.DeltaTable(str(self.path)).scan()).to_pylist():
            held[row["id"]].add(row["value"])
        return held


def check(settings: Any, table: Table, *, what: object = "") -> None:
    held = table.bag()
    without = held.pop(None, set())
    found = {key: row["value"] for key, row in now(settings, "people").items()}
    assert set(found) == set(held), what
    assert all(found[key] in held[key] for key in held), (what, found, held)
    # Each key has one version that is true now, and it is the one that is served.
    current = [r for r in rows(settings, "silver.records_people_history") if r["is_current"]]
    assert sorted((r["id"], r["value"]) for r in current) == sorted(found.items()), what
    assert sum(len(row["failed_rules"]) for row in refused(settings, "people")) == len(without), what


def test_keys_that_change_and_rows_that_share_one(tmp_path, spark):
    settings = settings_for(tmp_path, people=PEOPLE)
    table = Table(spark, tmp_path / "people")
    table.create("('moves', 1), ('loses', 2), ('twice', 3), ('twice', 4), ('a', 5), ('b', 6), ('stays', 7), (NULL, 8)")
    run(settings)
    check(settings, table)
    table.sql(
        "UPDATE {t} SET id = 'moved' WHERE id = 'moves'",
        "UPDATE {t} SET id = NULL WHERE id = 'loses'",
        "DELETE FROM {t} WHERE id = 'twice' AND value = 4",
        # Two keys change places in one commit.
        "UPDATE {t} SET id = CASE id WHEN 'a' THEN 'b' ELSE 'a' END WHERE id IN ('a', 'b')",
        "UPDATE {t} SET id = 'found' WHERE value = 8",
    )
    run(settings)
    check(settings, table)
    assert now(settings, "people")["a"]["value"] == 6
    assert {"found", "moved"} < set(now(settings, "people"))
    assert run(settings) == {}


def test_a_key_that_is_narrowed_has_the_table_read_anew(tmp_path, spark):
    settings = settings_for(tmp_path, people={**PEOPLE, "key": ["id", "value"]})
    table = Table(spark, tmp_path / "people")
    table.create("('a', 1), ('a', 2), ('b', 3)")
    run(settings)
    table.sql("DELETE FROM {t} WHERE value = 1")
    run(settings)
    assert sorted(row["value"] for row in rows(settings, "silver.records_people")) == [2, 3]
    settings = settings_for(tmp_path, people=PEOPLE)
    run(settings)
    check(settings, table)
    assert run(settings) == {}


@pytest.mark.longest
def test_backups_and_other_tables_put_in_its_place(tmp_path, spark):
    settings = settings_for(tmp_path, people=PEOPLE)
    table = Table(spark, tmp_path / "people")
    table.create("('old', -1)", path=tmp_path / "other")
    Table(spark, tmp_path / "other").sql("INSERT INTO {t} VALUES ('a', -2)")
    table.create("('a', 1), ('b', 2)")
    table.sql("UPDATE {t} SET value = 3 WHERE id = 'a'")
    run(settings)
    backup = table.copy("backup")
    table.sql("INSERT INTO {t} VALUES ('c', 4)", "UPDATE {t} SET value = 5 WHERE id = 'b'")
    run(settings)
    check(settings, table, what="before")
    later = table.copy("later")

    table.put(backup)
    run(settings)
    check(settings, table, what="a backup of a lower version")
    table.put(later)
    run(settings)
    check(settings, table, what="the later one again")
    table.put(backup)
    table.sql("DELETE FROM {t} WHERE id = 'a'", "INSERT INTO {t} VALUES ('d', 6)")
    run(settings)
    check(settings, table, what="a backup that went on to the same version")
    assert run(settings) == {}
    table.put(tmp_path / "other")
    run(settings)
    check(settings, table, what="another table with older commits")
    table.put(later)
    run(settings)
    check(settings, table, what="and the first one back, as it was")
    assert run(settings) == {}
    table.sql("DELETE FROM {t}")
    table.put(table.copy("empty"))
    run(settings)
    check(settings, table, what="empty")
    table.sql("OPTIMIZE {t}", "VACUUM {t}")
    run(settings)
    assert run(settings) == {}


@pytest.mark.longest
@pytest.mark.parametrize("seed", [1])
def test_any_history_of_a_table_ends_in_what_the_table_says(tmp_path, spark, seed):
    chance = random.Random(seed)
    settings = settings_for(tmp_path, people=PEOPLE)
    table = Table(spark, tmp_path / "people")
    table.create("('a', 0), ('b', 0), (NULL, 0)")
    copies: list[Path] = []

    def key() -> str:
        return chance.choice(["'a'", "'b'", "'c'", "'d'", "NULL"])

    def values() -> str:
        return ", ".join(f"({key()}, {chance.randrange(9)})" for _ in range(chance.randint(1, 3)))

    def restore() -> None:
        last = deltalake.DeltaTable(str(table.path)).version()
        table.sql(f"RESTORE TABLE {{t}} TO VERSION AS OF {chance.randrange(last + 1)}")

    def copy() -> None:
        copies.append(table.copy(f"copy{len(copies)}"))

    def put() -> None:
        if copies:
            table.put(chance.choice(copies))

    def replaced() -> None:
        shutil.rmtree(table.path)
        spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
        table.create(values())

    steps: list[Callable[[], None]] = [
        *[lambda: table.sql(f"INSERT INTO {{t}} VALUES {values()}")] * 3,
        *[lambda: table.sql(f"UPDATE {{t}} SET value = value + 10 WHERE id <=> {key()}")] * 2,
        *[lambda: table.sql(f"UPDATE {{t}} SET id = {key()} WHERE id <=> {key()}")] * 3,
        *[lambda: table.sql(f"UPDATE {{t}} SET id = {key()} WHERE value % 2 = {chance.randrange(2)}")] * 2,
        *[lambda: table.sql(f"DELETE FROM {{t}} WHERE id <=> {key()}")] * 2,
        *[lambda: table.sql(f"DELETE FROM {{t}} WHERE value % 3 = {chance.randrange(3)}")] * 2,
        lambda: table.sql(f"INSERT OVERWRITE {{t}} VALUES {values()}"),
        restore,
        copy,
        put,
        put,
        replaced,
    ]
    for step in range(4):
        for _ in range(chance.randint(1, 5)):
            chance.choice(steps)()
        run(settings)
        check(settings, table, what=f"seed {seed}, step {step}")
