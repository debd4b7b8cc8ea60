"""Records of a Delta table: silver equals it after a VACUUM, with another table in its place, with bronze put back."""

from __future__ import annotations

import shutil
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.conductor.run import new_context
from tests.support.recorded import now, rows, run, settings_for
from transformations.errors import ConfigurationError


@pytest.mark.long
def test_a_delta_source_is_read_again_if_bronze_was_put_back(tmp_path, spark):
    people = {"format": "delta", "location": "./people", "key": ["id"], "columns": {"id": "bigint", "name": "string"}}
    settings = settings_for(tmp_path, people=people)
    place = str(tmp_path / "people")
    feed = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(place, pa.table({"id": [1, 2], "name": ["a", "b"]}), configuration=feed)
    run(settings)
    bronze = new_context(settings).lake.folder("bronze.records_people")
    shutil.copytree(bronze, tmp_path / "copy")
    DeltaTable(place).delete("id = 1")
    write_deltalake(place, pa.table({"id": [3], "name": ["c"]}), mode="append")
    run(settings)
    assert set(now(settings, "people")) == {2, 3}
    shutil.rmtree(bronze)
    (tmp_path / "copy").rename(bronze)
    run(settings)
    found = {(row["id"], row["_op"]) for row in rows(settings, "bronze.records_people", "id", "_op")}
    assert found == {(1, "upsert"), (1, "delete"), (2, "upsert"), (3, "upsert")}
    assert set(now(settings, "people")) == {2, 3}
    assert run(settings) == {}


@pytest.mark.longest
def test_a_delta_table_by_its_change_feed_re_created_vacuumed_and_with_another_column(tmp_path, spark):
    columns = {"id": "bigint", "name": "string"}
    settings = settings_for(
        tmp_path,
        people={"format": "delta", "location": "./people", "key": ["id"], "columns": columns, "evolution": "evolve"},
    )
    path = str(settings.path("people"))

    def create(select: str) -> None:
        writer = spark.sql(select).write.format("delta").mode("error").option("delta.enableChangeDataFeed", "true")
        writer.save(path)

    def found() -> dict[Any, Any]:
        return {key: row["name"] for key, row in now(settings, "people").items()}

    with pytest.raises(ConfigurationError, match="no Delta table at"):
        run(settings)
    create("SELECT id, concat('n', id) AS name FROM range(4)")
    run(settings)
    assert found() == {0: "n0", 1: "n1", 2: "n2", 3: "n3"}
    spark.sql(f"UPDATE delta.`{path}` SET name = 'changed' WHERE id = 1")
    spark.sql(f"DELETE FROM delta.`{path}` WHERE id = 2")
    spark.sql(f"UPDATE delta.`{path}` SET name = 'again' WHERE id = 1")
    assert run(settings)["ingest-records"]["records"] == 3
    assert found() == {0: "n0", 1: "again", 3: "n3"}
    told = [row for row in rows(settings, "silver.records_people_history") if row["id"] == 1 and row["_marks"] is None]
    assert sorted((row["name"], row["is_current"]) for row in told) == [
        ("again", True),
        ("changed", False),
        ("n1", False),
    ]
    assert run(settings) == {}

    # Another column in mid-stream.
    spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMNS (city string)")
    spark.sql(f"INSERT INTO delta.`{path}` VALUES (4, 'n4', 'Ulm')")
    run(settings)
    assert now(settings, "people")[4]["city"] == "Ulm"

    # Versions that were not read yet are vacuumed away.
    spark.sql(f"DELETE FROM delta.`{path}` WHERE id = 0")
    spark.sql(f"UPDATE delta.`{path}` SET name = 'after' WHERE id = 3")
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    try:
        spark.sql(f"VACUUM delta.`{path}` RETAIN 0 HOURS")
    finally:
        spark.conf.unset("spark.databricks.delta.retentionDurationCheck.enabled")
    shutil.rmtree(settings.path("people") / "_change_data", ignore_errors=True)
    run(settings)
    assert found() == {1: "again", 3: "after", 4: "n4"}

    # Another table in its place, at a lower version.
    shutil.rmtree(path)
    create("SELECT id, concat('second ', id) AS name FROM range(3, 6)")
    run(settings)
    assert found() == {3: "second 3", 4: "second 4", 5: "second 5"}
    assert run(settings) == {}

    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')")
    with pytest.raises(ConfigurationError, match="keeps no change feed"):
        run(settings)
