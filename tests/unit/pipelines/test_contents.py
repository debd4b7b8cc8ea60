"""The bytes of arrivals, found in the files of bronze.documents without the JVM."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pytest

from pipelines.documents.contents import of_files, of_rows
from pipelines.documents.parse import Limits, parse_batches
from pipelines.lakehouse.open_folder import files_between
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings
from transformations.errors import LakeloopError

TABLE = "bronze.documents"
NOW = datetime(2024, 1, 1, tzinfo=timezone.utc)


def arrival(name: str, content: bytes | None, *, at: int = 0, rescued: str | None = None) -> dict[str, Any]:
    return {
        "document_id": name,
        "path": f"{name}.md",
        "source": "files",
        "op": "upsert",
        "content": content,
        "content_hash": sha256(content or b"").hexdigest(),
        "size": len(content or b""),
        "modified_at": NOW,
        "_rescued": rescued,
        "_ingested_at": NOW + timedelta(microseconds=at),
        "_run_id": "run",
    }


def named(rows: list[dict[str, Any]], lake: Lakehouse) -> list[pa.RecordBatch]:
    columns = pa.Table.from_pylist(rows, schema=lake.spec(TABLE).schema).drop_columns(["content", "op", "_run_id"])
    return columns.to_batches(max_chunksize=3)


@pytest.fixture
def lake(workspace: Settings) -> Lakehouse:
    def no_spark() -> Any:
        raise AssertionError("Spark is not needed")

    return open_lakehouse(workspace, spark=no_spark)


def test_each_row_finds_its_own_bytes_in_whatever_file_they_are(lake: Lakehouse):
    deliveries = [[arrival(f"d{n}", f"text {n} of {at}".encode(), at=at) for n in range(20)] for at in range(3)]
    deliveries[1].append(arrival("late", None, rescued="too_large: x"))
    deliveries[2].append(arrival("empty", b""))
    for rows in deliveries:
        lake.append_arrow(TABLE, rows)
    version = lake.head(TABLE).version  # type: ignore[union-attr]
    files = files_between(lake.folder(TABLE), after=None, until=version)
    assert len(files) == 3
    wanted = [row for rows in deliveries for row in rows if row["document_id"] not in ("d3", "d19")]
    found = {
        (row["document_id"], row["_ingested_at"]): content for row, content in of_files(named(wanted, lake), files)
    }
    assert found == {(row["document_id"], row["_ingested_at"]): row["content"] for row in wanted}
    # The files of a window hold its arrivals and no others; what was forgotten meanwhile is left out.
    last = files_between(lake.folder(TABLE), after=version - 1, until=version)
    assert len(last) == 1
    assert {row["document_id"] for row, _ in of_files(named(wanted, lake), last)} == {
        *(row["document_id"] for row in deliveries[2] if row in wanted),
        "late",
    }
    assert not list(of_files(named([arrival("forgotten", b"x")], lake), files))
    with pytest.raises(LakeloopError, match=r"no\.parquet, a file of bronze\.documents, cannot be read"):
        list(of_files(named(wanted, lake), [*files[:1], lake.folder(TABLE) / "no.parquet"]))
    rows = pa.Table.from_pylist(wanted, schema=lake.spec(TABLE).schema).to_batches()
    assert [content for _, content in of_rows(rows)] == [row["content"] for row in wanted]


def test_what_is_handed_back_at_once_is_bounded(lake: Lakehouse):
    lake.append_arrow(TABLE, [arrival(f"d{n}", b"word " * 300_000) for n in range(12)])
    rows = [arrival(f"d{n}", b"word " * 300_000) for n in range(12)]
    files = files_between(lake.folder(TABLE), after=None, until=1)
    batches = list(parse_batches(Limits(60, 512), files=files)(iter(named(rows, lake))))
    assert [batch.num_rows for batch in batches] == [3, 3, 3, 3]
    assert sorted(name for batch in batches for name in batch["document_id"].to_pylist()) == sorted(
        row["document_id"] for row in rows
    )
