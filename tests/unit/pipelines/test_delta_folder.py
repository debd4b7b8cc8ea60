"""What delta-rs writes of a folder's table without a JVM, as Spark will read it: statistics that are true, or none."""

from __future__ import annotations

import json
import random
import string
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, convert_to_deltalake
from deltalake.exceptions import CommitFailedError

from pipelines.conductor.run import new_context
from pipelines.lakehouse import delta_folder
from pipelines.lakehouse.instants import misread
from pipelines.lakehouse.open_folder import files, files_between
from pipelines.lakehouse.schemas.spec import TIMESTAMP
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError

NAN = float("nan")
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("ratio", pa.float64()),
        ("large", pa.decimal128(38, 0)),
        ("small", pa.decimal128(9, 2)),
        ("at", TIMESTAMP),
        ("pair", pa.struct([("ratio", pa.float32())])),
    ]
)
ROW = {"name": "a", "ratio": NAN, "large": Decimal("9" * 38), "small": Decimal("0.01"), "pair": {"ratio": NAN}}


def _statistics(folder: Path) -> list[dict[str, Any]]:
    lines = [line for log in sorted((folder / "_delta_log").glob("*.json")) for line in log.read_text().splitlines()]
    return [json.loads(action["add"]["stats"]) for line in lines if "add" in (action := json.loads(line))]


@pytest.mark.parametrize("writes", ["append", "merge", "replace", "delete"])
def test_no_statistics_stand_where_delta_rs_tells_others_than_the_values(writes: str, tmp_path: Path):
    columns = {"delta.dataSkippingStatsColumns": "name,ratio,large,small,at"}
    delta_folder.create(tmp_path, SCHEMA, (), columns)
    delta_folder.append(tmp_path, pa.Table.from_pylist([ROW, {**ROW, "name": "b"}], schema=SCHEMA))
    delta = DeltaTable(str(tmp_path))
    if writes == "merge":
        changes = pa.Table.from_pylist([{**ROW, "_op": "update"}], schema=SCHEMA.append(pa.field("_op", pa.string())))
        delta_folder.merge(delta, changes, key=["name"])
    elif writes == "replace":
        assert delta_folder.replace(delta, pa.Table.from_pylist([ROW], schema=SCHEMA))
    elif writes == "delete":
        assert delta_folder.delete(delta, {"name": ["b"]}, SCHEMA) == 1
    found = _statistics(tmp_path)
    assert len(found) == 1 + (writes != "append")
    for statistics in found:
        assert statistics["minValues"].keys() == statistics["maxValues"].keys() == {"name"}, "at is null in every row"
        assert statistics["numRecords"] in (1, 2)


def test_the_feed_of_no_version_is_empty_and_nobody_need_ask_spark(tmp_path: Path):
    delta_folder.create(tmp_path, SCHEMA, (), {"delta.enableChangeDataFeed": "true"})
    delta_folder.append(tmp_path, pa.Table.from_pylist([ROW], schema=SCHEMA))
    delta = DeltaTable(str(tmp_path))
    feed = delta_folder.few_changes(delta, after=1, until=1, columns=["name"])
    assert feed is not None
    assert (feed.num_rows, feed.column_names[:2]) == (0, ["name", "_change_type"])
    assert delta_folder.few_changes(delta, after=0, until=1)["name"].to_pylist() == ["a"]


def test_a_key_that_is_null_is_the_key_that_is_null(tmp_path: Path):
    schema = pa.schema([("a", pa.string()), ("b", pa.int64()), ("n", pa.int64())])
    delta_folder.create(tmp_path, schema, (), {})
    rows = [{"a": None, "b": 1, "n": 0}, {"a": "x", "b": None, "n": 0}, {"a": "x", "b": 1, "n": 0}]
    delta_folder.append(tmp_path, pa.Table.from_pylist(rows, schema=schema))
    changes = [{**row, "n": 1, "_op": "update"} for row in rows]
    changed = pa.Table.from_pylist(changes, schema=schema.append(pa.field("_op", pa.string())))
    delta_folder.merge(DeltaTable(str(tmp_path)), changed, key=["a", "b"])
    (found,) = delta_folder.scan(DeltaTable(str(tmp_path)))
    assert found["n"].to_pylist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["a b", "Ünï", "p+q", "a#b", "q?r", "c;d"])
def test_files_are_found_whatever_the_folder_is_called(name: str, tmp_path: Path):
    """An address writes these letters otherwise, and delta-rs names files by addresses."""
    folder = tmp_path / name / "table"
    schema = pa.schema([("part", pa.string()), ("n", pa.int64())])
    delta_folder.create(folder, schema, ("part",), {})
    delta_folder.append(folder, pa.table({"part": ["u v", "a%b", "ü=/"], "n": [1, 2, 3]}))
    found = files_between(folder, after=None, until=1)
    assert sorted(found) == sorted(folder.rglob("*.parquet"))
    assert files_between(folder, after=1, until=1) == []


@pytest.mark.parametrize("name", ["plain", "a b", "Ünï"])
def test_an_instant_that_delta_rs_takes_for_another_is_noticed_whatever_the_folder_is_called(name: str, tmp_path: Path):
    folder = tmp_path / name
    folder.mkdir()
    instants = pa.array([datetime(9999, 12, 31)], pa.timestamp("us"))
    pq.write_table(pa.table({"at": instants}), folder / "old.parquet", use_deprecated_int96_timestamps=True)
    convert_to_deltalake(str(folder))
    assert misread(files(DeltaTable(str(folder))), pa.schema([("at", TIMESTAMP)]))


@pytest.mark.parametrize(
    "name", [*(f"a{c}b" for c in string.punctuation + " ü日\t" if c != "/"), "50%", "a%20b", "a%2Fb"]
)
def test_a_lakehouse_works_in_a_folder_of_any_name_or_says_why_it_cannot(name: str, tmp_path: Path):
    settings = Settings(root=tmp_path / name)
    settings.root.mkdir()
    row = {"path": "a", "document_id": "1", "op": "upsert"}
    if name.startswith("a%2") or name[1] in "[]^|\\\t":
        with pytest.raises(ConfigurationError, match=r"which delta-rs cannot read\. Rename the folder"):
            new_context(settings)
        return
    lake = new_context(settings).lake
    for _ in range(2):
        lake.append_arrow("bronze.documents", [row])
    assert lake.read_arrow("bronze.documents", columns=["path"]).num_rows == 2
    assert lake.few_keys("bronze.documents", "path", ["a"]).num_rows == 2
    assert lake.few_changes("bronze.documents", after=1, until=2, columns=["path"]).num_rows == 1


KEYED = pa.schema([("k", pa.string()), ("n", pa.int64())])
OPS = KEYED.append(pa.field("_op", pa.string()))


def _in_ten_files(folder: Path) -> DeltaTable:
    delta_folder.create(folder, KEYED, (), {"delta.dataSkippingStatsColumns": "k"})
    for digit in string.digits:
        rows = pa.table({"k": [f"{digit}{n:02}" for n in range(20)], "n": range(20)}, schema=KEYED)
        delta_folder.append(folder, delta_folder.in_order(rows, "k"))
    return DeltaTable(str(folder))


def test_a_merge_of_few_keys_reads_the_files_that_may_have_them_and_no_others(tmp_path: Path):
    delta = _in_ten_files(tmp_path)
    changes = [("105", 50, "update"), ("707", 0, "delete"), ("9z", 1, "insert")]
    read = {file for file, first in ((file, _values(file, "k")[0][0]) for file in files(delta)) if first in "17"}
    for file in {*files(delta)} - read:
        file.unlink()  # who reads it fails
    rows = [dict(zip(OPS.names, change, strict=True)) for change in changes]
    _merge(delta, rows)
    now = [file for file in files(DeltaTable(str(tmp_path))) if file.exists()]
    found = {k: n for file in now for k, n in zip(_values(file, "k"), _values(file, "n"), strict=True)}
    assert found == {f"{d}{n:02}": n for d in "17" for n in range(20) if (d, n) != ("7", 7)} | {"105": 50, "9z": 1}


def _merge(delta: DeltaTable, rows: list[dict[str, Any]]) -> None:
    changes = pa.Table.from_pylist(rows, schema=OPS)
    delta_folder.merge(delta, changes, key=["k"], named=delta_folder.keys_to_name(changes["k"]))


@pytest.mark.parametrize("key", ["a''b", "'", "a\\'b", "plain"])
def test_of_two_that_insert_one_key_at_once_the_second_is_refused(key: str, tmp_path: Path):
    _in_ten_files(tmp_path)
    first, second = DeltaTable(str(tmp_path)), DeltaTable(str(tmp_path))
    row = {"k": key, "n": 1, "_op": "insert"}
    _merge(first, [row])
    with pytest.raises(CommitFailedError):
        _merge(second, [row])


def _values(file: Path, column: str) -> list[Any]:
    values: list[Any] = pq.read_table(file, columns=[column])[column].to_pylist()
    return values


@pytest.mark.parametrize("seed", range(6))
def test_a_merge_gives_what_a_dictionary_gives_whatever_its_keys_are(seed: int, tmp_path: Path):
    chance = random.Random(seed)
    known = ["", "'", "it's", "a\\b", "`k`", "ä", "\U0001f642", "\uffff", "a\0b", "z" * 70, None, *map(str, range(300))]
    held = dict.fromkeys(chance.sample(known, 150), 0)
    delta_folder.create(tmp_path, KEYED, (), {"delta.dataSkippingStatsColumns": "k"})
    for part in range(3):
        some = [*held][part::3]
        rows = pa.table({"k": pa.array(some, pa.string()), "n": [0] * len(some)}, schema=KEYED)
        delta_folder.append(tmp_path, delta_folder.in_order(rows, "k"))
    for number, how_many in enumerate((1, 3, 30, 190, 201, 250), start=1):
        changes = []
        for key in chance.sample(known, how_many):
            op = chance.choice(["update", "delete"] if key in held else ["insert"])
            changes.append({"k": key, "n": number, "_op": op})
            if op == "delete":
                del held[key]
            else:
                held[key] = number
        _merge(DeltaTable(str(tmp_path)), changes)
        rows = [row for batch in delta_folder.scan(DeltaTable(str(tmp_path))) for row in batch.to_pylist()]
        assert len(rows) == len(held)
        assert {row["k"]: row["n"] for row in rows} == held
