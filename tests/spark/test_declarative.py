"""The declared datasets of pipelines/declarative: real runs of `spark-pipelines`, and what Databricks is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from expectations.rules.rules import Rule
from expectations.tables.documents import DOCUMENT_RULES
from expectations.targets.declared import by_decorator, expected, has_expectations, kept, refused
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from tests.support.connect import ROOT, ConnectServer, connect_server

RULES = (Rule("is_small", "value < 10", "warn"), Rule("is_even", "value % 2 = 0"), Rule("is_set", "id > ''", "fail"))
STAGES = [stage_named(command) for command in ("ingest-documents", "refine-documents")]


class WithExpectations:
    """What Databricks adds to `pyspark.pipelines`, as far as its documentation says; it notes what it is told."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, str]] = {}

    def _note(self, name: str, predicates: dict[str, str]) -> Any:
        self.told[name] = predicates
        return lambda definition: definition

    def expect_all(self, predicates: dict[str, str]) -> Any:
        return self._note("expect_all", predicates)

    def expect_all_or_drop(self, predicates: dict[str, str]) -> Any:
        return self._note("expect_all_or_drop", predicates)

    def expect_all_or_fail(self, predicates: dict[str, str]) -> Any:
        return self._note("expect_all_or_fail", predicates)


def test_a_platform_with_expectations_is_told_of_each_rule_and_judges_itself(spark):
    platform = WithExpectations()
    rows = spark.createDataFrame([("a", 2), ("b", 13)], "id string, value int")
    definition = expected(platform, rules=RULES)(lambda: kept(platform, rows, rules=RULES, table="t"))
    assert platform.told == by_decorator(RULES)
    assert platform.told["expect_all_or_drop"] == {"is_even": "coalesce((\nvalue % 2 = 0\n), false)"}
    assert definition().count() == 2, "it drops the rows itself"


def test_open_source_spark_has_no_expectations_so_the_split_decides_and_fail_stops(spark):
    from pyspark import pipelines as dp
    from pyspark.errors import PySparkException

    assert not has_expectations(dp)
    rows = spark.createDataFrame([("a", 2), ("b", 13), ("c", 12)], "id string, value int")

    def definition() -> Any:
        return kept(dp, rows, rules=RULES, table="t")

    assert expected(dp, rules=RULES)(definition) is definition
    assert [row["id"] for row in definition().collect()] == ["a", "c"]
    assert [(row["id"], row["failed_rules"]) for row in refused(rows, rules=RULES).collect()] == [
        ("b", ["is_small", "is_even"])
    ]
    broken = rows.union(spark.createDataFrame([("", 2)], rows.schema))
    with pytest.raises(PySparkException, match=r"rule 'is_set' \(fail\) is broken in t: repair its source"):
        kept(dp, broken, rules=RULES, table="t").collect()


def test_the_folder_of_definitions_holds_nothing_else():
    files = [p for p in (ROOT / "pipelines/declarative").rglob("*") if "__pycache__" not in p.parts and p.is_file()]
    assert {p.suffix for p in files} == {".py"}
    assert "__init__" not in {p.stem for p in files}
    assert len({p.stem for p in files}) == len(files)


@pytest.mark.long
def test_real_runs_of_spark_pipelines_give_what_the_stage_gives(workspace: Settings, spark, tmp_path: Path):
    """A later run reads only what is new; every arrival is in one of the two tables, refused by the same rules."""
    (tmp_path / "lakeloop.yml").write_text("refine: {languages: [en, und], other_languages: quarantine}")
    workspace, landing = load_settings(tmp_path / "lakeloop.yml"), workspace.landing_path
    for name, content in {
        "a.md": b"# A\n\nText.",
        "b.txt": b"Plain text.",
        "empty.md": b"",
        "bin.txt": b"\0\1" * 99,
        "de.md": "# Öl\n\nDie Pumpe wird nach jedem Lauf geprüft, und das Öl wird gewechselt.".encode(),
    }.items():
        (landing / name).write_bytes(content)
    run_stages(new_context(workspace), stages=STAGES)
    spec = tmp_path / "spark-pipeline.yml"
    spec.write_text(
        yaml.safe_dump(
            {
                "name": "documents",
                "storage": (tmp_path / "storage").as_uri(),
                "database": "silver",
                "libraries": [{"glob": {"include": "definitions/**"}}],
                "configuration": {"lakeloop.settings": str(tmp_path / "lakeloop.yml")},
            }
        )
    )
    (tmp_path / "definitions").symlink_to(ROOT / "pipelines/declarative")
    folder = new_context(workspace).lake.folder("bronze.documents")
    with connect_server(tmp_path) as server:
        server.python(
            "spark.sql('CREATE SCHEMA bronze'); spark.sql('CREATE SCHEMA silver')\n"
            f"spark.sql('CREATE TABLE bronze.documents USING delta LOCATION \"{folder}\"')"
        )
        update(server, spec)
        assert declared(server) == by_stage(workspace)
        assert set(declared(server)[1].values()) == {("is_not_empty",), ("is_text",), ("is_in_language",)}

        (landing / "empty.md").write_text("# Mended\n\nNow there is text.")
        (landing / "c.md").write_bytes(b"# C\n\ncaf\xe9")
        run_stages(new_context(workspace), stages=STAGES)
        update(server, spec)
        assert rows_of(server, "documents_parsed").num_rows == 7, "each arrival is parsed once"
        valid, out = declared(server)
        now_valid, now_refused = by_stage(workspace)
        assert valid == now_valid
        assert {path: rules for path, rules in out.items() if path != "empty.md"} == now_refused
        assert out["empty.md"] == ("is_not_empty",), "arrivals stay: the stage's quarantine knows that it was mended"


def update(server: ConnectServer, spec: Path) -> None:
    """Run the pipeline; once more where a dataset started beside the one that it reads, as Spark 4.2 was seen to do."""
    for _ in range(2):
        server.pipelines("run", "--spec", str(spec))
        judged = sum(rows_of(server, table).num_rows for table in ("documents_valid", "documents_refused"))
        if judged == rows_of(server, "documents_parsed").num_rows:
            return
    raise AssertionError("an arrival was parsed and is neither valid nor refused, two runs later")


def declared(server: ConnectServer) -> tuple[set[str], dict[str, tuple[str, ...]]]:
    out = rows_of(server, "documents_refused").to_pylist()
    valid = rows_of(server, "documents_valid")["path"].to_pylist()
    assert len(valid) == len(set(valid)), "an arrival was read twice"
    return set(valid), {row["path"]: tuple(row["failed_rules"]) for row in out}


def by_stage(settings: Settings) -> tuple[set[str], dict[str, tuple[str, ...]]]:
    lake = new_context(settings).lake
    out = lake.read_arrow("silver.documents_quarantine").to_pylist()
    valid = set(lake.read_arrow("silver.documents", columns=["path"])["path"].to_pylist())
    return valid, {row["path"]: tuple(row["failed_rules"]) for row in out if row["replayed_at"] is None}


def rows_of(server: ConnectServer, table: str) -> Any:
    import pyarrow as pa
    from deltalake import DeltaTable

    return pa.table(DeltaTable(str(server.warehouse / "silver.db" / table)).scan())


def test_the_rules_of_documents_are_sql_so_every_platform_can_be_told():
    assert sum(len(of) for of in by_decorator(DOCUMENT_RULES).values()) == len(DOCUMENT_RULES)
