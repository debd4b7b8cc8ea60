"""The names of feature tables in the settings in; their definitions, and the columns of the tables they become, out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.lakehouse import Lakehouse
from pipelines.schemas.spec import DOUBLE, LONG, STRING, TIMESTAMP, TableSpec
from transformations.errors import ConfigurationError
from transformations.features import Aggregate, FeatureTable

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
        raise ConfigurationError(f"{name!r} is a {type(found).__name__}, not a transformations.features.FeatureTable")
    return found


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
    if lake.is_local:
        if not (lake.folder(table) / "_delta_log").is_dir():
            return None
        from deltalake import DeltaTable

        schema: pa.Schema = pa.schema(DeltaTable(str(lake.folder(table))).schema().to_arrow())
    else:
        if not lake.spark.catalog.tableExists(lake.identifier(table)):
            return None
        from pyspark.sql.pandas.types import to_arrow_schema

        schema = to_arrow_schema(lake.read(table).schema)
    if not lake.is_declared(table):
        lake.declare(table, TableSpec(schema))
    return schema


def table_spec_of(table: FeatureTable, source: pa.Schema) -> TableSpec:
    """The columns of gold.features_NAME: entity and event_at (its key, never null), known_at, the aggregates, whence.

    Raises:
        ConfigurationError: the source lacks a column.
    """
    for column in [*table.entity, table.event_at, table.known_at, *(a.column for a in table.aggregates if a.column)]:
        if column not in source.names:
            kind = f"column of {table.source} for the feature table {table.name!r}:"
            raise ConfigurationError.unknown_name(kind, column, source.names)
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
    )


def _type(of: Aggregate, source: pa.Schema) -> pa.DataType:
    if of.column is None or of.function == "count":
        return LONG
    column = source.field(of.column).type
    if of.function in ("min", "max"):
        return column
    if of.function == "mean" or pa.types.is_floating(column):
        return DOUBLE
    return pa.decimal128(min(38, column.precision + 10), column.scale) if pa.types.is_decimal(column) else LONG


def typed(rows: DataFrame, spec: TableSpec) -> DataFrame:
    """`rows` with the table's columns and types; a value that does not fit is an error of Spark's."""
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    return rows.select(*(F.col(f.name).cast(f.dataType).alias(f.name) for f in from_arrow_schema(spec.schema)))
