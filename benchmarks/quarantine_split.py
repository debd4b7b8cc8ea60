"""A number of rows in; the quarantine split with ten rules against one plain filter by the same ten, out.

    python -m benchmarks.quarantine_split [--rows 10000000] [--rounds 3] [--folder DIR]

The rows are Parquet of eight columns; 2 in 100 break at least one rule. Timed over the same files, in turns:

    filter     rows.where(all ten predicates)                          what one would write without a quarantine
    judge      every row with `failed_rules`                           what a stage persists and counts
    split      every row with `failed_rules`, written in one pass to two folders, the valid and the refused
    two sides  `split`: the valid rows, then the refused ones          two passes, each over the files

The sink `noop` computes every column and writes nothing, the other one writes Parquet. Each pass is compared with the
filter to its own sink. Counts must agree.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expectations.rules.rules import Rule, all_hold, is_refused, split, with_failed_rules

_ROWS_A_FILE = 1_250_000
RULES = (
    Rule("has_id", "id IS NOT NULL AND id >= 0"),
    Rule("has_name", "length(trim(name)) > 0"),
    Rule("has_known_carrier", "carrier IN ('AA', 'B6', 'DL', 'EV', 'MQ', 'UA', 'US', 'WN')"),
    Rule("has_price", "price > 0 AND NOT isnan(price)"),
    Rule("is_below_limit", "price < 1e6"),
    Rule("has_quantity", "quantity BETWEEN 1 AND 1000"),
    Rule("is_after_1970", "happened_at >= TIMESTAMP '1970-01-01'"),
    Rule("is_stored_later", "stored_at >= happened_at"),
    Rule("has_route", "origin <> name"),
    Rule("has_airport", "origin RLIKE '^[A-Z]{3}$'"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quarantine_split")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lakeloop-bench-", dir=arguments.folder))
    try:
        make(folder / "rows", rows=arguments.rows)
        spark = session(folder)
        rows = spark.read.parquet(str(folder / "rows"))
        check(rows)
        passes = {
            f"{name}, {sink}": (name, sink)
            for sink in ("noop", "parquet")
            for name in PASSES
            if (name, sink) != ("split", "noop")
        }
        seconds: dict[str, list[float]] = {label: [] for label in passes}
        for number in range(arguments.rounds + 1):  # the first one warms up
            for label, (name, sink) in passes.items():
                taken = timed(lambda name=name, sink=sink: PASSES[name](rows, write_to(sink, folder / "out")))
                shutil.rmtree(folder / "out", ignore_errors=True)
                if number:
                    seconds[label].append(taken)
        print("| pass | seconds, median | of the filter to the same sink |\n| --- | --- | --- |")
        for label, (_, sink) in passes.items():
            median, plain = float(np.median(seconds[label])), float(np.median(seconds[f"filter, {sink}"]))
            print(f"| {label} | {median:.2f} | {median / plain:.2f} |", flush=True)
        spark.stop()
    finally:
        shutil.rmtree(folder)


def make(folder: Path, *, rows: int) -> None:
    chance = np.random.default_rng(0)
    carriers = np.array(["AA", "B6", "DL", "EV", "MQ", "UA", "US", "WN"])
    airports = np.array([a + b + c for a in "ABCDE" for b in "KLMNO" for c in "VWXYZ"])
    folder.mkdir()
    for number, start in enumerate(range(0, rows, _ROWS_A_FILE)):
        count = min(_ROWS_A_FILE, rows - start)
        happened = 1_700_000_000_000_000 + chance.integers(10**13, size=count)
        price = chance.gamma(2, 100, count) + 0.01
        price[chance.random(count) < 0.005] = -1
        price[chance.random(count) < 0.005] = np.nan
        stored = happened + chance.integers(10**9, size=count)
        stored[chance.random(count) < 0.01] -= 10**10
        names = pa.array([f"item {n}" for n in chance.integers(10**6, size=count)])
        columns = {
            "id": pa.array(np.arange(start, start + count), mask=chance.random(count) < 0.001),
            "name": names,
            "carrier": carriers[chance.integers(len(carriers), size=count)],
            "origin": airports[chance.integers(len(airports), size=count)],
            "price": price,
            "quantity": chance.integers(1, 1000, size=count),
            "happened_at": pa.array(happened, pa.timestamp("us", tz="UTC")),
            "stored_at": pa.array(stored, pa.timestamp("us", tz="UTC")),
        }
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")


def session(folder: Path) -> Any:
    """A session as a user with much data would set it: generated code, and the second compiler."""
    from pipelines.lakehouse.session import get_spark
    from pipelines.settings.sections import Settings

    conf = {
        "spark.sql.codegen.wholeStage": "true",
        "spark.sql.codegen.factoryMode": "FALLBACK",
        "spark.sql.files.maxRecordsPerFile": "0",
        # Two writers a task, so that writing to two folders needs no sort by folder.
        "spark.sql.maxConcurrentOutputFileWriters": "2",
        "spark.local.dir": str(folder),
        "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
    }
    return get_spark(Settings(root=folder, spark={"driver_memory": "4g", "conf": conf}))


def check(rows: Any) -> None:
    """The sides of the split are the filter's rows and all others."""
    valid, refused = split(rows, rules=RULES)
    counts = rows.count(), rows.where(all_hold(RULES)).count(), valid.count(), refused.count()
    judged = with_failed_rules(rows, rules=RULES).where(is_refused(RULES)).count()
    if counts[1] != counts[2] or counts[2] + counts[3] != counts[0] or judged != counts[3]:
        raise SystemExit(f"the split is wrong: {counts}, {judged}")
    print(f"{counts[0]:,} rows, {counts[3]:,} of them refused\n")


def plain_filter(rows: Any, write: Callable[..., None]) -> None:
    write(rows.where(all_hold(RULES)))


def judge(rows: Any, write: Callable[..., None]) -> None:
    write(with_failed_rules(rows, rules=RULES))


def one_pass(rows: Any, write: Callable[..., None]) -> None:
    write(with_failed_rules(rows, rules=RULES).withColumn("is_refused", is_refused(RULES)), by="is_refused")


def two_sides(rows: Any, write: Callable[..., None]) -> None:
    for side in split(rows, rules=RULES):
        write(side)


PASSES: dict[str, Callable[[Any, Callable[..., None]], None]] = {
    "filter": plain_filter,
    "judge": judge,
    "split": one_pass,
    "two sides": two_sides,
}


def write_to(sink: str, folder: Path) -> Callable[..., None]:
    def write(frame: Any, *, by: str | None = None) -> None:
        writer = frame.write.format(sink).mode("append" if sink == "parquet" else "overwrite")
        writer = writer.partitionBy(by) if by else writer
        writer.save(str(folder)) if sink == "parquet" else writer.save()

    return write


def timed(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
