"""A number of events in; the point-in-time join of three feature tables against DuckDB's ASOF join out.

    python -m benchmarks.as_of_join [--events 10000000] [--rounds 3] [--sorted] [--folder DIR]

Both read the same Parquet files and write theirs, with two threads; the start of processes and of Spark is not counted.
The features, a tenth as many rows as events, go to the workers (broadcast=True); with --sorted they and the events are
sorted together. Features are known when they happen, since DuckDB's join knows one time only. The sums of the joined
columns must agree. The first round also compiles Spark's code.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ENTITIES = {"carrier": 20, "airport": 300, "route": 4000}
_SECONDS, _FIRST = 365 * 24 * 3600, 1_700_000_000
_ROWS_A_FILE = 2_500_000

DUCKDB = """
import duckdb, json, sys, time
folder, entities = sys.argv[1], sys.argv[2:]
connection = duckdb.connect()
connection.execute("SET threads = 2; SET enable_progress_bar = false")
begun = time.perf_counter()
joins = " ".join(
    f"ASOF LEFT JOIN '{folder}/{e}/*.parquet' {e}_t ON e.{e} = {e}_t.{e} AND e.scheduled_at >= {e}_t.event_at"
    for e in entities
)
values = ", ".join(f"{e}_t.{e}_delay" for e in entities)
connection.execute(
    f"COPY (SELECT e.*, {values} FROM '{folder}/events/*.parquet' e {joins}) TO '{folder}/duckdb.parquet'"
)
seconds = time.perf_counter() - begun
sums = connection.execute(
    "SELECT count(*), " + ", ".join(f"sum({e}_delay)" for e in entities) + f" FROM '{folder}/duckdb.parquet'"
).fetchone()
print(json.dumps({"seconds": seconds, "sums": [int(s) for s in sums]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.as_of_join")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sorted", action="store_true", help="by one sort, as for features that fit into no memory")
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lakeloop-bench-", dir=arguments.folder))
    try:
        make(folder, events=arguments.events)
        spark = session(folder)
        print("| round | DuckDB s | lakeloop s | ratio |\n| --- | --- | --- | --- |", flush=True)
        for number in range(arguments.rounds):
            theirs = run_duckdb(folder)
            ours = run_lakeloop(spark, folder, broadcast=not arguments.sorted)
            if ours["sums"] != theirs["sums"]:
                raise SystemExit(f"the results differ: {ours['sums']} and {theirs['sums']}")
            ratio = ours["seconds"] / theirs["seconds"]
            print(f"| {number} | {theirs['seconds']:.1f} | {ours['seconds']:.1f} | {ratio:.2f} |", flush=True)
        spark.stop()
    finally:
        shutil.rmtree(folder)


def make(folder: Path, *, events: int) -> None:
    """Events in random order, and for each kind of entity a tenth as many feature rows; instants are distinct."""
    chance = np.random.default_rng(0)
    for number, start in enumerate(range(0, events, _ROWS_A_FILE)):
        count = min(_ROWS_A_FILE, events - start)
        keys = {name: chance.integers(size, size=count) for name, size in ENTITIES.items()}
        columns = {"event_id": np.arange(start, start + count), **keys, "scheduled_at": _instants(chance, count)}
        _write(folder / "events" / f"{number}.parquet", columns)
    for name, size in ENTITIES.items():
        count = events // 10
        event_at = _instants(chance, count)
        columns = {name: chance.integers(size, size=count), "event_at": event_at, "known_at": event_at}
        _write(folder / name / "0.parquet", columns | {f"{name}_delay": chance.integers(-20, 200, size=count)})


def _instants(chance: np.random.Generator, count: int) -> pa.Array:
    micros = _FIRST * 1_000_000 + chance.integers(_SECONDS * 1_000_000, size=count)
    return pa.array(micros, pa.timestamp("us", tz="UTC"))


def _write(path: Path, columns: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path)


def session(folder: Path) -> Any:
    """A session as a user with much data would set it: 6 GB of heap, generated code, both of the JVM's compilers."""
    from pipelines.lakehouse.session import get_spark
    from pipelines.settings.sections import Settings

    conf = {
        "spark.sql.codegen.wholeStage": "true",
        "spark.sql.codegen.factoryMode": "FALLBACK",
        "spark.sql.shuffle.partitions": "8",
        "spark.sql.files.maxRecordsPerFile": "0",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "50000",
        "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
        "spark.local.dir": str(folder),
    }
    return get_spark(Settings(root=folder, spark={"driver_memory": "6g", "conf": conf}))


def run_duckdb(folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", DUCKDB, folder, *ENTITIES],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_lakeloop(spark: Any, folder: Path, *, broadcast: bool) -> dict[str, Any]:
    from pyspark.sql import functions as F

    from transformations.features.point_in_time import Features, as_of_join

    begun = time.perf_counter()
    tables = [
        Features(spark.read.parquet(str(folder / name)), entity=[name], columns=[f"{name}_delay"], broadcast=broadcast)
        for name in ENTITIES
    ]
    joined = as_of_join(spark.read.parquet(str(folder / "events")), *tables, at="scheduled_at")
    joined.write.mode("overwrite").parquet(str(folder / "lakeloop"))
    seconds = time.perf_counter() - begun
    written = spark.read.parquet(str(folder / "lakeloop"))
    sums = written.agg(F.count("*"), *(F.sum(f"{name}_delay") for name in ENTITIES)).first()
    return {"seconds": seconds, "sums": [int(s) for s in sums]}


if __name__ == "__main__":
    main()
