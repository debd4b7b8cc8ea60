"""Statements change the rows that they should, whatever stands in names, texts and paths."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.lakehouse import statements
from pipelines.lakehouse.folders import FolderLakehouse
from pipelines.lakehouse.schemas.spec import LONG, STRING, table_spec
from pipelines.settings.sections import Settings

TABLE = "silver.things"
# What has a meaning in SQL, in Spark's settings, in a template or in a path.
TEXTS = [
    "a",
    "",
    "it's",
    'a "b"',
    "\\",
    "a\\'b",
    "${spark.app.name}",
    "{changes}",
    "{}",
    "`",
    "?",
    ":a",
    "--",
    "a\nb",
    "\\u0041",
]
SPEC = table_spec("current", ("key", STRING), ("$n", LONG), key="key", change_feed=True)
KEY, NUMBER = SPEC.columns


@pytest.fixture
def lake(tmp_path: Path, spark) -> FolderLakehouse:
    lake = FolderLakehouse(Settings(root=tmp_path / "a {b} ${spark.app.name} it's `c`"), spark=lambda: spark)
    lake.declare(TABLE, SPEC)
    lake.append_arrow(TABLE, [{KEY: text, NUMBER: place} for place, text in enumerate(TEXTS)])
    return lake


def _rows(lake: FolderLakehouse) -> dict[str, int]:
    return {row[KEY]: row[NUMBER] for row in lake.read_arrow(TABLE).to_pylist()}


def test_a_merge_by_spark_changes_what_it_is_told(lake: FolderLakehouse):
    ops = ["insert", "update", "delete"]
    changed = [{KEY: text, NUMBER: 100 + n, "_op": ops[n % 3]} for n, text in enumerate([*TEXTS, "new", "newer", "no"])]
    schema = SPEC.schema.append(pa.field("_op", STRING))
    changes = lake.frame(pa.Table.from_pylist(changed, schema=schema))
    statements.merge(lake.identifier(TABLE), changes, spec=SPEC, within="TRUE")
    assert _rows(lake) == {row[KEY]: row[NUMBER] for row in changed if row["_op"] != "delete"}


def test_a_delete_by_spark_takes_the_rows_with_these_texts_and_no_others(lake: FolderLakehouse):
    gone = TEXTS[::2]
    statements.delete(lake.spark, lake.identifier(TABLE), {KEY: gone})
    assert _rows(lake) == {text: place for place, text in enumerate(TEXTS) if text not in gone}
    statements.delete(lake.spark, lake.identifier(TABLE), {KEY: TEXTS})
    assert _rows(lake) == {}


def test_properties_are_set_as_they_are_given(lake: FolderLakehouse):
    properties = {f"lakeloop.{place}": text for place, text in enumerate(TEXTS) if text}
    lake.set_properties(TABLE, properties)
    assert properties.items() <= lake.properties(TABLE).items()


@pytest.mark.parametrize(("text", "expected"), [("[DELTA_CONCURRENT_APPEND] x", True), ("[DELTA_OTHER] x", False)])
def test_a_conflict_is_told_by_deltas_own_condition(text: str, expected: bool):
    assert statements.is_conflict(Exception(text)) is expected
