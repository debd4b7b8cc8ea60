"""Tables of a catalog: one that an older lakeloop made is read, and gets the columns that it lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from pipelines.flow.states import STAGE_RUNS
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.table_log import commit_id, unread_from
from pipelines.lakehouse.tables import Lakehouse
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


def test_a_table_that_is_not_there_has_no_rows_until_it_is_made_and_one_that_goes_is_an_error(
    workspace: Settings, spark
):
    settings = workspace.model_copy(update={"catalog": "spark_catalog", "schema_prefix": "absent_"})
    name = "`spark_catalog`.`absent_ops`.`stage_runs`"
    spark.sql("CREATE SCHEMA absent_ops")
    try:
        lake, another = (open_lakehouse(settings, spark=lambda: spark) for _ in range(2))
        assert lake.read_arrow(STAGE_RUNS).num_rows == 0
        with pytest.raises(AnalysisException, match="TABLE_OR_VIEW_NOT_FOUND"):
            list(lake.read_batches(STAGE_RUNS, version=0))
        another.append_arrow(STAGE_RUNS, [{"run_id": "1"}])
        # Noted as absent, and asked for its rows, it is looked for once more.
        assert lake.few_rows(STAGE_RUNS).num_rows == 1
        lake.append_arrow(STAGE_RUNS, [{"run_id": "2"}])
        assert sorted(lake.read_arrow(STAGE_RUNS)["run_id"].to_pylist()) == ["1", "2"]
        spark.sql(f"DROP TABLE {name}")
        with pytest.raises(AnalysisException, match="TABLE_OR_VIEW_NOT_FOUND"):
            lake.read_arrow(STAGE_RUNS)
        lake.refresh()
        assert lake.read_arrow(STAGE_RUNS).num_rows == 0
    finally:
        spark.sql("DROP SCHEMA absent_ops CASCADE")


@pytest.mark.long
def test_a_log_is_read_once_until_something_is_committed(workspace: Settings, spark, monkeypatch: pytest.MonkeyPatch):
    settings = workspace.model_copy(update={"catalog": "spark_catalog", "schema_prefix": "logs_"})
    asked: list[str] = []

    def sql(self: SparkSession, query: str, **named: object) -> DataFrame:
        asked.append(" ".join(query.split()[:2]))
        return plain(self, query, **named)

    def calls() -> list[str]:
        found = [call for call in asked if call.startswith("DESCRIBE")]
        asked.clear()
        return found

    def opened() -> Lakehouse:
        return open_lakehouse(settings, spark=lambda: spark)

    spark.sql("CREATE SCHEMA logs_ops")
    plain = SparkSession.sql
    monkeypatch.setattr(SparkSession, "sql", sql)
    try:
        lake, other = opened(), opened()
        lake.append_arrow(STAGE_RUNS, [{"run_id": "1"}])
        first = lake.head(STAGE_RUNS)
        assert first is not None
        assert first.version == 1
        assert sorted(calls()) == ["DESCRIBE DETAIL", "DESCRIBE HISTORY"]
        mark = {"table_id": first.table_id, "version": 1, "commit": commit_id(lake, STAGE_RUNS, 1) or ""}
        assert unread_from(lake, STAGE_RUNS, version=1, commit=mark["commit"], until=1) == 1
        assert calls() == []
        lake.append_arrow(STAGE_RUNS, [{"run_id": "2"}])
        assert lake.head(STAGE_RUNS) == replace(first, version=2)
        assert calls() == ["DESCRIBE HISTORY"], "the commit that was known before is in the log: it is the same table"
        other.append_arrow(STAGE_RUNS, [{"run_id": "3"}])
        assert lake.head(STAGE_RUNS) == replace(first, version=2)
        lake.refresh()
        assert lake.head(STAGE_RUNS) == replace(first, version=3)
        calls()
        # A later process that knows a commit from ops.stage_state.
        later = opened()
        later.recall(STAGE_RUNS, **mark)
        later.look_at([STAGE_RUNS, "ops.file_looks"])
        assert later.head(STAGE_RUNS) == replace(first, version=3)
        assert later.head("ops.file_looks") is None
        assert calls() == ["DESCRIBE HISTORY", "DESCRIBE HISTORY"]
        for number in range(20):
            later.append_arrow(STAGE_RUNS, [{"run_id": str(number)}])
        assert [commit["version"] for commit in later.history(STAGE_RUNS, since=2)] == [*range(23, 1, -1)]
        assert len(calls()) == 2, "the newest commits, then all"
        again = opened()
        spark.sql(f"DROP TABLE {lake.identifier(STAGE_RUNS)}")
        again.append_arrow(STAGE_RUNS, [{"run_id": "1"}])
        again.recall(STAGE_RUNS, **mark)
        anew = again.head(STAGE_RUNS)
        assert anew is not None
        assert anew.version == 1
        assert anew.table_id != first.table_id, "another table of the name has other commits"
    finally:
        monkeypatch.undo()
        spark.sql("DROP SCHEMA logs_ops CASCADE")
