"""Declared datasets of each source of records in the settings: the records as they are now, and the refused ones.

`records_NAME` and `records_NAME_quarantine` hold what silver.records_NAME and its quarantine hold, by the same
functions as `lakeloop refine-records`. They are computed from all arrivals of bronze.records_NAME; a platform that can
refreshes them incrementally. pipelines/settings/pipeline.py says what the configuration of the pipeline may set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark import pipelines as dp
from pyspark.sql import DataFrame

from expectations.rules.rules import check_rules
from expectations.targets.declared import refused, valid
from pipelines.records.source import RecordSource, evolved_by, record_source
from pipelines.settings.pipeline import arrivals_of, pipeline_settings
from pipelines.silver.refine_records import changes_of, is_needed, last_of, records_of, still_refused
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


def _declare(name: str) -> None:
    # Frames are made here, outside of the definitions: inside, no call to Spark is allowed.
    arrivals = spark.read.table(arrivals_of(spark.conf, f"records_{name}"))
    source = evolved_by(record_source(_SETTINGS, name), arrivals)
    rules, table = source.contract.rules, f"records_{name}"
    rows, _ = records_of(source, arrivals)
    check_rules(rows, rules=rules, table=table)
    kept, out = valid(rows, rules=rules, table=table), refused(rows, rules=rules)
    now, set_aside = _now(source, kept), still_refused(source, kept, out)

    @dp.materialized_view(name=table, comment="The records as they are now")
    def records_now() -> DataFrame:
        return now

    @dp.materialized_view(name=f"{table}_quarantine", comment="Refused records that did not arrive again, repaired")
    def records_set_aside() -> DataFrame:
        return set_aside


_SETTINGS = pipeline_settings(spark.conf)
for _NAME in _SETTINGS.records:
    _declare(_NAME)
