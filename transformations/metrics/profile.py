"""An inference log in, one row of profile metrics for each window, model and column out, weighted by the sampling.

Definition "v1". A row that was logged with `sampling_fraction` f stands for 1/f requests: averages, deviations,
quantiles, percents, `num_*` and the counts of frequent items are estimates of the whole traffic. `count` and
`distinct_count` are about the rows of the log alone. Quantiles are exact and are observed values: the smallest value at
which the weights add up to the share (the inverse of the distribution function), at 0, 1/1000 … 1. Percents go from 0
to 100.

The log is read once: all columns are unpivoted into (column, value) cells, which are reduced to distinct values before
the shuffle, so that the cost follows the number of distinct values. Long texts are shuffled as their hash.
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
            Numbers get moments and quantiles, strings get lengths and frequent items, dates, timestamps and booleans
            get frequent items; of arrays, structs and maps only nulls are counted.
        computed_at: the value of that column.
        version_from: the version of the log after which this run read; None if it read everything.
        version_to: the version of the log that was read.
        labels: rows with `request_id`; they give the label coverage on the ":table" rows. None: the coverage is null.
        granularity: length of a window ("1 day", "1 hour"), aligned to the epoch in UTC.

    Returns:
        Grain: one row for each window, model_id and column, and one with column_name ":table" for each window and
        model_id, with the columns of monitoring.inference_log_profile_metrics in their order. Texts of more than 200
        characters count as distinct values, but not as frequent items: a raw request is not a category.
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
    """How many requests a row stands for. It is a decimal, whose sum does not depend on the order of addition."""
    from pyspark.sql import functions as F

    return F.when(F.col(fraction) > 0, 1 / F.col(fraction)).otherwise(1.0).cast("decimal(24,12)")


def _cells(log: DataFrame, *, labels: DataFrame | None, granularity: str) -> DataFrame:
    """One row for each log row and column: the column's name and type, and the value as a number or as a key."""
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
    """One row for each distinct value of a column, with its rows, its weight and its place among the column's values.

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
    """The last quantile step that `weight` reaches, as a share of the total; rounded, so that 0.3 / 0.1 counts as 3."""
    from pyspark.sql import functions as F

    return F.floor(F.round(QUANTILE_STEPS * weight / F.col("_total"), 9)).cast("int")


def _summarise(values: DataFrame) -> DataFrame:
    """Distinct values → one row for each group, with the statistics from which `profile` selects."""
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
