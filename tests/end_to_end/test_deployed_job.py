"""The bundle's job, run task by task as Databricks runs it: two deliveries, and the index equals its table."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.machine.models_wheel import write_models_wheel
from tests.stores.databricks_double import TOKEN, AiSearchDouble
from tests.support.clients import CLIENTS, DEVELOPMENT, python_with
from tests.support.connect import ConnectServer, connect_server
from tests.support.job_runner import JobRunner, table
from tests.support.wheel import build

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


# What a task runs with, and what its session refuses; the first is in CI.
WAYS = {
    "development, without a cache": (DEVELOPMENT, NO_CACHE),
    "development, with one": (DEVELOPMENT, ""),
    **{f"{client}, without a cache": (client, NO_CACHE) for client in CLIENTS},
}


@dataclass(frozen=True)
class Site:
    """A Python with a Spark client, where it finds the wheels of the job's environment, and what it calls."""

    python: Path
    path: str
    workspace: str
    server: ConnectServer


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What a deployment uploads: lakeloop, and its embedding model."""
    folder = tmp_path_factory.mktemp("wheels")
    return [build(folder), write_models_wheel(folder)]


@pytest.fixture(scope="module")
def workspace() -> Iterator[str]:
    """The address of a workspace that has the endpoint of the bundle."""
    double = AiSearchDouble()
    double.endpoints = {"ada_index": "STANDARD"}
    with double.serve() as url:
        yield url


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheels: list[Path], workspace: str
) -> Iterator[Site]:
    """The server's Python workers have an empty HOME, and so no models in a cache."""
    folder, python = tmp_path_factory.mktemp("server"), python_with(request.param)
    (folder / "home").mkdir()
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", folder / "site"]
    subprocess.run([*install, *wheels], check=True)
    path = str(folder / "site")
    own = {"HOME": str(folder / "home"), "LAKELOOP_CACHE": "", "PYTHONPATH": path, "PYSPARK_PYTHON": str(python)}
    with connect_server(folder, **own, DATABRICKS_HOST=workspace, DATABRICKS_TOKEN=TOKEN) as server:
        yield Site(python, path, workspace, server)


@pytest.mark.parametrize(
    ("site", "prelude"),
    [pytest.param(*WAYS[name], id=name, marks=pytest.mark.longest if of else ()) for of, name in enumerate(WAYS)],
    indirect=["site"],
)
def test_two_deliveries_through_every_task(site: Site, tmp_path: Path, prelude: str):
    runner = JobRunner(
        ROOT,
        "dev",
        tmp_path,
        session={"SPARK_REMOTE": site.server.remote, "PYSPARK_PYTHON": str(site.python)},
        environment={"PYTHONPATH": site.path, "DATABRICKS_HOST": site.workspace, "DATABRICKS_TOKEN": TOKEN},
        python=site.python,
        prelude=prelude,
    )
    server = site.server
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
        assert 5 <= changed["analyses"] <= 25
        assert 20 <= changed["configurations"] <= 55
        refused = sum(run.calls["refused frames"] for run in [*first.values(), *second.values()])
        assert (refused > 0) == bool(prelude)
        if not prelude:
            idle = runner.run(JOB)
            print(table(idle))
            calls = sum((run.calls for run in idle.values()), Counter())
            assert 20 <= calls["executes"] <= 125
            assert 1 <= calls["analyses"] <= 12
    finally:
        for schema in runner.schemas:
            server.python(f"spark.sql('DROP SCHEMA `{schema}` CASCADE')")


def _errors(runs) -> str:
    return "\n".join(f"{key}: {run.attempts[-1].stderr[-3000:]}" for key, run in runs.items() if run.exit_code)
