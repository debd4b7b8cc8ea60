"""An inference log in; one row of profile metrics a window, model and column out, weighted by how the log was sampled.

Definition "v1". A row that was logged with `sampling_fraction` f stands for 1/f requests: averages, deviations,
quantiles, percents, `num_*` and the counts of frequent items are estimates of the whole traffic. `count` and
`distinct_count` are of the rows that are there. Quantiles are observed values: the smallest one at which the weights
add up to the wanted share (the inverse of the distribution function), exact, at 0, 1/1000 … 1. Percents go from 0
to 100.

The log is read once: all columns are unpivoted into (column, value) cells, which collapse to distinct values before
they travel, so that the cost follows the number of distinct values. Long texts travel as their hash.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

DEFINITION_ID = "v1"
MONITOR_VERSION = 1
TABLE_ROW = ":table"
QUANTILE_STEPS = 1000
FREQUENT_ITEMS = 100
LONGEST_ITEM = 200
_GROUP = ("window", "model_id", "column_name")


def profile(
    log: DataFrame,
    *,
    computed_at: datetime,
    version_from: int | None,
    version_to: int,
    labels: DataFrame | None = None,
    granularity: str = "1 day",
) -> DataFrame:
    """Profile every column of a log.

    Args:
        log: rows with `request_time`, `model_id` and `sampling_fraction` (null: logged whole), and any further columns.
            Numbers get moments and quantiles, strings lengths and frequent items, dates, timestamps and booleans
            frequent items; of arrays, structs and maps only nulls are counted.
        computed_at: what the rows say about when they were computed.
        version_from: the version of the log after which this run read, null for everything.
        version_to: the version of the log that was read.
        labels: rows with `request_id`; they give the coverage on the ":table" rows. None: coverage is null.
        granularity: length of a window ("1 day", "1 hour"), aligned to the epoch in UTC.

    Returns:
        Grain: one row a window, model_id and column, and one with column_name ":table", with the columns of
        monitoring.inference_log_profile_metrics in their order. Items longer than 200 characters are counted as
        distinct, but not kept as frequent items: a raw request is not a category.
    """
    from pyspark.sql import functions as F

    summary = _summarise(_values(_cells(log, labels=labels, granularity=granularity)))
    is_table = F.col("column_name") == TABLE_ROW
    count, weights = F.col("count"), F.col("sum_weights")

    def percent(part: str, whole: Column) -> Column:
        return 100 * F.col(part) / whole

    def columns_only(value: Column) -> Column:
        return F.when(~is_table, value)

    null, text = F.lit(None), F.lit(None).cast("string")
    output = {
        "window": F.col("window"),
        "log_type": F.lit("INPUT"),
        "logging_table_commit_version": F.lit(version_to).cast("int"),
        "monitor_version": F.lit(MONITOR_VERSION).cast("long"),
        "granularity": F.lit(granularity),
        "slice_key": text,
        "slice_value": text,
        "column_name": F.col("column_name"),
        "count": count,
        "data_type": F.col("data_type"),
        "num_nulls": columns_only(F.round("_nulls").cast("long")),
        "avg": F.col("avg"),
        "quantiles": F.col("quantiles"),
        "min": F.col("min"),
        "max": F.col("max"),
        "stddev": F.col("stddev"),
        "num_zeros": F.round("_zeros").cast("long"),
        "num_nan": F.round("_nans").cast("long"),
        "min_length": F.col("min_length"),
        "max_length": F.col("max_length"),
        "avg_length": F.col("avg_length"),
        "non_null_columns": F.when(is_table, F.col("_non_null_columns")),
        "frequent_items": F.col("frequent_items"),
        "median": F.element_at("quantiles", QUANTILE_STEPS // 2 + 1),
        "distinct_count": F.col("distinct_count"),
        "percent_nan": percent("_nans", weights),
        "percent_null": columns_only(percent("_nulls", weights)),
        "percent_zeros": percent("_zeros", weights),
        "percent_distinct": percent("distinct_count", count),
        "model_id": F.col("model_id"),
        "sum_weights": weights,
        "label_coverage": F.col("_labelled") / weights if labels is not None else null.cast("double"),
        "definition_id": F.lit(DEFINITION_ID),
        "computed_at": F.lit(computed_at).cast("timestamp"),
        "source_version_from": F.lit(version_from).cast("long"),
        "source_version_to": F.lit(version_to).cast("long"),
    }
    return summary.select(*(value.alias(name) for name, value in output.items()))


def row_weight(fraction: str = "sampling_fraction") -> Column:
    """How many requests a row stands for. A decimal: its sums are the same in whatever order Spark adds them."""
    from pyspark.sql import functions as F

    return F.when(F.col(fraction) > 0, 1 / F.col(fraction)).otherwise(1.0).cast("decimal(24,12)")


def _cells(log: DataFrame, *, labels: DataFrame | None, granularity: str) -> DataFrame:
    """One row a log row and column: its name, type, and value as a number or as a key."""
    from pyspark.sql import functions as F

    has_label = F.lit(None).cast("string")
    if labels is not None:
        labelled = labels.select(F.col("request_id").alias("_label_of")).distinct()
        log = log.join(labelled, F.col("request_id") == F.col("_label_of"), "left")
        has_label = F.when(F.col("_label_of").isNotNull(), "labelled")
    fields = [field for field in log.schema.fields if field.name != "_label_of"]
    cells = [_cell(F.col(f"`{f.name}`"), name=f.name, data_type=f.dataType) for f in fields]
    table_row = _struct(name=TABLE_ROW, data_type=None, key=has_label)
    return log.select(
        F.window("request_time", granularity).alias("window"),
        "model_id",
        row_weight().alias("_weight"),
        F.explode(F.array(*cells, table_row)).alias("_cell"),
    ).select("window", "model_id", "_weight", "_cell.*")


def _cell(value: Column, *, name: str, data_type: DataType) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    kind = data_type.simpleString()
    if isinstance(data_type, T.NumericType):
        return _struct(name=name, data_type=kind, is_null=value.isNull(), number=value.cast("double"), is_number=True)
    if isinstance(data_type, T.StringType):
        length = F.length(value)
        key = F.when(length <= LONGEST_ITEM, value).otherwise(F.sha2(value, 256))
        return _struct(name=name, data_type=kind, is_null=value.isNull(), key=key, length=length)
    if isinstance(data_type, (T.DateType, T.TimestampType, T.BooleanType)):
        return _struct(name=name, data_type=kind, is_null=value.isNull(), key=value.cast("string"))
    return _struct(name=name, data_type=kind, is_null=value.isNull())


def _struct(
    *,
    name: str,
    data_type: str | None,
    is_null: Column | None = None,
    number: Column | None = None,
    key: Column | None = None,
    length: Column | None = None,
    is_number: bool = False,
) -> Column:
    from pyspark.sql import functions as F

    def typed(value: Column | None, kind: str, name: str) -> Column:
        return (F.lit(None) if value is None else value).cast(kind).alias(name)

    return F.struct(
        F.lit(name).alias("column_name"),
        F.lit(data_type).cast("string").alias("data_type"),
        typed(F.lit(False) if is_null is None else is_null, "boolean", "_is_null"),
        typed(number, "double", "_number"),
        typed(key, "string", "_key"),
        typed(length, "int", "_length"),
        F.lit(is_number).alias("_is_numeric"),
    )


def _values(cells: DataFrame) -> DataFrame:
    """One row a distinct value of a column, with its rows and weight, and its place among the others.

    Sums over a column run in the order of its values, so that a second run gives the same bits.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    values = cells.groupBy(*_GROUP, "data_type", "_is_numeric", "_is_null", "_number", "_key", "_length").agg(
        F.count("*").alias("_rows"), F.sum("_weight").cast("double").alias("_weight")
    )
    has_number = F.col("_number").isNotNull() & ~F.isnan("_number")
    values = values.withColumn("_x", F.when(has_number, F.col("_number"))).withColumn(
        "_x_weight", F.when(has_number, F.col("_weight"))
    )
    column = Window.partitionBy(*_GROUP)
    in_order = column.orderBy(F.col("_x").asc_nulls_last(), "_key", "_is_null")
    whole = in_order.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    before = in_order.rowsBetween(Window.unboundedPreceding, -1)
    has_item = F.col("_key").isNotNull() & (F.coalesce("_length", F.lit(0)) <= LONGEST_ITEM)
    by_weight = column.orderBy(has_item.desc(), F.col("_weight").desc(), "_key", "_x", "_is_null")
    return (
        values.withColumn("_below", F.coalesce(F.sum("_x_weight").over(before), F.lit(0.0)))
        .withColumn("_total", F.sum("_x_weight").over(whole))
        .withColumn("_mean", F.sum(F.col("_x") * F.col("_x_weight")).over(whole) / F.col("_total"))
        .withColumn("_place", F.when(has_item, F.row_number().over(by_weight)))
    )


def _steps(weight: Column) -> Column:
    """The last quantile step that `weight` of the total reaches; rounded, so that 0.3 / 0.1 counts as 3."""
    from pyspark.sql import functions as F

    return F.floor(F.round(QUANTILE_STEPS * weight / F.col("_total"), 9)).cast("int")


def _summarise(values: DataFrame) -> DataFrame:
    """Distinct values → one row a group: the statistics that `profile` selects from."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    x, weight, rows, key = F.col("_x"), F.col("_weight"), F.col("_rows"), F.col("_key")
    reached = _steps(F.col("_below") + F.col("_x_weight")) - _steps(F.col("_below"))
    steps = reached + (F.col("_below") == 0).cast("int")
    item = F.when(
        F.col("_place") <= FREQUENT_ITEMS, F.struct("_place", "_key", F.round("_weight").cast("long").alias("_n"))
    )
    numeric = F.max("_is_numeric")
    is_table = F.col("column_name") == TABLE_ROW
    summary = values.groupBy(*_GROUP).agg(
        F.max("data_type").alias("data_type"),
        F.sum("_rows").alias("count"),
        F.sum("_weight").alias("sum_weights"),
        F.sum(F.when(F.col("_is_null"), weight).otherwise(0.0)).alias("_nulls"),
        F.when(numeric, F.sum(F.when(x == 0, weight).otherwise(0.0))).alias("_zeros"),
        F.when(numeric, F.sum(F.when(F.isnan("_number"), weight).otherwise(0.0))).alias("_nans"),
        F.max("_mean").alias("avg"),
        F.min("_x").alias("min"),
        F.max("_x").alias("max"),
        F.sum(weight * (x - F.col("_mean")) * (x - F.col("_mean"))).alias("_squares"),
        F.sum(F.when(x.isNotNull(), rows)).alias("_numbers"),
        F.max("_total").alias("_total"),
        F.array_sort(F.collect_list(F.when(steps > 0, F.struct("_x", steps.alias("_steps"))))).alias("_points"),
        F.min("_length").cast("double").alias("min_length"),
        F.max("_length").cast("double").alias("max_length"),
        F.sum(F.col("_length") * weight).alias("_characters"),
        F.sum(F.when(F.col("_length").isNotNull(), weight)).alias("_texts"),
        F.array_sort(F.collect_list(item)).alias("_items"),
        F.when(numeric, F.count("_x")).otherwise(F.count("_key")).alias("_distinct"),
        F.when(is_table, F.sum(F.when(key.isNotNull(), weight).otherwise(0.0))).alias("_labelled"),
    )
    spread = F.col("_squares") / F.col("_total") * F.col("_numbers") / F.nullif(F.col("_numbers") - 1, F.lit(0))
    quantiles = F.flatten(F.transform("_points", lambda p: F.array_repeat(p["_x"], p["_steps"])))
    items = F.transform("_items", lambda i: F.struct(i["_key"].alias("item"), i["_n"].alias("count")))
    has_values = F.col("_nulls") < F.col("sum_weights")
    present = F.when(~is_table & has_values, F.col("column_name"))
    is_complex = F.col("data_type").rlike("^(array|struct|map|binary)")
    return (
        summary.withColumn("stddev", F.sqrt(spread))
        .withColumn("quantiles", F.when(F.size("_points") > 0, quantiles))
        .withColumn("avg_length", F.col("_characters") / F.col("_texts"))
        .withColumn("frequent_items", F.when(~is_table & (F.size("_items") > 0), items))
        .withColumn("distinct_count", F.when(~is_table & ~is_complex, F.col("_distinct")))
        .withColumn(
            "_non_null_columns", F.array_sort(F.collect_list(present).over(Window.partitionBy("window", "model_id")))
        )
    )
