"""In a session that persists nothing, rows are computed once all the same, and too many are refused."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyspark.errors import AnalysisException

from pipelines.lakehouse import held_frames
from pipelines.lakehouse.held_frames import HeldFrames, few_in_memory, frame_of
from transformations.errors import ConfigurationError


@pytest.fixture
def rows(spark, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three rows that have other texts each time that they are computed."""

    def other_each_time(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            texts = [uuid.uuid4().hex for _ in range(batch.num_rows)]
            rows = {"id": batch.column("id"), "text": texts, "parts": [[text] for text in texts]}
            yield pa.RecordBatch.from_pydict(rows)

    frame = spark.range(3).mapInArrow(other_each_time, "id long, text string, parts array<string>")
    assert frame.collect() != frame.collect()

    def refuse(self: Any) -> None:
        raise AnalysisException("[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported on serverless compute")

    monkeypatch.setattr(type(frame), "persist", refuse)
    return frame


def test_every_reader_sees_the_same_rows(rows: Any):
    frames = HeldFrames()
    held = frames.hold(rows)
    assert sorted(held.collect()) == sorted(held.collect())
    assert held.dtypes == rows.dtypes
    assert held.where("id > 99").collect() == frames.hold(rows.where("id > 99")).collect() == []
    frames.release(held)
    frames.release_all()
    assert len(frames) == 0


@pytest.mark.parametrize("limit", ["HELD_ROWS", "FEW_BYTES"])
def test_what_is_too_large_to_be_held_is_an_error(rows: Any, limit: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held_frames, limit, 2)
    with pytest.raises(ConfigurationError, match="has no cache"):
        HeldFrames().hold(rows)
    assert HeldFrames().hold(rows, is_repeatable=True).count() == 3


_OF_ALL_KINDS = pa.schema(
    [
        ("id", pa.int64()),
        ("the `name`", pa.string()),
        ("bytes", pa.binary()),
        ("at", pa.timestamp("us", "UTC")),
        ("day", pa.date32()),
        ("price", pa.decimal128(12, 3)),
        ("names", pa.list_(pa.string())),
        ("counts", pa.map_(pa.string(), pa.int64())),
        ("place", pa.struct([("x", pa.float64()), ("at", pa.timestamp("us", "UTC"))])),
    ]
)


def test_few_rows_come_by_one_call_as_they_are_and_too_many_or_too_large_ones_stay(spark):
    at = datetime(2024, 3, 31, 1, 30, 0, 5, tzinfo=timezone.utc)
    rows = [
        {
            "id": 1,
            "the `name`": "Öl",
            "bytes": b"\0\1",
            "at": at,
            "day": date(1066, 10, 14),
            "price": Decimal("1.230"),
            "names": ["a", None],
            "counts": [("x", 1)],
            "place": {"x": -0.0, "at": at},
        },
        {"id": 2},
        {"id": 3, "the `name`": "", "names": [], "counts": [], "place": {"x": None, "at": None}},
    ]
    table = pa.Table.from_pylist(rows, schema=_OF_ALL_KINDS)
    frame = frame_of(spark, table)
    found = few_in_memory(frame, _OF_ALL_KINDS, rows=3, size=5)
    assert found is not None
    assert found.schema == _OF_ALL_KINDS
    assert found.sort_by("id") == table, "the two texts have 3 and 2 bytes: 5 in all"
    assert few_in_memory(frame, _OF_ALL_KINDS, rows=2, size=5) is None
    assert few_in_memory(frame, _OF_ALL_KINDS, rows=3, size=4) is None
    none = few_in_memory(frame.where("id > 99"), _OF_ALL_KINDS, rows=1, size=1)
    assert none == _OF_ALL_KINDS.empty_table()


def test_few_held_rows_are_in_memory_and_many_are_a_frame(spark, monkeypatch: pytest.MonkeyPatch):
    frames, schema = HeldFrames(), pa.schema([("id", pa.int64())])
    assert frames.few(spark.range(3), schema) == pa.table({"id": [0, 1, 2]})
    assert len(frames) == 0
    monkeypatch.setattr(held_frames, "FEW_ROWS", 2)
    many = frames.few(spark.range(3), schema)
    assert not isinstance(many, pa.Table)
    assert many.count() == 3
    assert len(frames) == 1
    frames.release_all()


def test_without_a_cache_the_rows_are_in_memory(rows: Any):
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("parts", pa.list_(pa.string()))])
    few = HeldFrames().few(rows, schema)
    assert few.schema == schema
    assert [row["parts"] for row in few.to_pylist()] == [[row["text"]] for row in few.to_pylist()]
