"""Profile and quality metrics against plain arithmetic over the same rows."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.lakehouse.schemas import TABLES
from transformations.metrics.answer_metrics import llm_quality, retrieval_quality
from transformations.metrics.profile import LONGEST_ITEM, profile
from transformations.metrics.retrieval import hit_at_k, is_in_section, reciprocal_rank

DAY = datetime(2026, 3, 1, tzinfo=timezone.utc)
NOW = datetime(2026, 3, 9, tzinfo=timezone.utc)


def call(number: int, **fields: Any) -> dict[str, Any]:
    """One answered call of the log; `fields` replace its columns."""
    at = DAY + timedelta(minutes=number)
    answer = {"choices": [{"message": {"content": f"answer {number}"}}], "is_grounded": True, "is_quoted": False}
    return {
        "request_id": f"r{number}",
        "request_date": at.date(),
        "request_time": at,
        "status_code": 200,
        "sampling_fraction": 1.0,
        "execution_duration_ms": 100 + number,
        "request": "{}",
        "response": json.dumps(answer),
        "model_id": "m/1",
        "input_tokens": 10,
        "output_tokens": 2,
        "retrieved": [],
    } | fields


@pytest.fixture
def make_log(spark):
    def make(calls: Iterable[dict[str, Any]]):
        return spark.createDataFrame(pa.Table.from_pylist(list(calls), schema=TABLES["inference.inference_log"].schema))

    return make


@pytest.fixture
def make_labels(spark):
    def make(labels: Iterable[dict[str, Any]]):
        return spark.createDataFrame(pa.Table.from_pylist(list(labels), schema=TABLES["inference.labels"].schema))

    return make


def day_of(row: Any) -> int:
    """The days from DAY to the row's window, plus one. Spark gives instants to Python in the zone of the process."""
    start: datetime = row["window"]["start"]
    return (start.astimezone(timezone.utc) - DAY).days + 1


def profiled(log, *, of: str = "*", **options: Any) -> dict[tuple[int, str], Any]:
    """The rows of the profile; of one column alone, which takes less planning, if `of` names it."""
    needed = ["request_id", "request_time", "model_id", "sampling_fraction"]
    log = log.select(*dict.fromkeys([of] if of == "*" else [*needed, of]))
    rows = profile(log, computed_at=NOW, version_from=None, version_to=1, **options).collect()
    return {(day_of(row), row["column_name"]): row for row in rows}


def by_name(frame, *, day: int | None = None) -> dict[str, Any]:
    return {r["metric_name"]: r for r in frame.collect() if day is None or day_of(r) == day}


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(np.round(reached, 12), share)])


def test_profile_has_the_tables_columns_in_its_order(make_log):
    frame = profile(make_log([call(1)]), computed_at=NOW, version_from=None, version_to=1)
    assert frame.columns == TABLES["monitoring.inference_log_profile_metrics"].columns


def test_profile_has_a_row_for_every_column_and_one_for_the_table_in_every_window(make_log):
    rows = profiled(make_log([call(1), call(2), call(1500)]))
    expected = {*TABLES["inference.inference_log"].columns, ":table"}
    assert {name for day, name in rows if day == 1} == expected
    assert {name for day, name in rows if day == 2} == expected
    assert rows[1, ":table"]["count"] == 2
    assert rows[2, ":table"]["count"] == 1
    assert rows[1, ":table"]["window"]["end"] - rows[1, ":table"]["window"]["start"] == timedelta(days=1)
    assert "retrieved" in rows[1, ":table"]["non_null_columns"]
    assert "trace_id" not in rows[1, ":table"]["non_null_columns"]


@pytest.mark.parametrize("fractions", [[1.0], [0.1], [0.3], [1.0, 0.1, 0.5]], ids=str)
def test_profile_of_a_number_agrees_with_numpy_at_any_sampling(make_log, fractions):
    draw = np.random.default_rng(7)
    values = np.round(draw.lognormal(5, 1, 400)).astype(int)
    fraction = np.array([fractions[i % len(fractions)] for i in range(400)])
    log = make_log(
        call(i, execution_duration_ms=int(v), sampling_fraction=float(f))
        for i, (v, f) in enumerate(zip(values, fraction, strict=True))
    )
    row, weights = profiled(log, of="execution_duration_ms")[1, "execution_duration_ms"], 1 / fraction
    mean = np.average(values, weights=weights)
    assert row["count"] == 400
    assert row["sum_weights"] == pytest.approx(weights.sum())
    assert row["avg"] == pytest.approx(mean)
    assert row["stddev"] == pytest.approx(math.sqrt(np.average((values - mean) ** 2, weights=weights) * 400 / 399))
    assert (row["min"], row["max"]) == (values.min(), values.max())
    assert len(row["quantiles"]) == 1001
    assert row["quantiles"] == [weighted_quantile(values, weights, i / 1000) for i in range(1001)]
    assert row["median"] == weighted_quantile(values, weights, 0.5)
    assert row["distinct_count"] == len(set(values))


def test_profile_keeps_nulls_nan_and_zeros_out_of_the_moments(make_log):
    given = [None, float("nan"), 0.0, 1.0, 3.0]
    row = profiled(make_log(call(i, prediction_proba=v) for i, v in enumerate(given)), of="prediction_proba")[
        1, "prediction_proba"
    ]
    assert (row["num_nulls"], row["num_nan"], row["num_zeros"]) == (1, 1, 1)
    assert (row["percent_null"], row["percent_nan"], row["percent_zeros"]) == (20.0, 20.0, 20.0)
    assert row["avg"] == pytest.approx(4 / 3)
    assert (row["min"], row["max"], row["distinct_count"]) == (0.0, 3.0, 3)


def test_profile_of_a_column_without_values_is_null_not_zero(make_log):
    row = profiled(make_log([call(1)]), of="prediction_proba")[1, "prediction_proba"]
    assert row["num_nulls"] == 1
    assert row["quantiles"] is None
    assert [row[c] for c in ("avg", "stddev", "min", "max", "median")] == [None] * 5


def test_profile_weights_frequent_items_and_breaks_ties_by_name(make_log):
    calls = [call(1, requester="b"), call(2, requester="a"), call(3, requester="rare", sampling_fraction=0.25)]
    row = profiled(make_log(calls), of="requester")[1, "requester"]
    assert [(i["item"], i["count"]) for i in row["frequent_items"]] == [("rare", 4), ("a", 1), ("b", 1)]
    assert (row["distinct_count"], row["min_length"], row["max_length"]) == (3, 1.0, 4.0)
    assert row["avg_length"] == pytest.approx((1 + 1 + 4 * 4) / 6)


def test_profile_counts_long_texts_but_does_not_keep_them(make_log):
    calls = [call(i, request=text * (LONGEST_ITEM + 1)) for i, text in enumerate("aab")]
    row = profiled(make_log(calls), of="request")[1, "request"]
    assert row["frequent_items"] is None
    assert row["distinct_count"] == 2
    assert row["max_length"] == LONGEST_ITEM + 1


def test_profile_says_which_share_of_the_requests_has_a_label(make_log, make_labels):
    log = make_log([call(1), call(2, sampling_fraction=0.25)])
    labels = make_labels([{"request_id": "r1", "label": "{}"}, {"request_id": "r1", "label": "{}"}])
    row = profiled(log, of="requester", labels=labels)[1, ":table"]
    assert row["label_coverage"] == pytest.approx(0.2)
    assert row["count"] == 2
    assert profiled(log, of="requester")[1, ":table"]["label_coverage"] is None


def test_quality_has_the_tables_columns(make_log, make_labels, spark):
    columns = TABLES["monitoring.llm_quality_metrics"].columns
    chunks = spark.createDataFrame([], "chunk_id string, path string, heading_path array<string>")
    assert llm_quality(make_log([call(1)])).columns == columns
    assert retrieval_quality(make_log([call(1)]), labels=make_labels([]), chunks=chunks).columns == columns


def test_quality_scores_answers_and_counts_failures(make_log):
    ungrounded = json.dumps({"is_grounded": False, "is_quoted": True})
    calls = [call(0), call(1), call(2, response=ungrounded)]
    calls.append(
        call(3, status_code=500, response='{"error": "time-out"}', execution_duration_ms=9999, input_tokens=None)
    )
    calls.append(call(4, response="not JSON at all"))
    metrics = by_name(llm_quality(make_log(calls)))
    assert metrics["grounded_ratio"]["value"] == pytest.approx(2 / 3)
    assert metrics["grounded_ratio"]["n"] == 3
    assert metrics["grounded_ratio"]["stderr"] == pytest.approx(np.std([1, 1, 0], ddof=1) / math.sqrt(3))
    assert metrics["quoted_ratio"]["value"] == pytest.approx(1 / 3)
    assert (metrics["failed_ratio"]["value"], metrics["failed_ratio"]["n"]) == (pytest.approx(0.2), 5)
    assert metrics["latency_ms_mean"]["value"] == pytest.approx(np.mean([100, 101, 102, 104]))
    assert (metrics["latency_ms_p50"]["value"], metrics["latency_ms_p95"]["value"]) == (101.0, 104.0)
    assert metrics["latency_ms_p50"]["stderr"] is None
    assert metrics["input_tokens_mean"]["n"] == 4


def test_quality_weights_a_row_by_how_it_was_sampled(make_log):
    calls = [call(1), call(2, response='{"is_grounded": false}', sampling_fraction=0.25)]
    row = by_name(llm_quality(make_log(calls)))["grounded_ratio"]
    assert row["value"] == pytest.approx(0.2)
    residual = np.array([1 * 0.8, 4 * 0.2])
    assert row["stderr"] == pytest.approx(math.sqrt((residual**2).sum() * 2) / 5)


def test_quality_of_windows_and_models_is_kept_apart(make_log):
    calls = [call(1), call(2, model_id="m/2", execution_duration_ms=1), call(1500, execution_duration_ms=7)]
    rows = llm_quality(make_log(calls)).where("metric_name = 'latency_ms_mean'").collect()
    found = {(day_of(r), r["model_id"]): r["value"] for r in rows}
    assert found == {(1, "m/1"): 101.0, (1, "m/2"): 1.0, (2, "m/1"): 7.0}


def retrieved(*chunk_ids: str) -> list[dict[str, Any]]:
    # The log's order is not the ranks' order: a reader must sort.
    return [{"chunk_id": c, "rank": rank} for rank, c in reversed(list(enumerate(chunk_ids, 1)))]


def gold(request: int, heading: str | None, *, path: str = "a.rst", valid_from: datetime = DAY) -> dict[str, Any]:
    label = json.dumps({"path": path, "heading": heading})
    return {"request_id": f"r{request}", "label": label, "label_time": valid_from, "valid_from": valid_from}


@pytest.fixture
def chunks(spark):
    rows = [("x", "a.rst", ["A", "Use"]), ("y", "a.rst", ["A", "Other"]), ("z", "b.rst", ["A", "Use"])]
    return spark.createDataFrame(rows, "chunk_id string, path string, heading_path array<string>")


def test_retrieval_needs_path_and_heading_and_takes_the_first_hit(make_log, make_labels, chunks):
    log = make_log(
        [
            call(1, retrieved=retrieved("x", "y")),  # first
            call(2, retrieved=retrieved("y", "z", "x")),  # third: y has another heading, z another path
            call(3, retrieved=retrieved("y", "z")),  # none
            call(4, retrieved=[]),  # none
            call(5, retrieved=retrieved("x")),  # no label
            call(6, retrieved=retrieved("x"), status_code=500),  # failed
        ]
    )
    metrics = by_name(
        retrieval_quality(log, labels=make_labels(gold(i, "Use") for i in (1, 2, 3, 4, 6)), chunks=chunks)
    )
    assert metrics["hit_at_1"]["value"] == pytest.approx(1 / 4)
    assert metrics["hit_at_5"]["value"] == pytest.approx(2 / 4)
    assert metrics["mrr"]["value"] == pytest.approx((1 + 1 / 3) / 4)
    assert metrics["mrr"]["n"] == 4
    assert metrics["label_coverage"]["value"] == pytest.approx(4 / 5)


def test_retrieval_in_spark_agrees_with_plain_python(make_log, make_labels, spark):
    draw = random.Random(11)
    headings = ["Use", "`use`", "**Use** it", "The `strict` parameter", "the strict  parameter", "a_b", "_a_b_"]
    headings += ["a\\_b", "Straße", "STRASSE", " Éa\u00a0b ", "éa b", "__init__", "init", "", "*"]
    paths = ["a.rst", "b.rst"]
    known = {f"c{i}": (draw.choice(paths), draw.choices(headings, k=draw.randint(0, 3))) for i in range(60)}
    calls, labels, expected = [], [], {"hit_at_1": [], "hit_at_5": [], "hit_at_10": [], "mrr": []}
    for number in range(120):
        ranked = draw.sample(sorted(known), k=draw.randint(0, 12))
        path, heading = draw.choice(paths), draw.choice(headings)
        calls.append(call(number, retrieved=retrieved(*ranked)))
        labels.append(gold(number, heading, path=path))
        hits = {c for c, (p, h) in known.items() if is_in_section(p, h, gold_path=path, gold_heading=heading)}
        for k in (1, 5, 10):
            expected[f"hit_at_{k}"].append(hit_at_k(ranked, gold=hits, k=k))
        expected["mrr"].append(reciprocal_rank(ranked, gold=hits))
    chunks = spark.createDataFrame(
        [(c, p, h) for c, (p, h) in known.items()], "chunk_id string, path string, heading_path array<string>"
    )
    # One day a call, so that each is compared by itself and not only their mean.
    for number, row in enumerate(calls):
        row["request_time"] = DAY + timedelta(days=number)
    rows = retrieval_quality(make_log(calls), labels=make_labels(labels), chunks=chunks).collect()
    found = {(r["metric_name"], day_of(r) - 1): r["value"] for r in rows}
    for metric, values in expected.items():
        assert [found[metric, number] for number in range(120)] == pytest.approx([float(v) for v in values]), metric


def test_retrieval_takes_the_last_label_of_a_request(make_log, make_labels, chunks):
    log = make_log([call(1, retrieved=retrieved("x"))])
    labels = make_labels([gold(1, "Other", valid_from=DAY + timedelta(hours=1)), gold(1, "Use")])
    assert by_name(retrieval_quality(log, labels=labels, chunks=chunks))["hit_at_1"]["value"] == 0.0


def test_retrieval_does_not_guess_about_chunks_that_nobody_knows(make_log, make_labels, chunks):
    log = make_log([call(1, retrieved=retrieved("x", "gone")), call(2, retrieved=retrieved("y", "gone", "x"))])
    metrics = by_name(retrieval_quality(log, labels=make_labels([gold(1, "Use"), gold(2, "Use")]), chunks=chunks))
    assert (metrics["hit_at_1"]["value"], metrics["hit_at_1"]["n"]) == (0.5, 2)
    assert (metrics["mrr"]["value"], metrics["mrr"]["n"]) == (1.0, 1)
    assert (metrics["hit_at_5"]["value"], metrics["hit_at_5"]["n"]) == (1.0, 2)
