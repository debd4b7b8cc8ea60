"""The feature tables that the settings name: their definitions, and the columns of the tables they become."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.lakehouse.schemas.spec import LONG, STRING, TIMESTAMP, TableSpec
from pipelines.lakehouse.tables import Lakehouse
from transformations.errors import ConfigurationError
from transformations.features.feature_table import Aggregate, FeatureTable, check_columns, result_type
from transformations.tables.column_types import arrow_type

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def feature_table(name: str) -> FeatureTable:
    """The definition that `package.module:NAME` names.

    Raises:
        ConfigurationError: it cannot be imported, or is no FeatureTable.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"the feature table {name!r} cannot be imported: {error}. It is package.module:NAME, and must be on "
            "Python's path."
        ) from None
    if not isinstance(found, FeatureTable):
        raise ConfigurationError(
            f"{name!r} is a {type(found).__name__}, not a transformations.features.feature_table.FeatureTable"
        )
    return found


# The property of a feature table that says for how many seconds a row may be used after its event_at.
MAX_AGE = "lakeloop.maxAgeSeconds"


def properties_of(table: FeatureTable) -> dict[str, str]:
    """What the feature table says of itself."""
    age = "" if table.max_age is None else repr(table.max_age.total_seconds())
    return {
        "delta.enableDeletionVectors": "true",
        "lakeloop.primaryKey": ",".join(table.key),
        "lakeloop.timeseries": "event_at",
        MAX_AGE: age,
    }


def target_of(table: FeatureTable) -> str:
    return f"gold.features_{table.name}"


def declare(lake: Lakehouse, table: FeatureTable) -> bool:
    """Tell the lakehouse of the feature table and of its source. Returns whether there is a source yet."""
    source = source_schema(lake, table.source)
    if source is None:
        return False
    lake.declare(target_of(table), table_spec_of(table, source))
    return True


def source_schema(lake: Lakehouse, table: str) -> pa.Schema | None:
    """The columns of any table of the lakehouse, also one that lakeloop did not make; None where there is none.

    From here on the lakehouse knows it.
    """
    schema = lake.columns(table)
    if schema is not None and not lake.is_declared(table):
        lake.declare(table, TableSpec(schema))
    return schema


def table_spec_of(table: FeatureTable, source: pa.Schema) -> TableSpec:
    """The columns of gold.features_NAME: entity and event_at (its key, never null), known_at, the aggregates, whence.

    Raises:
        ConfigurationError: the source lacks a column, or has it in a type that cannot be aggregated so.
    """
    types = {field.name: _spark_type(field.type) for field in source}
    check_columns(table, types)
    return TableSpec(
        pa.schema(
            [
                *(pa.field(c, source.field(c).type, nullable=False) for c in table.entity),
                pa.field("event_at", TIMESTAMP, nullable=False),
                pa.field("known_at", TIMESTAMP, nullable=False),
                *(pa.field(a.name, _type(a, source)) for a in table.aggregates),
                pa.field("_run_id", STRING),
                pa.field("_source_version", LONG),
            ]
        ),
        key=tuple(table.key),
        change_feed=True,
        role="current",
    )


def _type(of: Aggregate, source: pa.Schema) -> pa.DataType:
    if of.column is None:
        return LONG
    field = source.field(of.column)
    if of.function in ("min", "max"):
        return field.type
    told = result_type(of, _spark_type(field.type))
    assert told is not None, "check_columns lets no other through"
    return arrow_type(told)


def _spark_type(of: pa.DataType) -> str:
    """The canonical name of a type, that of a nested one without what is inside."""
    if pa.types.is_nested(of):
        return "struct<>"
    if pa.types.is_timestamp(of):
        return "timestamp" if of.tz else "timestamp_ntz"
    if pa.types.is_decimal(of):
        return f"decimal({of.precision},{of.scale})"
    return next((name for name, kind in _PLAIN.items() if kind(of)), "void")


# Engines give texts and bytes in forms of their own.
_PLAIN = {
    "tinyint": pa.types.is_int8,
    "smallint": pa.types.is_int16,
    "int": pa.types.is_int32,
    "bigint": pa.types.is_int64,
    "float": pa.types.is_float32,
    "double": pa.types.is_float64,
    "boolean": pa.types.is_boolean,
    "date": pa.types.is_date,
    "string": lambda of: pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of),
    "binary": lambda of: pa.types.is_binary(of) or pa.types.is_large_binary(of) or pa.types.is_binary_view(of),
}


def typed(rows: DataFrame, spec: TableSpec) -> DataFrame:
    """`rows` with the table's columns and types; a value that does not fit is an error of Spark's."""
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    fields = from_arrow_schema(spec.schema)
    return rows.select(*(F.col(f"`{f.name}`").cast(f.dataType).alias(f.name) for f in fields))
