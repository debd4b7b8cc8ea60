"""An inference log, labels and the chunks that they name in, quality metrics for each window and model out.

Definition "v1". Every value is weighted by 1/sampling_fraction. `n` is the number of rows it was computed from.
`stderr` is the linearised standard error of a weighted mean (with equal weights: the sample's deviation over the root
of n); it is null for percentiles and for a single row. Percentiles are observed values, as in
transformations/metrics/profile.py.

Groundedness, latency and tokens are about answers (status 200), `failed_ratio` about every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformations.metrics.profile import DEFINITION_ID, row_weight

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SCORER_VERSION = "1"
HIT_RANKS = (1, 5, 10)
_MARKS = r"(?U)[`*]|(?<!\w)_+|_+(?!\w)"
_GROUP = ("window", "model_id", "metric_name", "scorer_name", "_share")


def llm_quality(log: DataFrame, *, granularity: str = "1 day") -> DataFrame:
    """Score the answers of a log.

    Args:
        log: columns of inference.inference_log; `response` is JSON with `is_grounded` and `is_quoted`; a missing one
            is not counted.
        granularity: length of a window, aligned to the epoch in UTC.

    Returns:
        Grain: one row for each window, model_id and metric with at least one value, with the columns of
        monitoring.llm_quality_metrics. The metrics are grounded_ratio, quoted_ratio, failed_ratio, latency_ms_mean,
        latency_ms_p50, latency_ms_p95, input_tokens_mean and output_tokens_mean.
    """
    from pyspark.sql import functions as F

    response = F.from_json("response", "is_grounded BOOLEAN, is_quoted BOOLEAN")
    answered = F.col("status_code") == 200

    def of_answers(value: Column) -> Column:
        return F.when(answered, value.cast("double"))

    latency = of_answers(F.col("execution_duration_ms"))
    scores = [
        _score("grounded_ratio", of_answers(F.col("_response.is_grounded")), scorer="grounding"),
        _score("quoted_ratio", of_answers(F.col("_response.is_quoted")), scorer="grounding"),
        _score("failed_ratio", (F.col("status_code") >= 400).cast("double"), scorer="log"),
        _score("latency_ms_mean", latency, scorer="log"),
        _score("latency_ms_p50", latency, scorer="log", share=0.5),
        _score("latency_ms_p95", latency, scorer="log", share=0.95),
        _score("input_tokens_mean", of_answers(F.col("input_tokens")), scorer="log"),
        _score("output_tokens_mean", of_answers(F.col("output_tokens")), scorer="log"),
    ]
    return _metrics(log.withColumn("_response", response), scores=scores, granularity=granularity)


def retrieval_quality(
    log: DataFrame,
    *,
    labels: DataFrame,
    chunks: DataFrame,
    granularity: str = "1 day",
    ranks: Sequence[int] = HIT_RANKS,
) -> DataFrame:
    """Score what was retrieved against the labels.

    Args:
        log: columns of inference.inference_log. Calls that failed, or whose `retrieved` is null, are not scored; an
            empty `retrieved` is a miss.
        labels: `request_id`, `label` (JSON: path, heading) and `valid_from`; the last label of a request counts. If it
            has no heading, any chunk of the file is a hit.
        chunks: `chunk_id`, `path` and `heading_path` of the retrieved chunks, one row for each chunk.
        granularity: length of a window, aligned to the epoch in UTC.
        ranks: the k of the hit_at_k.

    Returns:
        Grain: one row for each window, model_id and metric, with the columns of monitoring.retrieval_metrics. The
        metrics are hit_at_k (a chunk of the labelled section, subsections included, is among the first k), mrr (one
        over the rank of the first such chunk, 0 if there is none) and label_coverage. A chunk that `chunks` does not
        have could be a hit or not: the request counts only if that makes no difference.
    """
    from pyspark.sql import functions as F

    scored = log.where("status_code = 200 AND retrieved IS NOT NULL")
    firsts = _first_hits(scored, labels=labels, chunks=chunks)
    rows = scored.join(firsts, "request_id", "left")
    hit, unknown = F.col("_hit"), F.col("_unknown")
    never = F.lit(1 << 30)
    is_certain = F.coalesce(hit, never) < F.coalesce(unknown, never)
    has_label = F.coalesce(F.col("_has_label"), F.lit(False))

    def hit_at(k: int) -> Column:
        value = F.when(hit <= k, 1.0).when(unknown <= k, None).otherwise(0.0)
        return F.when(has_label, value)

    reciprocal = F.when(is_certain, 1.0 / hit).when(unknown.isNotNull(), None).otherwise(0.0)
    scores = [
        *(_score(f"hit_at_{k}", hit_at(k), scorer="section_match") for k in ranks),
        _score("mrr", F.when(has_label, reciprocal), scorer="section_match"),
        _score("label_coverage", has_label.cast("double"), scorer="labels"),
    ]
    return _metrics(rows, scores=scores, granularity=granularity)


def current_labels(labels: DataFrame) -> DataFrame:
    """One row for each request, with its last label (by `valid_from`) as JSON."""
    from pyspark.sql import functions as F

    return labels.groupBy("request_id").agg(
        F.max_by("label", F.struct("valid_from", "label_time", "label")).alias("label")
    )


def _first_hits(scored: DataFrame, *, labels: DataFrame, chunks: DataFrame) -> DataFrame:
    """One row for each request with a label: request_id, and the places (from 1) of its first hit and of its first
    chunk that `chunks` lacks; null if there is none."""
    from pyspark.sql import functions as F

    wanted = (
        current_labels(labels)
        .select("request_id", F.from_json("label", "path STRING, heading STRING").alias("_label"))
        .where("_label.path IS NOT NULL")
    )
    by_rank = F.array_sort(F.transform("retrieved", lambda r: F.struct(r["rank"], r["chunk_id"])))
    places = (
        scored.join(wanted, "request_id")
        .select("request_id", "_label", F.posexplode_outer(by_rank).alias("_position", "_retrieved"))
        .select("request_id", "_label", (F.col("_position") + 1).alias("_place"), F.col("_retrieved.chunk_id"))
        .join(chunks.select("chunk_id", "path", "heading_path"), "chunk_id", "left")
    )
    heading = F.col("_label.heading")
    below = F.exists("heading_path", lambda h: _plain(h) == _plain(heading))
    is_hit = (F.col("path") == F.col("_label.path")) & (heading.isNull() | below)
    is_unknown = F.col("path").isNull() & F.col("chunk_id").isNotNull()
    return places.groupBy("request_id").agg(
        F.min(F.when(is_hit, F.col("_place"))).alias("_hit"),
        F.min(F.when(is_unknown, F.col("_place"))).alias("_unknown"),
        F.lit(True).alias("_has_label"),
    )


def _plain(heading: Column) -> Column:
    """A heading without Markdown's marks, blanks and case, as in transformations/metrics/retrieval.py."""
    from pyspark.sql import functions as F

    unmarked = F.regexp_replace(F.regexp_replace(heading, r"\\", ""), _MARKS, "")
    # Upper before lower: "ß" and "ss" are the same heading, as for Python's casefold. Spark simplifies lower(upper(…))
    # to lower(…), so another function stands between them.
    upper = F.regexp_replace(F.upper(unmarked), r"(?U)\s+", " ")
    return F.lower(F.trim(upper))


def _score(metric: str, value: Column, *, scorer: str, share: float | None = None) -> Column:
    """One metric of one row; null values are left out. Without `share` the metric is the mean, else that quantile."""
    from pyspark.sql import functions as F

    return F.struct(
        F.lit(metric).alias("metric_name"),
        F.lit(scorer).alias("scorer_name"),
        F.lit(share).cast("double").alias("_share"),
        value.cast("double").alias("_x"),
    )


def _metrics(rows: DataFrame, *, scores: list[Column], granularity: str) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    cells = (
        rows.select(
            F.window("request_time", granularity).alias("window"),
            "model_id",
            row_weight().alias("_weight"),
            F.explode(F.array(*scores)).alias("_score"),
        )
        .select("window", "model_id", "_weight", "_score.*")
        .where("_x IS NOT NULL")
    )
    values = cells.groupBy(*_GROUP, "_x").agg(
        F.count("*").alias("_rows"),
        F.sum("_weight").cast("double").alias("_weight"),
        F.sum((F.col("_weight") * F.col("_weight")).cast("decimal(24,12)")).cast("double").alias("_weight_squared"),
    )
    # Sums run in the order of the values, so that a second run gives the same bits.
    in_order = Window.partitionBy(*_GROUP).orderBy("_x")
    whole = in_order.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    placed = (
        values.withColumn("_total", F.sum("_weight").over(whole))
        .withColumn("_mean", F.sum(F.col("_weight") * F.col("_x")).over(whole) / F.col("_total"))
        .withColumn("_reached", F.round(F.sum("_weight").over(in_order) / F.col("_total"), 12))
    )
    deviation = F.col("_x") - F.col("_mean")
    n = F.sum("_rows")
    correction = n / F.nullif(n - 1, F.lit(0))
    metrics = placed.groupBy(*_GROUP).agg(
        n.alias("n"),
        F.max("_mean").alias("_mean"),
        F.min(F.when(F.col("_reached") >= F.col("_share"), F.col("_x"))).alias("_quantile"),
        (F.sqrt(F.sum(F.col("_weight_squared") * deviation * deviation) * correction) / F.max("_total")).alias(
            "_stderr"
        ),
    )
    text = F.lit(None).cast("string")
    is_mean = F.col("_share").isNull()
    return metrics.select(
        "window",
        F.lit(granularity).alias("granularity"),
        text.alias("slice_key"),
        text.alias("slice_value"),
        "model_id",
        "metric_name",
        F.when(is_mean, F.col("_mean")).otherwise(F.col("_quantile")).alias("value"),
        "n",
        F.when(is_mean, F.col("_stderr")).alias("stderr"),
        "scorer_name",
        F.lit(SCORER_VERSION).alias("scorer_version"),
        text.alias("judge_model"),
        F.lit(DEFINITION_ID).alias("definition_id"),
    )
