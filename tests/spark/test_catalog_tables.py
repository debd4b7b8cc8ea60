"""Tables of a catalog: one that an older lakeloop made is read, and gets the columns that it lacks."""

from __future__ import annotations

from pipelines.flow.states import STAGE_RUNS
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.settings.sections import Settings


def test_a_table_of_an_older_lakeloop_is_read_and_gets_the_columns_that_it_lacks(workspace: Settings, spark):
    settings = workspace.model_copy(update={"catalog": "spark_catalog", "schema_prefix": "older_"})
    spark.sql("CREATE SCHEMA older_ops")
    try:
        name = "`spark_catalog`.`older_ops`.`stage_runs`"
        spark.sql(f"CREATE TABLE {name} (run_id STRING, stage STRING) USING delta")
        spark.sql(f"INSERT INTO {name} VALUES ('1', 'monitor')")
        lake = open_lakehouse(settings, spark=lambda: spark)
        columns = ["run_id", "subject", "counts"]
        assert lake.read_arrow(STAGE_RUNS, columns=columns).to_pylist() == [
            {"run_id": "1", "subject": None, "counts": None}
        ]
        lake.append_arrow(STAGE_RUNS, [{"run_id": "2", "subject": "orders", "counts": [("rows", 1)]}])
        assert lake.columns(STAGE_RUNS) == lake.spec(STAGE_RUNS).schema, (
            "instants too, as a feature table asks for them"
        )
        rows = lake.read_arrow(STAGE_RUNS, columns=columns).sort_by("run_id").to_pylist()
        assert [row["subject"] for row in rows] == [None, "orders"]
        head = lake.head(STAGE_RUNS)
        assert open_lakehouse(settings, spark=lambda: spark).ensure(STAGE_RUNS) == head, "nothing more is to be added"
    finally:
        spark.sql("DROP SCHEMA older_ops CASCADE")
