"""Tables that came to harm at random: what `verify` finds of few rows in memory is what it finds on Spark."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.operations.verify import Difference, verify
from tests.support.by_spark import by_spark
from tests.support.chunked import settings_for
from transformations.index.fingerprint import row_hash_of

Row = dict[str, Any]


def _moved(row: Row, by: float) -> Row:
    return row | {"vector": [row["vector"][0] + by, *row["vector"][1:]]}


def _hashed(row: Row, **changed: Any) -> Row:
    return row | changed | {"row_hash": row_hash_of(row | changed)}


HARM: dict[str, dict[str, Callable[[Row], list[Row]]]] = {
    "silver.chunks": {
        "lost": lambda row: [],
        "ghost": lambda row: [row, row | {"chunk_id": row["chunk_id"] + "-ghost"}],
        "text": lambda row: [row | {"text": "other"}],
        "embedded text": lambda row: [row | {"embed_text": row["embed_text"] + " "}],
        "count": lambda row: [row | {"token_count": None}],
        "headings": lambda row: [row | {"heading_path": ["", None]}],
        "no headings": lambda row: [row | {"heading_path": None}],
    },
    "gold.chunk_index": {
        "lost": lambda row: [],
        "ghost": lambda row: [row, row | {"chunk_id": row["chunk_id"] + "-ghost"}],
        "twice": lambda row: [row, row],
        "ghost twice": lambda row: [row, *[row | {"chunk_id": row["chunk_id"] + "-ghost"}] * 2],
        "text": lambda row: [row | {"text": "other"}],
        "text and hash": lambda row: [_hashed(row, text="other")],
        "title": lambda row: [_hashed(row, title=None)],
        "hash": lambda row: [row | {"row_hash": "f" * 64}],
        "no hash": lambda row: [row | {"row_hash": None}],
        "of no model": lambda row: [row | {"model": None}],
        "another text's hash": lambda row: [row | {"text_hash": "other"}],
        "near": lambda row: [_moved(row, 0.9e-5)],
        "vector": lambda row: [_moved(row, 1.2e-5)],
        "no number": lambda row: [_moved(row, float("nan"))],
        "no end": lambda row: [_moved(row, float("-inf"))],
        "no vector": lambda row: [row | {"vector": None}],
        "short": lambda row: [row | {"vector": row["vector"][1:]}],
    },
    "gold.embeddings": {
        "lost": lambda row: [],
        "twice": lambda row: [row, _moved(row, 0.5)],
        "vector": lambda row: [_moved(row, 0.5)],
        "no number": lambda row: [_moved(row, float("nan"))],
        "no vector": lambda row: [row | {"vector": None}],
        "another revision": lambda row: [row | {"revision": "other"}],
        "another dimension": lambda row: [row | {"dimension": 7}],
    },
}


@pytest.mark.long
def test_harm_to_any_table_is_the_same_in_memory_and_on_spark(tmp_path: Path, spark: SparkSession):
    settings = settings_for(tmp_path)
    for number in range(12):
        text = "\n\n".join(f"## Part {part}\n\nThe seal of part {part} is number {number}." for part in range(4))
        (tmp_path / "landing" / f"{number}.md").write_text(f"# Pump {number}\n\n{text}\n")
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    lake = new_context(settings).lake
    whole = {table: lake.read_arrow(table).to_pylist() for table in HARM}
    chance, kinds = random.Random(3), set[tuple[str, str]]()
    assert _found(settings) == _found_by_spark(settings) == []
    for _ in range(3):
        for table, harms in HARM.items():
            names = [*harms] * (len(whole[table]) // len(harms))
            chance.shuffle(names)
            rows = [new for row, name in zip(whole[table], names, strict=False) for new in harms[name](row)]
            new = pa.Table.from_pylist(rows, schema=lake.spec(table).schema)
            write_deltalake(str(lake.folder(table)), new, mode="overwrite")
        here, there = _found(settings), _found_by_spark(settings)
        assert {*here} ^ {*there} == set()
        assert len(here) == len(there), "each is named once"
        kinds |= {(found.where, found.kind) for found in here}
    assert {kind for where, kind in kinds if where == "silver.chunks"} == {"missing", "ghost", "stale"}
    assert {kind for where, kind in kinds if where == "chunks"} == {
        *("missing", "ghost", "duplicate", "stale", "wrong_vector")
    }


def _found(settings: Any) -> list[Difference]:
    """What is found without Spark."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_served_on_spark", "_wrong_on_spark"):
            patch.setattr(f"pipelines.operations.verify.{name}", None)
        return _tables(settings)


def _found_by_spark(settings: Any) -> list[Difference]:
    with by_spark():
        return _tables(settings)


def _tables(settings: Any) -> list[Difference]:
    """The differences between tables: those of an index have a test of their own."""
    found = verify(new_context(settings)).differences
    return [each for each in found if each.where in ("silver.chunks", "chunks")]
