"""The name of a catalog's table in Spark SQL in; its head and its commits, and the table made or completed, out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def head(spark: SparkSession, name: str) -> tuple[str, int] | None:
    """The table's id and version, or None where there is none."""
    if not spark.catalog.tableExists(name):
        return None
    (detail,) = spark.sql(f"DESCRIBE DETAIL {name}").select("id").collect()
    (last,) = spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").select("version").collect()
    return str(detail["id"]), int(last["version"])


def create(spark: SparkSession, name: str, schema: pa.Schema, configuration: Mapping[str, str]) -> None:
    """Make an empty table, where there is none."""
    from delta.tables import DeltaTable
    from pyspark.sql.pandas.types import from_arrow_schema

    builder = DeltaTable.createIfNotExists(spark).tableName(name).addColumns(from_arrow_schema(schema))
    for key, value in configuration.items():
        builder = builder.property(key, value)
    builder.execute()


def columns(spark: SparkSession, name: str) -> pa.Schema | None:
    """The columns that the table has, or None where there is none."""
    # Not by pyspark's own conversion of a schema: it asks for a time zone, in each version by another argument.
    return spark.read.table(name).limit(0).toArrow().schema if spark.catalog.tableExists(name) else None


def complete(spark: SparkSession, name: str, schema: pa.Schema) -> None:
    """Add to an older table the columns that lakeloop has come to write since."""
    from pyspark.sql.pandas.types import from_arrow_schema

    if not spark.catalog.tableExists(name):
        return
    known = {column.lower() for column in spark.read.table(name).columns}  # a catalog's names have no case
    lacking = [field for field in from_arrow_schema(schema) if field.name.lower() not in known]
    if lacking:
        told = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in lacking)
        spark.sql(f"ALTER TABLE {name} ADD COLUMNS ({told})")


def history(spark: SparkSession, name: str) -> list[dict[str, Any]]:
    """The commits that the log still has, newest first: `version`, `at` (UTC), and Spark's own `metrics`."""
    return [
        {
            "version": row["version"],
            "at": row["timestamp"].astimezone(timezone.utc),
            "metrics": row["operationMetrics"],
        }
        for row in spark.sql(f"DESCRIBE HISTORY {name}").collect()
    ]
