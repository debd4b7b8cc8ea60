"""In a session that persists nothing, rows are computed once all the same, and too many are refused."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from pyspark.errors import AnalysisException

from pipelines.lakehouse import held_frames
from pipelines.lakehouse.held_frames import HeldFrames
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
