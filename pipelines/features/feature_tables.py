"""The feature tables of the settings: their definitions, and the columns and properties of their Delta tables."""

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
    """Import the definition that `package.module:NAME` names.

    Raises:
        ConfigurationError: it cannot be imported, or is not a FeatureTable.
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


# The table property with the number of seconds after its event_at for which a row may be used; "": no limit.
MAX_AGE = "lakeloop.maxAgeSeconds"


def properties_of(table: FeatureTable) -> dict[str, str]:
    """The properties of the Delta table, which contain its key, its time column and its maximum age."""
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
    """Declare the feature table and its source to the lakehouse. Returns False if the source does not exist yet.

    Raises:
        ConfigurationError: the source lacks a column, or its type cannot be aggregated as defined.
    """
    source = source_schema(lake, table.source)
    if source is None:
        return False
    lake.declare(target_of(table), table_spec_of(table, source))
    return True


def source_schema(lake: Lakehouse, table: str) -> pa.Schema | None:
    """The columns of any table of the lakehouse, also one that lakeloop did not make; None if it does not exist.

    A table that exists is declared to the lakehouse, so that it can be read.
    """
    schema = lake.columns(table)
    if schema is not None and not lake.is_declared(table):
        lake.declare(table, TableSpec(schema))
    return schema


def table_spec_of(table: FeatureTable, source: pa.Schema) -> TableSpec:
    """The spec of gold.features_NAME.

    Columns: the entity and event_at (the key, never null), known_at, the aggregates, and the run and the version of the
    source that a row was computed from.

    Raises:
        ConfigurationError: the source lacks a column, or its type cannot be aggregated as defined.
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
        sorted_by="event_at",  # each file has only some days: late rows then affect few files
    )


def _type(aggregate: Aggregate, source: pa.Schema) -> pa.DataType:
    if aggregate.column is None:
        return LONG
    field = source.field(aggregate.column)
    if aggregate.function in ("min", "max"):
        return field.type
    type_name = result_type(aggregate, _spark_type(field.type))
    assert type_name is not None, "check_columns lets no other through"
    return arrow_type(type_name)


def _spark_type(data_type: pa.DataType) -> str:
    """The canonical name of a type; "struct<>" for every nested type, "void" for an unknown one."""
    if pa.types.is_nested(data_type):
        return "struct<>"
    if pa.types.is_timestamp(data_type):
        return "timestamp" if data_type.tz else "timestamp_ntz"
    if pa.types.is_decimal(data_type):
        return f"decimal({data_type.precision},{data_type.scale})"
    return next((name for name, kind in _PLAIN.items() if kind(data_type)), "void")


# Canonical name → check of the Arrow type. Engines return texts and bytes in different Arrow types.
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
    """`rows` with the columns and types of `spec`; for a value that does not fit, Spark raises an error."""
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    fields = from_arrow_schema(spec.schema)
    return rows.select(*(F.col(f"`{f.name}`").cast(f.dataType).alias(f.name) for f in fields))
