"""The bundle's job, run task by task as Databricks runs it: two deliveries, and the index equals its table."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.machine.models_wheel import write_models_wheel
from tests.stores.databricks_double import TOKEN, AiSearchDouble
from tests.support.connect import ConnectServer, connect_server
from tests.support.job_runner import JobRunner, table

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
JOB = "documents_loop"
# The stages that one changed file and one that is gone go through.
CHANGED = ("ingest_documents", "refine_documents", "chunk_documents", "embed_chunks", "sync_index")
# Serverless compute has no cache before environment version 5: it says so when a frame is persisted.
NO_CACHE = """
from pyspark.errors import AnalysisException
from pyspark.sql.connect.dataframe import DataFrame

def refuse(self, *_):
    calls["refused frames"] += 1
    raise AnalysisException("[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported on serverless compute.")

DataFrame.persist = DataFrame.cache = refuse
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where Python finds the wheels of the job's environment: this clone, and the installed wheel of models."""
    folder = tmp_path_factory.mktemp("models")
    wheel = write_models_wheel(folder)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
    subprocess.run([*command, str(folder / "site"), str(wheel)], check=True)
    return os.pathsep.join([str(ROOT), str(folder / "site")])


@pytest.fixture(scope="module")
def workspace() -> Iterator[str]:
    """The address of a workspace that has the endpoint of the bundle."""
    double = AiSearchDouble()
    double.endpoints = {"ada_index": "STANDARD"}
    with double.serve() as url:
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, path: str, workspace: str) -> Iterator[ConnectServer]:
    """Its Python workers have an empty HOME, and so no models in a cache."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "home").mkdir()
    own = {"HOME": str(folder / "home"), "LAKELOOP_CACHE": "", "PYTHONPATH": path}
    with connect_server(folder, **own, DATABRICKS_HOST=workspace, DATABRICKS_TOKEN=TOKEN) as server:
        yield server


@pytest.mark.parametrize(
    "prelude", [NO_CACHE, pytest.param("", marks=pytest.mark.longest)], ids=["without a cache", "with one"]
)
def test_two_deliveries_through_every_task(
    server: ConnectServer, workspace: str, path: str, tmp_path: Path, prelude: str
):
    runner = JobRunner(
        ROOT,
        "dev",
        tmp_path,
        session={"SPARK_REMOTE": server.remote, "PYSPARK_PYTHON": sys.executable},
        environment={"PYTHONPATH": path, "DATABRICKS_HOST": workspace, "DATABRICKS_TOKEN": TOKEN},
        prelude=prelude,
    )
    for schema in runner.schemas:
        server.python(f"spark.sql('CREATE SCHEMA `{schema}`')")
    try:
        landing = runner.volume("landing")
        for number in range(4):
            (landing / f"{number}.md").write_text(f"# Pump {number}\n\nIts seal is number {number}.\n")
        (landing / "broken.pdf").write_bytes(b"%PDF-1.4 cut short")
        first = runner.run(JOB)
        print(table(first))
        assert {key: run.exit_code for key, run in first.items()} == dict.fromkeys(first, 0), _errors(first)
        assert runner.command("verify", job=JOB)["verified"] is True
        (landing / "1.md").write_text("# Pump 1\n\nIts seal is of steel.\n")
        (landing / "2.md").unlink()
        second = runner.run(JOB)
        print(table(second))
        assert {key: run.exit_code for key, run in second.items()} == dict.fromkeys(first, 0), _errors(second)
        verified = runner.command("verify", job=JOB)
        assert (verified["verified"], verified["documents"], verified["index_rows"]) == (True, 3, 3)
        changed = sum((second[key].calls for key in CHANGED), Counter())
        assert 50 <= changed["executes"] <= 115, "each call is a round trip that is paid for"
        assert 25 <= changed["analyses"] <= 75
        refused = sum(run.calls["refused frames"] for run in [*first.values(), *second.values()])
        assert (refused > 0) == bool(prelude)
        if not prelude:
            idle = runner.run(JOB)
            print(table(idle))
            calls = sum((run.calls for run in idle.values()), Counter())
            assert 20 <= calls["executes"] <= 125
            assert 1 <= calls["analyses"] <= 16
    finally:
        for schema in runner.schemas:
            server.python(f"spark.sql('DROP SCHEMA `{schema}` CASCADE')")


def _errors(runs) -> str:
    return "\n".join(f"{key}: {run.attempts[-1].stderr[-3000:]}" for key, run in runs.items() if run.exit_code)
