"""Spark SQL that changes tables: CREATE, MERGE, DELETE.

SQL is the same for every session. The Python API `delta.tables` needs a part of the server that Spark Connect does not
have, and its builder takes no name of three parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines.lakehouse.predicates import quoted
from pipelines.lakehouse.schemas import TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_CONFLICTS = ("DELTA_CONCURRENT_", "DELTA_METADATA_CHANGED", "DELTA_PROTOCOL_CHANGED")


def made(verb: str, table: str, spec: TableSpec, properties: Mapping[str, str]) -> str:
    """The statement that makes an empty table. `verb` is CREATE TABLE IF NOT EXISTS or CREATE OR REPLACE TABLE."""
    from pyspark.sql.pandas.types import from_arrow_schema

    columns = ", ".join(
        f"{quoted(column.name)} {column.dataType.simpleString()}{'' if column.nullable else ' NOT NULL'}"
        for column in from_arrow_schema(spec.schema)
    )
    parts = f"PARTITIONED BY ({', '.join(map(quoted, spec.partition_by))})" if spec.partition_by else ""
    parts = f"CLUSTER BY ({quoted(spec.sorted_by)})" if spec.sorted_by and not parts else parts
    return f"{verb} {table} ({columns}) USING delta {parts} TBLPROPERTIES ({pairs(properties)})"


def merge(table: str, changes: DataFrame, *, spec: TableSpec, within: str) -> None:
    """Apply net changes with `_op` to the table, by the null-safe key of its spec; see `Lakehouse.merge`."""
    sets = ", ".join(f"{quoted(column)} = changes.{quoted(column)}" for column in spec.columns)
    names = ", ".join(map(quoted, spec.columns))
    values = ", ".join(f"changes.{quoted(column)}" for column in spec.columns)
    on = " AND ".join([*(f"target.{quoted(k)} <=> changes.{quoted(k)}" for k in spec.key), within])
    changes.sparkSession.sql(
        f"MERGE INTO {_escaped(table)} AS target USING {{changes}} AS changes ON {_escaped(on)} "
        "WHEN MATCHED AND changes._op = 'delete' THEN DELETE "
        f"WHEN MATCHED THEN UPDATE SET {_escaped(sets)} "
        f"WHEN NOT MATCHED AND changes._op <> 'delete' THEN INSERT ({_escaped(names)}) VALUES ({_escaped(values)})",
        changes=changes,
    )


def named(column: str, values: Sequence[str]) -> str:
    """The condition `within` of a merge whose keys have these values in their first column; no values: none."""
    return f"target.{quoted(column)} IN ({', '.join(map(text, values))})" if values else "TRUE"


def delete(spark: SparkSession, table: str, where: Mapping[str, Sequence[str]]) -> None:
    """Delete the rows in which each column has one of its texts."""
    # Not by parameters: Delta leaves those of a DELETE unbound.
    parts = [f"{quoted(column)} IN ({', '.join(map(text, values))})" for column, values in where.items()]
    spark.sql(f"DELETE FROM {table} WHERE {' AND '.join(parts)}")


def is_conflict(error: Exception) -> bool:
    """Whether Delta, in Spark or in delta-rs, refused a commit because another one came first."""
    # By its words: a Connect session has no classes for these.
    return type(error).__name__ == "CommitFailedError" or any(condition in str(error) for condition in _CONFLICTS)


def pairs(properties: Mapping[str, str]) -> str:
    """Properties as a list in SQL."""
    return ", ".join(f"{text(key)} = {text(value)}" for key, value in properties.items())


def text(value: str) -> str:
    """A quoted text of Spark SQL. Spark would replace ${NAME} by a setting before it reads the statement."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("$", "\\u0024") + "'"


def _escaped(sql: str) -> str:
    """For a statement that names frames in braces: braces of its own are doubled."""
    return sql.replace("{", "{{").replace("}", "}}")
