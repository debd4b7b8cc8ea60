"""Declared datasets of each source of records in the settings: the records as they are now, and the refused ones.

`records_NAME` and `records_NAME_quarantine` hold what silver.records_NAME and its quarantine hold, by the same
functions as `lakeloop refine-records`. They are computed from all arrivals of bronze.records_NAME; a platform that can
refreshes them incrementally. pipelines/settings/pipeline.py says what the configuration of the pipeline may set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark import pipelines as dp
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from expectations.rules.rules import check_rules
from expectations.targets.declared import refused, valid
from pipelines.records.source import RecordSource, evolved_by, record_source
from pipelines.settings.pipeline import arrivals_of, pipeline_settings
from pipelines.silver.refine_records import ORDER, changes_of, is_needed, last_of, last_refused, records_of
from transformations.tables.history import history

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    spark: SparkSession  # the pipeline that executes this file defines it


def _now(source: RecordSource, kept: DataFrame) -> DataFrame:
    key = list(source.settings.key)
    rows = history(
        changes_of(source, kept), key=key, order_by=source.order_by, compare=source.compared, then_by=source.then_by
    )
    return last_of(rows.where(is_needed(source)), key=key).select(*source.specs()[source.silver].columns)


def _set_aside(source: RecordSource, kept: DataFrame, out: DataFrame) -> DataFrame:
    """The refused records that did not arrive again, repaired."""
    repaired = kept.groupBy(F.col("_record_id").alias("record_id")).agg(F.max(F.struct(*ORDER)).alias("_repaired_at"))
    rows = last_refused(source, out).join(repaired, "record_id", "left")
    is_open = F.col("_repaired_at").isNull() | (F.col("_repaired_at") < F.struct(*ORDER))
    return rows.where(is_open).drop("_repaired_at")


def _declare(name: str) -> None:
    # Frames are made here, outside of the definitions: inside, no call to Spark is allowed.
    arrivals = spark.read.table(arrivals_of(spark.conf, f"records_{name}"))
    source = evolved_by(record_source(_SETTINGS, name), arrivals)
    rules, table = source.contract.rules, f"records_{name}"
    rows, _ = records_of(source, arrivals)
    check_rules(rows, rules=rules, table=table)
    kept, out = valid(rows, rules=rules, table=table), refused(rows, rules=rules)
    now, set_aside = _now(source, kept), _set_aside(source, kept, out)

    @dp.materialized_view(name=table, comment="The records as they are now")
    def records_now() -> DataFrame:
        return now

    @dp.materialized_view(name=f"{table}_quarantine", comment="Refused records that did not arrive again, repaired")
    def records_set_aside() -> DataFrame:
        return set_aside


_SETTINGS = pipeline_settings(spark.conf)
for _NAME in _SETTINGS.records:
    _declare(_NAME)
