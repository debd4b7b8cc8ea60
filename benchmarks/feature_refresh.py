"""A number of source rows in; the rows that an incremental refresh of a feature table writes and its time, out.

    python -m benchmarks.feature_refresh [--rows 10000000] [--days 365] [--share 0.01] [--folder DIR]

The source has the rows of `--days` days, in order of time. A first build writes the feature table. Then a share of the
entities gets one more row, half of them late (anywhere in the last ten days); the refresh merges what these reach.
Beside it the same source is built anew into an empty table by the same code. A build and a refresh before the first
round warm Spark up and are not counted; rows written are those that the commit of the refresh says (updated, inserted
and copied).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.as_of_join import session
from transformations.features.feature_table import Aggregate, FeatureTable, feature_rows

DAY = timedelta(days=1)
SOURCE, TARGET = "silver.readings", "gold.features_readings"
READINGS = FeatureTable(
    name="readings",
    source=SOURCE,
    entity=("sensor",),
    aggregates=(
        Aggregate("readings_1d", "count", over=DAY),
        Aggregate("value_mean_1d", "mean", "value", over=DAY),
        Aggregate("value_mean_7d", "mean", "value", over=7 * DAY),
        Aggregate("value_max_7d", "max", "value", over=7 * DAY),
    ),
)
_FIRST = 1_700_000_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feature_refresh")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.01, help="of the entities that the edits touch")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the tables go; a temporary folder by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lakeloop-bench-", dir=arguments.folder))
    try:
        measure(
            folder,
            rows=arguments.rows,
            days=arguments.days,
            entities=arguments.entities,
            share=arguments.share,
            times=arguments.rounds,
        )
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, *, rows: int, days: int, entities: int, share: float, times: int) -> None:
    from pipelines.conductor.run import new_context, run_stages
    from pipelines.conductor.stages import stage_named
    from pipelines.settings.sections import Settings

    spark = session(folder)
    # A tenth of a percent of a table of 10M rows is not to be one file of few.
    spark.conf.set("spark.sql.files.maxRecordsPerFile", "200000")
    settings = Settings(root=folder, features=("benchmarks.feature_refresh:READINGS",))
    context = new_context(settings)
    lake, stage = context.lake, stage_named("build-features")
    source = str(lake.folder(SOURCE))
    readings = spark.range(rows).selectExpr(
        f"pmod(xxhash64(id), {entities}) AS sensor",
        f"timestamp_micros(({_FIRST} + CAST(id * {days * 86400}D / {rows} AS BIGINT)) * 1000000L) AS event_at",
        "CAST(pmod(xxhash64(id, 1), 1000) AS INT) AS value",
    )
    readings = readings.selectExpr("*", "event_at + INTERVAL 5 MINUTES AS known_at")
    readings.write.format("delta").option("delta.enableChangeDataFeed", "true").save(source)

    def build() -> tuple[dict[str, int], float]:
        begun = time.perf_counter()
        outcome = run_stages(context, stages=[stage])
        return dict(outcome.stages[0].counts), time.perf_counter() - begun

    print("| round | full s | rows | refresh s | rows changed | rows written | time | rows |\n" + "| --- " * 8 + "|")
    for number in range(-1, times):
        shutil.rmtree(lake.folder(TARGET), ignore_errors=True)
        full, full_seconds = build()
        late = f"CASE WHEN id % 2 = 0 THEN 0 ELSE CAST(pmod(xxhash64(id, {number}), {10 * 86400}) AS BIGINT) END"
        more = spark.range(int(entities * share)).selectExpr(
            f"pmod(id * 97 + {number}, {entities}) AS sensor",
            f"timestamp_micros(({_FIRST + days * 86400} - {late}) * 1000000L) AS event_at",
            "1 AS value",
            f"timestamp_micros(({_FIRST + days * 86400 + 600}) * 1000000L) AS known_at",
        )
        more.write.format("delta").mode("append").save(source)
        changed, seconds = build()
        check(lake)
        if number < 0:
            continue
        metrics = lake.history(TARGET)[0]["metrics"]
        written = int(metrics["numOutputRows"])
        of_all = f"{seconds / full_seconds:.3f} | {written / full['insert']:.4f}"
        refresh = f"{seconds:.1f} | {sum(changed.values())} | {written}"
        print(f"| {number} | {full_seconds:.1f} | {full['insert']} | {refresh} | {of_all} |", flush=True)
    spark.stop()


def check(lake: Any) -> None:
    """Stop where the refreshed table is not what a build from scratch gives."""
    from pyspark.sql import functions as F

    columns = [*READINGS.key, "known_at", *READINGS.columns]
    built, expected = lake.read(TARGET), feature_rows(lake.read(SOURCE), READINGS)
    sums = [
        rows.agg(F.count(F.lit(1)), F.sum(F.xxhash64(*columns).cast("decimal(38)"))).first()
        for rows in (built.select(*(F.col(c) for c in columns)), expected.select(*columns))
    ]
    if sums[0] != sums[1]:
        raise SystemExit(f"the refreshed table is not what a build from scratch gives: {sums}")


if __name__ == "__main__":
    main()
