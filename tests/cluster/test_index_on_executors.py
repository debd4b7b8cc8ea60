"""A standalone cluster, a master and two workers as processes: executors write, and the index is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.postgres_server import postgres_uri  # noqa: F401 - a fixture
from tests.stores.servers import address
from tests.support.standalone import host, standalone

pytestmark = pytest.mark.longest
# A cluster keeps Spark's own settings, which cut a few rows into 200 tasks and a commit log into 50.
_FEW_ROWS = {"spark.sql.shuffle.partitions": "4", "spark.databricks.delta.snapshotPartitions": "2"}
ROOT = Path(__file__).resolve().parents[2]

_DRIVER = """
import json, sys
from pipelines.vector_index.audit import audit
from pipelines.vector_index.state import states
from pipelines.conductor.run import new_context, run_stages
from pipelines.settings.sections import Settings
from tests.support.chunked import INDEX_STAGES, chunk, deliver, runs

settings = Settings(**json.loads(sys.argv[1]))
chunks = [chunk(document, place) for document in range(60) for place in range(50)]
deliver(settings, chunks)
run_stages(new_context(settings), stages=INDEX_STAGES)
deliver(settings, [chunk(1, 100 + n) for n in range(30)], chunks[:20])
run_stages(new_context(settings), stages=INDEX_STAGES)
context = new_context(settings)
(state,) = states(context.lake, "chunks")
result = audit(context, state)
spark = context.lake.spark
infos = spark.sparkContext._jsc.sc().statusStore().executorList(True)
tasks = {infos.apply(i).id(): infos.apply(i).completedTasks() for i in range(infos.size())}
print(json.dumps({
    "equal": result.is_equal, "rows": result.rows, "tasks": tasks,
    "runs": [{k: r[k] for k in ("mode", "inserted", "deleted", "rows", "bytes")} for r in runs(settings)],
}))
spark.stop()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The master's address."""
    with standalone(tmp_path_factory.mktemp("cluster"), host(PYTHONPATH=str(ROOT))) as running:
        yield running.master


@pytest.mark.parametrize("store", ["lance", "pgvector"])
def test_both_executors_write_and_the_index_equals_the_table(store: str, cluster: str, tmp_path: Path, request):
    index = {"store": store}
    if store == "pgvector":
        _, index = address("pgvector", tmp_path, request)
        index = {"store": store, **index}
    (tmp_path / "landing").mkdir()
    settings = {
        "root": str(tmp_path),
        "index": index,
        "embedding": {"model": "tests.support.embedders:Free"},
        "spark": {"master": cluster, "conf": {"spark.executor.memory": "800m", **_FEW_ROWS}},
    }
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, json.dumps(settings)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["equal"], result["rows"]) == (True, 3010)
    workers = {key: tasks for key, tasks in result["tasks"].items() if key != "driver"}
    assert len(workers) == 2
    assert all(tasks > 5 for tasks in workers.values()), workers
    first, second = result["runs"]
    assert (first["mode"], first["inserted"], first["bytes"] > 3000 * 64 * 4) == ("everything", 3000, True)
    assert (second["mode"], second["inserted"], second["deleted"]) == ("changes", 30, 20)
