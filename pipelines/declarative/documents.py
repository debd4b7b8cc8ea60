"""Declared datasets of documents: each arrival of bronze.documents parsed once, the valid ones, and the refused ones.

This is the graph for Databricks' pipelines and for `spark-pipelines` of open-source Spark; docs/quality.md says how to
run it. The datasets hold arrivals and only grow. The documents as they are now come from `lakeloop refine-documents`,
which merges: not both platforms can merge into a declared dataset.

The configuration of the pipeline may set `lakeloop.bronze_documents`, the table of arrivals (default:
bronze.documents), and `lakeloop.settings`, the lakeloop.yml with the limits, languages and policy for personal data
(default: the default settings).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyspark import pipelines as dp
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from expectations.rules.rules import check_rules
from expectations.targets.declared import expected, kept, refused
from pipelines.documents.describe import DESCRIBED_SCHEMA, PersonalData, describe_batches, rules_of_documents
from pipelines.documents.parse import Limits, parse_batches
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    spark: SparkSession  # the pipeline that executes this file defines it

PARSED, VALID, REFUSED = "documents_parsed", "documents_valid", "documents_refused"
_FILE = spark.conf.get("lakeloop.settings", "") or ""
_SETTINGS = load_settings(Path(_FILE)) if _FILE else Settings()
_RULES = rules_of_documents(_SETTINGS.refine)
_SOURCE = spark.conf.get("lakeloop.bronze_documents", "bronze.documents") or ""
# Made outside of the definitions: inside, no call to Spark is allowed, and mapInArrow asks it for the columns.
# skipChangeCommits: the deletions of `lakeloop forget` are not arrivals.
_ARRIVALS = spark.readStream.option("skipChangeCommits", "true").table(_SOURCE).where("op <> 'delete'")
_DESCRIBE = describe_batches(parse_batches(Limits.of(_SETTINGS.parse)), personal_data=PersonalData.of(_SETTINGS.refine))
_MADE = _ARRIVALS.mapInArrow(_DESCRIBE, from_arrow_schema(DESCRIBED_SCHEMA))
# Spark Connect gives strings from Python the type "string collate UTF8_BINARY", which delta-rs cannot read in a table.
_PARSED = _MADE.selectExpr(*[f"CAST(`{name}` AS {of}) AS `{name}`" for name, of in _MADE.dtypes])
check_rules(_PARSED, rules=_RULES, table=VALID)


@dp.table(name=PARSED, comment="One arrival of one file, parsed; `reason` where it could not be")
def documents_parsed() -> DataFrame:
    return _PARSED


@dp.table(name=VALID, comment="Arrivals that keep every rule of expectations/tables/documents.py")
@expected(dp, rules=_RULES)
def documents_valid() -> DataFrame:
    return kept(dp, spark.readStream.table(PARSED), rules=_RULES, table=VALID)


@dp.table(name=REFUSED, comment="Arrivals that break a rule, with the names of all that they break")
def documents_refused() -> DataFrame:
    return refused(spark.readStream.table(PARSED), rules=_RULES)
