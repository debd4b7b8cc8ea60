"""Tables as Python sees them: versions that are not there, and columns that came later."""

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import lakeloop
from pipelines.conductor.run import new_context


@pytest.mark.parametrize("version", [-1, 1, 99])
def test_a_version_that_is_not_there_is_an_error_that_says_which_are(tmp_path: Path, version: int) -> None:
    (tmp_path / "lakeloop.yml").write_text("{}\n", encoding="utf-8")
    workspace = lakeloop.open(tmp_path)
    new_context(workspace.settings).lake.ensure("silver.documents")
    table = workspace.tables["silver.documents"]
    assert table.to_arrow(version=0).num_rows == 0
    for read in (table.to_arrow, table.to_pandas, table.to_spark):
        with pytest.raises(lakeloop.LakeloopError, match=f"no version {version}: its versions are 0 to 0"):
            read(version=version)


def test_columns_that_came_since_the_table_was_first_read_are_read(tmp_path: Path) -> None:
    (tmp_path / "lakeloop.yml").write_text("{}\n", encoding="utf-8")
    folder, workspace = str(tmp_path / "lakehouse/my/t"), lakeloop.open(tmp_path)
    write_deltalake(folder, pa.table({"id": [1]}))
    assert workspace.tables["my.t"].to_arrow().to_pylist() == [{"id": 1}]
    write_deltalake(folder, pa.table({"id": [2], "more": ["x"]}), mode="append", schema_mode="merge")
    rows = sorted(workspace.tables["my.t"].to_arrow().to_pylist(), key=lambda row: row["id"])
    assert rows == [{"id": 1, "more": None}, {"id": 2, "more": "x"}]
    assert workspace.tables["my.t"].to_arrow(version=0).to_pylist() == [{"id": 1, "more": None}]


def test_the_history_and_the_change_feed_of_a_table_are_frames(tmp_path: Path) -> None:
    (tmp_path / "lakeloop.yml").write_text("{}\n", encoding="utf-8")
    folder, workspace = str(tmp_path / "lakehouse/my/t"), lakeloop.open(tmp_path)
    rows = pa.table({"id": [1, 2], "text": ["a", "b"]})
    write_deltalake(folder, rows, configuration={"delta.enableChangeDataFeed": "true"})
    write_deltalake(folder, pa.table({"id": [3], "text": ["c"]}), mode="append")
    DeltaTable(folder).update(updates={"text": "'B'"}, predicate="id = 2")
    DeltaTable(folder).delete("id = 1")
    table = workspace.tables["my.t"]
    history = table.history()
    assert history["version"].tolist() == [3, 2, 1, 0]
    assert history["operation"].tolist()[:3] == ["DELETE", "UPDATE", "WRITE"]
    assert str(history["at"].dtype).endswith("UTC]")
    changes = table.changes()
    assert changes["_commit_version"].tolist() == [1, 2, 2, 3]
    assert set(zip(changes["_commit_version"], changes["_change_type"], changes["text"], strict=True)) == {
        (1, "insert", "c"),
        (2, "update_preimage", "b"),
        (2, "update_postimage", "B"),
        (3, "delete", "a"),
    }
    assert set(table.changes(after=1, until=2)["text"]) == {"b", "B"}
    assert table.changes(after=3).empty
    for wrong in ({"after": 4}, {"until": 9}, {"after": -1}):
        with pytest.raises(lakeloop.LakeloopError, match="has no version"):
            table.changes(**wrong)


def test_a_table_without_a_change_feed_says_so(tmp_path: Path) -> None:
    (tmp_path / "lakeloop.yml").write_text("{}\n", encoding="utf-8")
    write_deltalake(str(tmp_path / "lakehouse/my/t"), pa.table({"id": [1]}))
    with pytest.raises(lakeloop.LakeloopError, match=r"my\.t keeps no change feed"):
        lakeloop.open(tmp_path).tables["my.t"].changes()
